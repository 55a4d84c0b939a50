"""Walk a folder's files in the byte order of their keys, without reading folders that cannot hold any wanted one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from skyhold.buckets.bucket import check_key
from skyhold.errors import InvalidInput


def walk(root: Path, prefix: str, after: str) -> Iterator[tuple[str, os.stat_result]]:
    """Keys with `prefix` and past `after`, ascending, with the status of their files.

    A folder sorts as its name and `/`: so `a-b` comes before `a/b`, as in every store. Links, special files and names
    that are no keys are passed over, and so is what disappears meanwhile.
    """
    yield from _walk(root, "", prefix, after)


def stamp_of(status: os.stat_result) -> str:
    """What changes with every write to a file: nobody sets the time of its last change (`ctime`) at will."""
    return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"


def _walk(folder: Path, above: str, prefix: str, after: str) -> Iterator[tuple[str, os.stat_result]]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(
                (above + entry.name + ("/" if entry.is_dir(follow_symlinks=False) else ""), entry) for entry in entries
            )
    except (FileNotFoundError, NotADirectoryError):
        if not above:
            raise
        return
    for path, entry in found:
        if path.endswith("/"):
            wanted = path.startswith(prefix) or prefix.startswith(path)
            if wanted and (path > after or after.startswith(path)):
                yield from _walk(folder / entry.name, path, prefix, after)
        elif path.startswith(prefix) and path > after and entry.is_file(follow_symlinks=False) and _is_key(path):
            try:
                yield path, entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue


def _is_key(path: str) -> bool:
    try:
        check_key(path)
    except InvalidInput:
        return False
    return True
