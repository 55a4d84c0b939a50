"""The paths of a version's files (format.md, 9): the same on every system, wherever they are restored. Pure."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from typing import Final

PATH_BYTES_MAX: Final = 1024
PART_BYTES_MAX: Final = 255
PART_SUFFIX: Final = ".skyhold-part"
"""Of part files of pulls. No path of a version has a part with this ending."""

_IGNORED_BY_HFS: Final = dict.fromkeys([*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF])


def path_fault(path: str) -> str | None:
    """Why `path` can be no path of a version, as the end of a sentence, or None where it can."""
    try:
        encoded = path.encode("utf-8")
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if len(encoded) > PATH_BYTES_MAX:
        return f"its path is longer than {PATH_BYTES_MAX} bytes"
    if "\\" in path or any(unicodedata.category(character) == "Cc" for character in path):
        return "its name has a backslash or a control character"
    return next(filter(None, map(_part_fault, path.split("/"))), None)


def _part_fault(part: str) -> str | None:
    if part in {"", ".", ".."}:
        return "its path has an empty part, `.` or `..`"
    if len(part.encode()) > PART_BYTES_MAX:
        return f"a part of its path is longer than {PART_BYTES_MAX} bytes"
    if is_reserved(part):
        return f"names that end in `{PART_SUFFIX}` are for what a pull has under way"
    return None


def is_reserved(part: str) -> bool:
    """Whether a part of a path is a name that is reserved for the part files of pulls."""
    return plainest(part).endswith(PART_SUFFIX)


def plainest(part: str) -> str:
    """A part of a path reduced to what every file system distinguishes: HFS+ ignores some code points, NTFS ignores
    dots and spaces at the end and takes what follows a colon for the name of a stream, and both ignore case."""
    return folded(part.translate(_IGNORED_BY_HFS).partition(":")[0].rstrip(" ."))


def on_disk(path: str) -> str:
    """The name of a file as this process gives it to the system: its UTF-8 bytes, in whatever locale."""
    return os.fsdecode(path.encode())


def as_stored(name: str) -> str:
    """The inverse: the path of a name that the system returned. Bytes that are not UTF-8 become surrogates."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def printable(path: str) -> str:
    """A path as it may be displayed."""
    return path if path.isprintable() else ascii(path)


def folded(path: str) -> str:
    """A path as a file system compares it that ignores case and Unicode form. (Folding can undo a normal form.)"""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def colliding_paths(paths: Iterable[str]) -> list[tuple[str, str]]:
    """The paths of a version that collide with another one after Unicode NFC and case folding: it is the same, or a
    folder of that name. Each with its reason."""
    first: dict[str, str] = {}
    collisions: list[tuple[str, str]] = []
    for path in sorted(paths):
        fold = folded(path)
        if fold in first:
            collisions.append((path, f"it is the same name as `{first[fold]}` where case or Unicode form do not count"))
        else:
            first[fold] = path
    for fold, path in first.items():
        parts = fold.split("/")
        for depth in range(1, len(parts)):
            other_file = first.get("/".join(parts[:depth]))
            if other_file is not None:
                collisions.append((path, f"file `{other_file}` has the name of its folder"))
                break
    return collisions
