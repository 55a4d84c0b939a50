"""Files of this machine as sources, and ranges of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from skyhold import error_codes
from skyhold.errors import PermissionDenied, Unavailable
from skyhold.storage.sources.port import OpenFile, changed, filled


@dataclass(frozen=True, slots=True)
class DiskFile:
    """A regular file. `absolute` is where its bytes are (links resolved); it is the same file as long as size, times
    and inode are."""

    path: str
    absolute: Path
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    executable: bool

    @classmethod
    def of(cls, path: str, absolute: Path, status: os.stat_result) -> DiskFile:
        return cls(
            path=path,
            absolute=absolute,
            size_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            ctime_ns=status.st_ctime_ns,
            inode=status.st_ino,
            executable=bool(status.st_mode & 0o100),
        )

    def open(self) -> OpenDiskFile:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            opened = OpenDiskFile(self, os.open(self.absolute, flags))
        except PermissionError as error:
            raise PermissionDenied(
                f"File {self.absolute} cannot be read", code=error_codes.SOURCE_UNREADABLE
            ) from error
        except OSError as error:
            raise changed(self.path, self.absolute) from error
        try:
            opened.check_unchanged()
        except BaseException:
            opened.close()
            raise
        return opened


class OpenDiskFile:
    """A `DiskFile` that is open."""

    def __init__(self, file: DiskFile, descriptor: int) -> None:
        self._file, self._descriptor = file, descriptor

    def read_into(self, view: memoryview, start: int) -> None:
        if not filled(view, start, self._read_at):
            raise changed(self._file.path, self._file.absolute, "became shorter")

    def check_unchanged(self) -> None:
        status, file = os.fstat(self._descriptor), self._file
        now = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        if now != (file.size_bytes, file.mtime_ns, file.ctime_ns, file.inode):
            raise changed(file.path, file.absolute)

    def close(self) -> None:
        os.close(self._descriptor)

    def _read_at(self, view: memoryview, start: int) -> int:
        try:
            return os.preadv(self._descriptor, [view], start)
        except OSError as error:
            raise Unavailable(
                f"File {self._file.absolute} cannot be read: {error.strerror}", code=error_codes.SOURCE_UNREADABLE
            ) from error


@dataclass(frozen=True, slots=True)
class RangeFile:
    """A file that is a range of an open one: a member of an archive, or what was spooled. It does not close that."""

    path: str
    size_bytes: int
    executable: bool
    holder: OpenFile
    start: int

    def open(self) -> OpenFile:
        return _OpenRange(self)


class _OpenRange:
    def __init__(self, file: RangeFile) -> None:
        self._file = file

    def read_into(self, view: memoryview, start: int) -> None:
        self._file.holder.read_into(view, self._file.start + start)

    def check_unchanged(self) -> None:
        self._file.holder.check_unchanged()

    def close(self) -> None:
        """Leave the holder open, which other ranges share."""
