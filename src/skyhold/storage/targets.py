"""The files that a pull writes: a part file beside each, which becomes the file by one atomic rename.

A part that an interrupted pull left behind, and the file that is there already, give what they have: a range of them
is taken only where its bytes match the chunk's id. Nothing is followed: a symbolic link below the target folder is an
error, so that a version cannot write outside it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from skyhold.buckets.user_path import absolute
from skyhold.errors import Corrupt, InvalidInput, PermissionDenied, QuotaExceeded, SkyholdError, Unavailable
from skyhold.storage.linked_files import LinkedFiles, read_exactly
from skyhold.storage.version_files import FileEntry
from skyhold.units import Buffer

_READ_BYTES: Final = 4 << 20


class Target:
    """One file being restored. `resume` and `reuse` may be called from several threads; the rest from one."""

    def __init__(self, root: Path, entry: FileEntry) -> None:
        self.entry = entry
        self._path = root.joinpath(*entry.path.split("/"))
        self._part = part_of(self._path, entry)
        self._descriptor, self._old = -1, -1
        _make_folders(root, self._path.parent)
        with named(self._path):
            _refuse_special(self._path)
        self._hash = hashlib.sha256()
        try:
            with named(self._path):
                self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._old = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._resumed = self._part.exists()
        self._descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.stat(self._part, follow_symlinks=False)  # noqa: PTH116  as the line below asks
            free = os.path.samestat(ours, os.fstat(self._descriptor))
        except (BlockingIOError, FileNotFoundError):
            free = False
        if not free:  # somebody holds it, or has made it the file since we opened it
            raise Unavailable(f"Another pull is writing {self._path}", code="target_busy", hint="Wait for it to end")
        os.ftruncate(self._descriptor, self.entry.size_bytes)

    def resume(self, start: int, length: int) -> bytes | None:
        """What the part of an interrupted pull has at `start`, unchecked; None where it has nothing there."""
        return read_exactly(self._descriptor, start, length) if self._resumed else None

    def reuse(self, start: int, length: int) -> bytes | None:
        """What the file that the target replaces has at `start`, unchecked; None where it has nothing there."""
        return read_exactly(self._old, start, length) if self._old >= 0 else None

    def write(self, start: int, data: Buffer) -> None:
        view = memoryview(data)
        with named(self._path):
            done = 0
            while done < len(view):
                done += os.pwrite(self._descriptor, view[done:], start + done)

    def hash(self, data: Buffer) -> None:
        """Feed the next bytes of the file, in order."""
        self._hash.update(data)

    def finish(self, kept_in: LinkedFiles | None = None) -> None:
        """Make the part the file, and keep it by a link. Raises `Corrupt` where the whole does not match the version's
        digest."""
        if self._hash.hexdigest() != self.entry.sha256:
            self.close()
            self._part.unlink(missing_ok=True)
            raise Corrupt(
                f"File {self.entry.path} does not match the digest of its version; it was not written",
                code="file_damaged",
                hint="Run `skyhold verify --deep`",
                path=self.entry.path,
            )
        with named(self._path):
            mode = stat.S_IMODE(os.fstat(self._descriptor).st_mode)
            if self.entry.executable:
                os.fchmod(self._descriptor, mode | (mode & 0o444) >> 2)
            if kept_in is not None:
                kept_in.keep(self._part, self.entry.sha256)
            self._part.rename(self._path)
        self.close()

    def close(self) -> None:
        """Close what is open; the part stays for the next try."""
        for descriptor in (self._descriptor, self._old):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor, self._old = -1, -1


def is_current(root: Path, entry: FileEntry) -> bool:
    """Whether the file is there already, byte for byte, and executable where it shall be."""
    path = root.joinpath(*entry.path.split("/"))
    digest = hashlib.sha256()
    try:
        status = path.stat(follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size_bytes:
            return False
        if bool(status.st_mode & stat.S_IXUSR) != entry.executable:
            return False
        with path.open("rb", buffering=0) as file:
            while part := file.read(_READ_BYTES):
                digest.update(part)
    except OSError:
        return False
    return digest.hexdigest() == entry.sha256


def missing_bytes(root: Path, entry: FileEntry) -> int:
    """How much a file still needs on disk, what the part of an interrupted pull occupies taken off."""
    with contextlib.suppress(OSError):
        part = part_of(root.joinpath(*entry.path.split("/")), entry)
        return max(0, entry.size_bytes - part.stat(follow_symlinks=False).st_blocks * 512)
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
            code="disk_full",
            hint="Free some space, or pull fewer files with --include",
        )


def _make_folders(root: Path, folder: Path) -> None:
    with named(folder):
        root.mkdir(parents=True, exist_ok=True)
        current = root
        for part in folder.relative_to(root).parts:
            current /= part
            _refuse_link(current)
            current.mkdir(exist_ok=True)


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise InvalidInput(
            f"{path} is a symbolic link, which a pull does not follow",
            code="target_is_link",
            hint="Remove it, or pull elsewhere",
        )


def _refuse_special(path: Path) -> None:
    _refuse_link(path)
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise InvalidInput(
            f"{path} is {what}, where a file shall be written", code="target_special", hint="Pull elsewhere"
        )


def part_of(path: Path, entry: FileEntry) -> Path:
    """The part beside a file. Hashed, because a name may already be as long as names can be."""
    return path.with_name(f".{hashlib.sha256(path.name.encode()).hexdigest()[:16]}-{entry.sha256[:16]}.skyhold-part")


class named:  # noqa: N801  reads as a verb at its place of use
    """Errors of the operating system become ours, naming the path."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            kind_of, code = _ERRORS.get(error.errno or 0, (InvalidInput, "target_unwritable"))
            raise kind_of(f"{self._path} cannot be written: {error.strerror}", code=code) from error


_ERRORS: Final[dict[int, tuple[type[SkyholdError], str]]] = {
    errno.ENOSPC: (QuotaExceeded, "disk_full"),
    errno.EDQUOT: (QuotaExceeded, "disk_full"),
    errno.EACCES: (PermissionDenied, "target_unwritable"),
    errno.EPERM: (PermissionDenied, "target_unwritable"),
    errno.EROFS: (PermissionDenied, "target_unwritable"),
}
