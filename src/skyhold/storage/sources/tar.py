"""The members of a tar. Only its headers are read here, each in bounded memory."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from typing import IO, Final, cast

from skyhold.storage.sources.holder import BudgetSpent, HolderFile
from skyhold.storage.sources.member import Member, damaged, plain_path

HEADER_BYTES_MAX: Final = 1 << 20
"""Of one member, with its long name and its extended attributes."""


def read_tar(name: str, file: HolderFile) -> Iterator[Member]:
    """The members in their order, folders left out. Raises `InvalidInput` code `archive_damaged`, also for a tar that
    has no end mark: it may have been cut off between two members."""
    size_bytes = file.seek(0, 2)
    file.seek(0)
    try:
        file.budget_bytes = HEADER_BYTES_MAX
        with tarfile.open(fileobj=cast("IO[bytes]", file), mode="r:", encoding="utf-8") as archive:
            last_offset = -1
            while (found := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
                if found.offset_data <= last_offset or (found.isreg() and found.offset_data + found.size > size_bytes):
                    raise damaged(name, f"{found.name} does not lie inside it")
                last_offset = found.offset_data
                if not found.isdir():
                    yield _member(plain_path(found.name), found)
                file.budget_bytes = HEADER_BYTES_MAX
            file.seek(archive.offset)
            end = file.read(tarfile.BLOCKSIZE)
        if end != bytes(tarfile.BLOCKSIZE):
            raise damaged(name, "it has no end mark, so that it is damaged or was cut off")
    except BudgetSpent:
        raise damaged(name, f"a header in it is longer than {HEADER_BYTES_MAX} bytes") from None
    except (tarfile.TarError, OSError, ValueError, EOFError, OverflowError) as error:
        raise damaged(name, str(error)) from error


def _member(path: str, found: tarfile.TarInfo) -> Member:
    if found.isreg() and not found.issparse():
        return Member(path, found.size, found.offset_data, bool(found.mode & 0o100))
    if found.islnk():
        return Member(path, link=_link(found.linkname))
    if found.issym():
        return Member(path, link=_link(posixpath.join(posixpath.dirname(path), found.linkname)))
    kinds = {tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device", tarfile.FIFOTYPE: "a named pipe"}
    return Member(path, fault="a sparse file" if found.issparse() else kinds.get(found.type, "no regular file"))


def _link(target: str) -> str:
    return target if target.startswith("/") else posixpath.normpath(target)
