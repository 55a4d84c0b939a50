"""The port between a push and what it reads: files that are known by path and size, and are read at any offset.

A push reads each file more than once: the headers of tensors first, then every byte, and again where it has to begin
anew. So a source that can be read once only (a pipe, a compressed archive) is spooled before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Protocol

from skyhold import error_codes
from skyhold.errors import Conflict
from skyhold.units import MIB

_STEP_BYTES: Final = MIB


class OpenFile(Protocol):
    """A source that is open for reading. Not thread-safe."""

    def read_into(self, view: memoryview, start: int) -> None:
        """Fill `view` with the bytes from `start` on. Raises `Conflict` code `source_changed` where there are fewer
        now, and `Unavailable` code `source_unreadable`."""

    def check_unchanged(self) -> None:
        """Raise `Conflict` code `source_changed` where it has changed since it was found, as far as that can be
        detected. Call it after the last byte was read."""

    def close(self) -> None: ...


class SourceFile(Protocol):
    """A file to push. `path` is its name in the version."""

    @property
    def path(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def executable(self) -> bool: ...

    def open(self) -> OpenFile:
        """Open it for reading. Raises `Conflict` code `source_changed` and `PermissionDenied`."""


@dataclass(frozen=True, slots=True)
class Source:
    """The files in order of the UTF-8 bytes of their paths, the paths that rules left out (folders end in `/`), and
    those that are no part of a model, each with the reason. Use as a context manager: `resources` end with it."""

    files: tuple[SourceFile, ...]
    ignored: tuple[str, ...]
    left_out: Mapping[str, str]
    resources: ExitStack = field(default_factory=ExitStack)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.resources.close()


def filled(view: memoryview, start: int, read_at: Callable[[memoryview, int], int]) -> bool:
    """Fill `view` by as many calls of `read_at(rest, offset)` as it takes, each of which returns how many bytes it has
    read; returns whether there were enough."""
    done = 0
    while done < len(view):
        count = read_at(view[done:], start + done)
        if count == 0:
            return False
        done += count
    return True


def read_bytes(opened: OpenFile, start: int, length: int) -> bytes:
    """The bytes `[start, start + length)` of an open file."""
    buffer = bytearray(length)
    opened.read_into(memoryview(buffer), start)
    return bytes(buffer)


def sha256_of(file: SourceFile) -> str:
    """The SHA-256 of a file's bytes, in hex. Raises as `OpenFile` does."""
    digest, opened = sha256(), file.open()
    try:
        buffer = memoryview(bytearray(_STEP_BYTES))
        for start in range(0, file.size_bytes, _STEP_BYTES):
            view = buffer[: min(_STEP_BYTES, file.size_bytes - start)]
            opened.read_into(view, start)
            digest.update(view)
        opened.check_unchanged()
    finally:
        opened.close()
    return digest.hexdigest()


def changed(path: str, where: object, how: str = "changed") -> Conflict:
    """The error of a source file that has changed since it was found; `where` names it for the user."""
    return Conflict(
        f"File {where} {how} while it was being pushed; no ref was moved",
        code=error_codes.SOURCE_CHANGED,
        hint="Wait until it is written, then push again: what had arrived is not sent again",
        path=path,
    )
