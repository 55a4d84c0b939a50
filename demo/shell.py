"""Runs the commands of the demo as a person would type them, and shows what they print."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

COMMAND_TIMEOUT_S: Final = 300
TERMINAL_COLUMNS: Final = 120


class CommandFailedError(RuntimeError):
    """A command ended with an unexpected status. The message contains all of its output."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command printed, stdout and stderr as they came, and how long it took."""

    text: str
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class DemoShell:
    """A folder to work in and an environment of its own: of the person's settings of Skyhold nothing gets in."""

    folder: Path
    variables: Mapping[str, str]

    def skyhold(self, *arguments: str, status: int = 0, lines: int | None = None) -> Answer:
        """Print the command line, run it, and print its output; of more than `lines` lines the first ones.

        Raises `CommandFailedError` where it does not end with `status`.
        """
        typed = shlex.join(["skyhold", *arguments])
        show(f"$ {typed}")
        began_s = time.monotonic()
        ended = subprocess.run(  # noqa: S603 - our own program, with arguments from this folder
            [sys.executable, "-m", "skyhold", *arguments],
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        elapsed_s = time.monotonic() - began_s
        if ended.returncode != status:
            raise CommandFailedError(
                f"`{typed}` ended with status {ended.returncode}, not {status}, and printed:\n{ended.stdout}"
            )
        _show(ended.stdout, lines)
        if status:
            show(f"  (exit status {status}, as it should be)")
        return Answer(ended.stdout, elapsed_s)

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SKYHOLD_")}
        # Unbuffered, so that stdout and stderr come in the order in which they were written.
        return inherited | {"PYTHONUNBUFFERED": "1", "COLUMNS": str(TERMINAL_COLUMNS)} | dict(self.variables)


def show(text: str = "") -> None:
    """Print at once, even without a terminal."""
    print(text, flush=True)


def _show(text: str, lines: int | None) -> None:
    printed = text.splitlines()
    for line in printed[:lines]:
        show(f"  {line}")
    if lines is not None and len(printed) > lines:
        show(f"  … {len(printed) - lines} more lines")
