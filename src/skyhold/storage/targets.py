"""The files that a pull writes: each a part first, which becomes the file by one atomic rename.

A part that an interrupted pull left behind, and the existing file are reused: a range of them is taken only where its
bytes match the chunk's id.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Final

from skyhold import error_codes
from skyhold.buckets.user_path import absolute
from skyhold.errors import Corrupt, QuotaExceeded
from skyhold.storage.file_entry import FileEntry
from skyhold.storage.linked_files import LinkedFiles, read_exactly
from skyhold.storage.parts import part_name, part_path
from skyhold.storage.paths import on_disk
from skyhold.storage.target_folder import Identity, TargetFolder, named
from skyhold.units import Buffer

_PERMISSIONS: Final = 0o777


class Target:
    """One file being restored, where `before` was. `resume` and `reuse` may be called from several threads; the rest
    from one."""

    def __init__(self, folder: TargetFolder, entry: FileEntry, before: Identity | None) -> None:
        self.entry = entry
        self._folder, self._before = folder, before
        self._path = folder.path / on_disk(entry.path)
        self._hash = hashlib.sha256()
        self._old = -1
        with named(self._path):
            self._part = folder.open_part(entry.path, part_name(entry))
            try:
                os.ftruncate(self._part.descriptor, entry.size_bytes)
                self._old = folder.open_old(entry.path)
            except BaseException:
                self.close()
                raise

    def resume(self, start: int, length: int) -> bytes | None:
        """What the part of an interrupted pull has at `start`, unchecked; None where it has nothing there."""
        return read_exactly(self._part.descriptor, start, length) if self._part.resumed else None

    def reuse(self, start: int, length: int) -> bytes | None:
        """What the file that the target replaces has at `start`, unchecked; None where it has nothing there."""
        return read_exactly(self._old, start, length) if self._old >= 0 else None

    def write(self, start: int, data: Buffer) -> None:
        view = memoryview(data)
        with named(self._path):
            done = 0
            while done < len(view):
                done += os.pwrite(self._part.descriptor, view[done:], start + done)

    def hash(self, data: Buffer) -> None:
        """Feed the next bytes of the file, in order."""
        self._hash.update(data)

    def finish(self, kept_in: LinkedFiles | None = None) -> None:
        """Make the part the file, with the mode that the file had, and keep it by a link. Raises `Corrupt` where the
        whole does not match the version's digest."""
        if self._hash.hexdigest() != self.entry.sha256:
            self._part.discard()
            self.close()
            raise Corrupt(
                f"File {self.entry.path} does not match the digest of its version; it was not written",
                code=error_codes.FILE_DAMAGED,
                hint="Run `skyhold verify --deep`",
                path=self.entry.path,
            )
        with named(self._path):
            mode = os.fstat(self._old if self._old >= 0 else self._part.descriptor).st_mode & _PERMISSIONS
            runs = (mode & 0o444) >> 2 if self.entry.executable else 0
            os.fchmod(self._part.descriptor, mode & ~0o111 | runs)
            if kept_in is not None:
                kept_in.keep(self._part, self.entry.sha256)
            self._folder.publish(self._part, self.entry.path, self._before)
        self.close()

    def close(self) -> None:
        """Close what is open; the part stays for the next try."""
        if self._old >= 0:
            os.close(self._old)
            self._old = -1
        self._part.close()


def missing_bytes(root: Path, entry: FileEntry) -> int:
    """How much a file still needs on disk, what the part of an interrupted pull occupies taken off."""
    with contextlib.suppress(OSError):
        part = part_path(root, entry).stat(follow_symlinks=False)
        return max(0, entry.size_bytes - part.st_blocks * 512)
    return entry.size_bytes


def check_space(root: Path, wanted_bytes: int) -> None:
    """Raise `QuotaExceeded` where the disk of the target folder cannot take this much."""
    existing = next(folder for folder in (root, *absolute(root).parents) if folder.exists())
    with named(root):
        disk = os.statvfs(existing)
    free_bytes = disk.f_bavail * disk.f_frsize
    if wanted_bytes > free_bytes:
        raise QuotaExceeded(
            f"Folder {root} needs {wanted_bytes} bytes but its disk has {free_bytes} free; nothing was written",
            code=error_codes.DISK_FULL,
            hint="Free some space, or pull fewer files with --include",
        )
