"""Machines and clouds for the end-to-end tests: their state folders, and folders that simulate clouds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CLOUDS = ("a", "b", "c")


@dataclass(frozen=True)
class Machine:
    """A machine is its state folder and its cache: a process that uses them is this machine."""

    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        return {
            "SKYHOLD_STATE": str(self.folder / "state"),
            "SKYHOLD_CACHE": str(self.folder / "cache"),
            "SKYHOLD_AUTHOR": "Ada <ada@example.org>",
            "XDG_CONFIG_HOME": str(self.folder / "config"),
        }

    @contextmanager
    def at_work(self) -> Iterator[Machine]:
        """Be this machine inside the block."""
        before = dict(os.environ)
        for name in ("SKYHOLD_STORE", "SKYHOLD_CONFIG", "SKYHOLD_KEY_FILE", "SKYHOLD_PASSPHRASE"):
            os.environ.pop(name, None)
        os.environ.update(self.environ)
        try:
            yield self
        finally:
            os.environ.clear()
            os.environ.update(before)


@dataclass(frozen=True)
class Scene:
    """Clouds and the machine that works with them, in one folder that can be kept and put back as it was."""

    place: Path

    @property
    def machine(self) -> Machine:
        return Machine(self.place / "machine")

    def cloud(self, name: str) -> Path:
        return self.place / "clouds" / name

    def clouds(self) -> list[str]:
        return [str(self.cloud(name)) for name in CLOUDS]

    def lose(self, name: str) -> None:
        """The cloud is gone, marker and all."""
        shutil.rmtree(self.cloud(name))

    def empty(self, name: str) -> None:
        """The cloud is there, with nothing in it."""
        shutil.rmtree(self.cloud(name), ignore_errors=True)
        self.cloud(name).mkdir()

    def keep(self, name: str) -> None:
        """Keep everything as it is now under a name."""
        shutil.rmtree(self._kept(name), ignore_errors=True)
        shutil.copytree(self.place, self._kept(name))

    def put_back(self, name: str, *, cloud: str | None = None) -> None:
        """Everything, or one cloud, as it was when it was kept."""
        target = self.place if cloud is None else self.cloud(cloud)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self._kept(name) / target.relative_to(self.place), target)

    def _kept(self, name: str) -> Path:
        return self.place.with_name(f"{self.place.name}-{name}")
