"""The members of a zip, which are spooled: each is decompressed once, and its checksum checked."""

from __future__ import annotations

import posixpath
import stat
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Final, cast

from skyhold.storage.sources.gathering import too_many_files
from skyhold.storage.sources.holder import BudgetSpent, HolderFile
from skyhold.storage.sources.member import MEMBERS_MAX, Member, damaged, plain_path, too_large
from skyhold.storage.sources.spool import Spool
from skyhold.storage.sources.stream import STEP_BYTES

DIRECTORY_BYTES_MAX: Final = 64 << 20
_ENTRY: Final = b"PK\x01\x02"
_UNIX: Final = 3
_ENCRYPTED: Final = 1
_LINK_BYTES_MAX: Final = 4096
_READABLE: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})


def read_zip(name: str, file: HolderFile, spool: Spool, limit_bytes: int) -> Iterator[Member]:
    """The members in their order, folders left out; the bytes of files are appended to `spool`. Raises `InvalidInput`:
    `archive_damaged`, `archive_too_large`, `too_many_files`."""
    directory = _Directory(file)
    try:
        with zipfile.ZipFile(cast("IO[bytes]", directory)) as archive:
            file.budget_bytes = None
            members = [found for found in archive.infolist() if not found.is_dir()]
            if sum(found.file_size for found in members) > limit_bytes:
                raise too_large(name, limit_bytes)
            for found in members:
                path = plain_path(found.filename)
                if found.orig_filename.partition("\0")[0] != found.orig_filename:
                    yield Member(path, fault="its name contains a NUL")
                else:
                    yield _member(name, path, archive, found, spool)
    except BudgetSpent:
        raise damaged(name, f"its directory is longer than {DIRECTORY_BYTES_MAX} bytes") from None
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError, NotImplementedError, OverflowError) as error:
        raise damaged(name, str(error)) from error


def _member(name: str, path: str, archive: zipfile.ZipFile, found: zipfile.ZipInfo, spool: Spool) -> Member:
    mode = found.external_attr >> 16 if found.create_system == _UNIX else 0
    if found.flag_bits & _ENCRYPTED:
        return Member(path, fault="it is encrypted")
    if found.compress_type not in _READABLE:
        return Member(path, fault="it is compressed in a way that is not read here")
    if stat.S_ISLNK(mode):
        with archive.open(found) as opened:
            target = opened.read(_LINK_BYTES_MAX).decode("utf-8", "surrogateescape")
        return Member(path, link=posixpath.join(posixpath.dirname(path), target))
    if stat.S_IFMT(mode) and not stat.S_ISREG(mode):
        return Member(path, fault="no regular file")
    with archive.open(found) as opened:
        start, length = spool.append(iter(lambda: opened.read(STEP_BYTES), b""), name)
    if length != found.file_size:
        raise damaged(name, f"{path} is shorter than its directory lists")
    return Member(path, length, start, bool(mode & stat.S_IXUSR))


class _Directory:
    """The file as `zipfile` reads its directory: bounded in bytes and in entries, before objects are made of them."""

    def __init__(self, file: HolderFile) -> None:
        self._file = file
        file.budget_bytes = DIRECTORY_BYTES_MAX
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        if self._file.budget_bytes is not None and data.count(_ENTRY) > MEMBERS_MAX:
            raise too_many_files()
        return data
