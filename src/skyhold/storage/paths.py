"""The paths of a version's files (format.md, 9): the same on every system, wherever they are restored. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Final

PATH_BYTES_MAX: Final = 1024
PART_BYTES_MAX: Final = 255


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
    for part in path.split("/"):
        if part in {"", ".", ".."}:
            return "its path has an empty part, `.` or `..`"
        if len(part.encode()) > PART_BYTES_MAX:
            return f"a part of its path is longer than {PART_BYTES_MAX} bytes"
    return None


def folded(path: str) -> str:
    """What a path is on a file system that knows neither case nor Unicode form. (Folding can undo a normal form.)"""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def colliding_paths(paths: Iterable[str]) -> list[tuple[str, str]]:
    """The paths of a version that another one takes the place of after Unicode NFC and case folding: it is the same,
    or a folder of that name. Each with its reason."""
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
