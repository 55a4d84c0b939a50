"""The ways in which an object can be other than what was stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from skyhold.units import GIB
from tests.endtoend.machines import CLOUDS
from tests.hostile.world import World

OVERSIZE_BYTES: Final = 6 * GIB
"""Of a sparse file: more than any object may have, and than the memory that a command may take (`cells.py`)."""

Change = Callable[[bytes], bytes]


def _flipped(share: float) -> Change:
    def change(body: bytes) -> bytes:
        at = min(int(len(body) * share), len(body) - 1)
        return body[:at] + bytes([body[at] ^ 0x10]) + body[at + 1 :]

    return change


CHANGES: Final[Mapping[str, Change]] = {
    "flip-first": _flipped(0.0),
    "flip-third": _flipped(0.33),
    "flip-middle": _flipped(0.5),
    "flip-late": _flipped(0.8),
    "flip-last": _flipped(1.0),
    "truncate-half": lambda body: body[: len(body) // 2],
    "truncate-last": lambda body: body[:-1],
    "empty": lambda _: b"",
    "extend-byte": lambda body: body + b"\0",
    "extend-double": lambda body: body * 2,
}
"""Damages that are a function of the bytes."""
DAMAGES: Final = (*CHANGES, "flip-apart", "delete", "swap-kind", "swap-other", "replay", "oversize")
"""`flip-apart` flips another place in each bucket; `swap-kind` puts another intact object of the same kind there,
`swap-other` one of another kind; `replay` what the bucket held under this key before."""


@dataclass(frozen=True)
class Damage:
    """One damage of the subject of a kind, in some buckets (a word of their names, such as "ab")."""

    kind: str
    name: str
    clouds: str

    def applies(self, world: World) -> bool:
        """Whether it changes anything at all: not every kind has another object, or an older state."""
        key = world.subjects.get(self.kind)
        if key is None or (self.name == "flip-apart" and len(self.clouds) == 1):
            return False
        if self.name == "swap-kind":
            return bool(world.others[self.kind]) or key == "store.json"
        if self.name == "replay":
            older = world.older.get(key, {})
            return any(older.get(cloud, body) != body for cloud, body in self._bodies(world).items())
        return True

    def apply(self, world: World) -> None:
        """Damage the store. Of `flip-apart` each bucket at its own place."""
        key = world.subjects[self.kind]
        for cloud, body in self._bodies(world).items():
            path = world.scene.cloud(cloud) / key
            if self.name == "delete":
                path.unlink()
            elif self.name == "oversize":
                with path.open("r+b") as file:
                    file.truncate(OVERSIZE_BYTES)
            else:
                replacement = self._replacement(world, cloud, body)
                path.unlink()  # a new file: see `signature_of`
                path.write_bytes(replacement)

    def _replacement(self, world: World, cloud: str, body: bytes) -> bytes:
        key = world.subjects[self.kind]
        if self.name in CHANGES:
            return CHANGES[self.name](body)
        if self.name == "flip-apart":
            return _flipped({"a": 0.35, "b": 0.6, "c": 1.0}[cloud])(body)
        if self.name == "replay":
            return world.older[key][cloud]
        if self.name == "swap-kind" and key == "store.json":  # of the next bucket
            return (world.scene.cloud(CLOUDS[(CLOUDS.index(cloud) + 1) % 3]) / key).read_bytes()
        other = world.others[self.kind] if self.name == "swap-kind" else _other_kind(world, self.kind)
        return (world.scene.cloud(cloud) / other).read_bytes()

    def _bodies(self, world: World) -> dict[str, bytes]:
        paths = {cloud: Path(world.scene.cloud(cloud)) / world.subjects[self.kind] for cloud in self.clouds}
        return {cloud: path.read_bytes() for cloud, path in paths.items()}


def _other_kind(world: World, kind: str) -> str:
    return world.subjects["layout" if kind != "layout" else "version"]
