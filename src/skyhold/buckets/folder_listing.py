"""Walk a folder's files in the byte order of their keys, without reading folders that cannot hold any wanted one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from skyhold.buckets import bounded
from skyhold.buckets.bounded import misbehaves
from skyhold.buckets.bucket import KEY_BYTES_MAX, is_key
from skyhold.buckets.folder_errors import link_in_bucket


def stamp_of(status: os.stat_result) -> str:
    """What changes with every write to a file: no process can set the time of its last change (`ctime`)."""
    return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"


class Walk:
    """One listing of a bucket: keys with `prefix` and past `after`.

    A folder sorts as its name and `/`: so `a-b` comes before `a/b`, as in every store. Special files and names that are
    no keys are skipped, and so is what disappears meanwhile. A link in the place of an object is none, and is replaced
    when the object is written. One in the place of a folder would hide what is wanted of it, so it is refused
    (`link_in_bucket`); a listing of everything skips it.
    """

    def __init__(self, bucket: str, prefix: str, after: str) -> None:
        self._bucket, self._prefix, self._after = bucket, prefix, after
        self._entries = 0

    def below(self, root: Path) -> Iterator[tuple[str, os.stat_result]]:
        """The keys, ascending, with the status of their files. The root may be a link, nothing in it."""
        return self._walk(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), "")

    def _walk(self, folder: int, above: str) -> Iterator[tuple[str, os.stat_result]]:
        """Closes `folder`."""
        try:
            for path, entry in self._found(folder, above):
                if path.endswith("/"):
                    yield from self._inner(folder, entry.name, path)
                elif entry.is_file(follow_symlinks=False) and is_key(path):
                    try:
                        yield path, entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
        finally:
            os.close(folder)

    def _inner(self, folder: int, name: str, path: str) -> Iterator[tuple[str, os.stat_result]]:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            inner = os.open(name, flags, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        yield from self._walk(inner, path)

    def _found(self, folder: int, above: str) -> list[tuple[str, os.DirEntry[str]]]:
        """What of a folder may be wanted, in order."""
        found = []
        with os.scandir(folder) as entries:
            for entry in entries:
                self._entries += 1
                if self._entries > bounded.LISTED_KEYS_MAX:
                    raise misbehaves(self._bucket, f"has more than {bounded.LISTED_KEYS_MAX} files and folders")
                path = above + entry.name + ("/" if entry.is_dir(follow_symlinks=False) else "")
                if self._prefix and entry.is_symlink() and self._hides_folder(path, entry):
                    raise link_in_bucket(self._bucket, path)
                if len(path) <= KEY_BYTES_MAX and self._may_be_wanted(path):
                    found.append((path, entry))
        return sorted(found, key=lambda item: item[0])

    def _hides_folder(self, path: str, entry: os.DirEntry[str]) -> bool:
        """Whether a link is where a wanted folder should be: on the way to the prefix, or below it."""
        return self._prefix.startswith(f"{path}/") or (path.startswith(self._prefix) and entry.is_dir())

    def _may_be_wanted(self, path: str) -> bool:
        if not path.endswith("/"):
            return path.startswith(self._prefix) and path > self._after
        wanted = path.startswith(self._prefix) or self._prefix.startswith(path)
        return wanted and (path > self._after or self._after.startswith(path))
