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

from skyhold.errors import Corrupt, InvalidInput, PermissionDenied, QuotaExceeded, SkyholdError, Unavailable
from skyhold.storage.version_files import FileEntry

_READ_BYTES: Final = 4 << 20


class Target:
    """One file being restored. `write` and `local` may be called from several threads; the rest from one."""

    def __init__(self, root: Path, entry: FileEntry) -> None:
        self.entry = entry
        self._path = root.joinpath(*entry.path.split("/"))
        self._part = self._path.with_name(f".{self._path.name[:200]}.{entry.sha256[:16]}.skyhold-part")
        _make_folders(root, self._path.parent)
        _refuse_link(self._path)
        self._hash = hashlib.sha256()
        with named(self._path):
            self._old = self._open_old()
            self._resumed = self._part.exists()
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(self._part, flags, 0o666)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.close()
                raise Unavailable(f"Another pull is writing {self._path}", code="target_busy") from None
            os.ftruncate(self._descriptor, entry.size_bytes)

    def local(self, start: int, length: int) -> list[tuple[bytes, bool]]:
        """Bytes that the target folder has at this place, to be checked by the caller, each with whether they already
        lie in the part."""
        found = []
        if self._resumed:
            found.append((os.pread(self._descriptor, length, start), True))
        if self._old is not None:
            found.append((os.pread(self._old, length, start), False))
        return found

    def write(self, start: int, data: memoryview) -> None:
        with named(self._path):
            done = 0
            while done < len(data):
                done += os.pwrite(self._descriptor, data[done:], start + done)

    def hash(self, data: memoryview) -> None:
        """Feed the next bytes of the file, in order."""
        self._hash.update(data)

    def finish(self) -> None:
        """Make the part the file. Raises `Corrupt` where the whole does not match the version's digest."""
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
            self._part.rename(self._path)
        self.close()

    def close(self) -> None:
        """Close what is open; the part stays for the next try."""
        for descriptor in (self._descriptor, self._old):
            if descriptor is not None:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._old = None
        self._descriptor = -1

    def _open_old(self) -> int | None:
        try:
            return os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None


def is_current(root: Path, entry: FileEntry) -> bool:
    """Whether the file is there already, byte for byte."""
    path = root.joinpath(*entry.path.split("/"))
    digest = hashlib.sha256()
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size != entry.size_bytes:
            return False
        with path.open("rb", buffering=0) as file:
            while part := file.read(_READ_BYTES):
                digest.update(part)
    except OSError:
        return False
    return digest.hexdigest() == entry.sha256


def check_space(root: Path, wanted_bytes: int) -> None:
    """Raise `QuotaExceeded` where the disk of the target folder cannot take this much."""
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    free_bytes = os.statvfs(existing).f_bavail * os.statvfs(existing).f_frsize
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
            f"{path} is a symbolic link, which a pull does not follow", code="target_is_link", hint="Remove it, or pull elsewhere"
        )  # fmt: skip
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InvalidInput(f"{path} is neither a file nor a folder", code="target_special", hint="Pull elsewhere")


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
