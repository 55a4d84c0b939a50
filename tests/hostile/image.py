"""A folder that is put back as it was, quickly: it is kept in memory, and only what has changed is written anew."""

from __future__ import annotations

import os
from pathlib import Path

Signature = tuple[int, ...]


class Image:
    """Everything below a folder, as it was when this was made. It has no links."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._folders = {path for path in place.rglob("*") if path.is_dir()}
        self._bodies = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
        self._modes = {path: path.stat().st_mode for path in self._bodies}
        self._signatures = {path: signature_of(path.lstat()) for path in self._bodies}

    def put_back(self) -> None:
        """What was changed or deleted is written anew, what was added is deleted."""
        changed = dict(self._bodies)
        added = []
        for path in self._place.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                if path not in self._folders:
                    added.append(path)
            elif path not in changed:
                path.unlink()
            elif signature_of(path.lstat()) == self._signatures[path]:
                del changed[path]
        for folder in reversed(added):
            folder.rmdir()
        for folder in self._folders:
            folder.mkdir(parents=True, exist_ok=True)
        for path, body in changed.items():
            path.unlink(missing_ok=True)
            path.write_bytes(body)
            path.chmod(self._modes[path])
            self._signatures[path] = signature_of(path.lstat())


def signature_of(found: os.stat_result) -> Signature:
    """What every change of a file changes; one that follows within a tick of the clock has to be a new file."""
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
