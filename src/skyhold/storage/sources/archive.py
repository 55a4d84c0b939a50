"""An archive as a source: a tar (also compressed by gzip or Zstandard), or a zip. Its content decides which.

An archive may come from a stranger. Its members are judged like the files of a folder (`Gathering`), with the same
`.skyholdignore`; links are followed to members only; devices, pipes and sparse files are refused. What is bounded:
the number of members, the bytes of their headers, and how much the whole may grow when it is expanded.

A tar on disk is read where it is. Everything else is spooled first, which also checks its checksums: so a push reads
it in any order, twice, in bounded memory.
"""

from __future__ import annotations

import gzip
import posixpath
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

import zstandard

from skyhold import error_codes
from skyhold.errors import InvalidInput
from skyhold.storage.paths import as_stored
from skyhold.storage.sources.disk import DiskFile, RangeFile
from skyhold.storage.sources.folder import find_file
from skyhold.storage.sources.gathering import Gathering
from skyhold.storage.sources.holder import HolderFile
from skyhold.storage.sources.ignore import IGNORE_FILE, IGNORE_FILE_BYTES_MAX, ignore_rules
from skyhold.storage.sources.member import MEMBERS_MAX, Member, damaged, too_large, too_many_members
from skyhold.storage.sources.port import OpenFile, Source, read_bytes
from skyhold.storage.sources.spool import Spool
from skyhold.storage.sources.stream import STEP_BYTES, Stream, pieces_of
from skyhold.storage.sources.tar import read_tar
from skyhold.storage.sources.zip import read_zip

SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".zip")
EXPANSION_MAX: Final = 100
EXPANDED_BYTES_FREE: Final = 1 << 30
"""An archive may expand to `EXPANSION_MAX` times its size, or to 1 GiB: weights hardly shrink, a bomb is all air."""
_WINDOW_BYTES_MAX: Final = 128 << 20
"""Of Zstandard: the limit of the `zstd` tool without further options."""
_LINKS_MAX: Final = 40
_GZIP, _ZSTD, _ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", (b"PK\x03\x04", b"PK\x05\x06")


@dataclass(frozen=True, slots=True)
class ArchiveRules:
    """How the members of an archive are judged, as those of a folder are."""

    without_optimizer: bool = False
    allow_unsafe_names: bool = False


def is_archive(path: Path) -> bool:
    """Whether a path names an archive, by its ending."""
    return path.name.lower().endswith(SUFFIXES)


def archive_at(path: Path, rules: ArchiveRules) -> Source:
    """The files of the archive at `path`. Raises `InvalidInput`: `archive_damaged`, `archive_too_large`,
    `too_many_files`, `source_refused`, `source_empty`; and as the spool and an open file do."""
    real, status = find_file(path)
    with ExitStack() as resources:
        opened = DiskFile.of(as_stored(path.name), real, status).open()
        resources.callback(opened.close)
        return _source(f"Archive {path}", opened, status.st_size, rules, resources)


def archive_in(stream: Stream, name: str, rules: ArchiveRules) -> Source:
    """The files of the archive that a stream contains from its position on. Raises as `archive_at`."""
    with ExitStack() as resources:
        spool = _spool(resources)
        _, length = spool.append(pieces_of(stream, name), f"Archive {name}")
        return _source(f"Archive {name}", spool, length, rules, resources)


def _source(name: str, opened: OpenFile, size_bytes: int, rules: ArchiveRules, resources: ExitStack) -> Source:
    limit_bytes = max(EXPANDED_BYTES_FREE, EXPANSION_MAX * size_bytes)
    magic = read_bytes(opened, 0, min(4, size_bytes))
    if magic in _ZIP:
        holder: OpenFile
        holder = spool = _spool(resources)
        members = read_zip(name, HolderFile(opened, size_bytes), spool, limit_bytes)
    elif magic[:2] == _GZIP or magic == _ZSTD:
        holder = spool = _spool(resources)
        spool.append(_expanded(name, HolderFile(opened, size_bytes), magic, limit_bytes), name)
        opened.check_unchanged()
        members = read_tar(name, HolderFile(spool, spool.size_bytes))
    else:
        holder = opened
        members = read_tar(name, HolderFile(opened, size_bytes))
    opened.check_unchanged()
    return _gather(name, members, holder, rules, resources)


def _spool(resources: ExitStack) -> Spool:
    spool = Spool()
    resources.callback(spool.close)
    return spool


def _expanded(name: str, packed: HolderFile, magic: bytes, limit_bytes: int) -> Iterator[bytes]:
    """The bytes of a compressed tar, whose checksums are checked on the way."""
    expanded_bytes = 0
    try:
        if magic == _ZSTD:
            decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES_MAX)
            read: Callable[[int], bytes] = decompressor.stream_reader(
                cast("IO[bytes]", packed), read_across_frames=True
            ).read
        else:
            read = gzip.GzipFile(fileobj=packed).read
        while piece := read(STEP_BYTES):
            expanded_bytes += len(piece)
            if expanded_bytes > limit_bytes:
                raise too_large(name, limit_bytes)
            yield piece
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise damaged(name, str(error)) from error


def _gather(
    name: str, members: Iterable[Member], holder: OpenFile, rules: ArchiveRules, resources: ExitStack
) -> Source:
    listed: list[Member] = []
    for member in members:
        if len(listed) == MEMBERS_MAX:
            raise too_many_members(name)
        listed.append(member)
    by_path = {member.path: member for member in listed}
    own = _ignore_file(name, by_path.get(IGNORE_FILE), by_path, holder)
    spec = ignore_rules(own, f"{IGNORE_FILE} of {name}", without_optimizer=rules.without_optimizer)
    gathering = Gathering(name, spec, allow_unsafe_names=rules.allow_unsafe_names)
    for member in listed:
        if gathering.excludes_folder_of(member.path) or gathering.excludes(member.path):
            continue
        target = _target(member, by_path)
        if isinstance(target, str):
            gathering.refuse(member.path, target)
        else:
            gathering.add_checked(RangeFile(member.path, target.size_bytes, target.executable, holder, target.start))
    return gathering.finish(resources.pop_all())


def _target(member: Member, by_path: Mapping[str, Member]) -> Member | str:
    """The regular file that a member is, or leads to; else why there is none."""
    for _ in range(_LINKS_MAX):
        if member.fault is not None:
            return member.fault
        if member.link is None:
            return member
        if member.link.startswith("/") or posixpath.normpath(member.link).split("/", 1)[0] == "..":
            return f"a link to {member.link}, outside the archive"
        found = by_path.get(posixpath.normpath(member.link))
        if found is None:
            return "a link that leads to no file of the archive"
        member = found
    return "a link that leads nowhere"


def _ignore_file(name: str, member: Member | None, by_path: Mapping[str, Member], holder: OpenFile) -> bytes:
    if member is None:
        return b""
    target = _target(member, by_path)
    if isinstance(target, str) or target.size_bytes > IGNORE_FILE_BYTES_MAX:
        raise InvalidInput(
            f"Expected {IGNORE_FILE} of {name} to be a regular file of at most 1 MiB",
            code=error_codes.INVALID_IGNORE_FILE,
        )
    return read_bytes(holder, target.start, target.size_bytes)
