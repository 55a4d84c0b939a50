"""Cutting what a pull restores into loads, what is fetched at once, and batches, what one thread decodes at once: a few
MiB of one or several files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from skyhold.storage.file_entry import FileEntry
from skyhold.storage.targets import Target
from skyhold.storage.version_files import ChunkAt, VersionFiles
from skyhold.units import MIB

LOAD_BYTES: Final = 12 * MIB
"""Large, because a request costs a server milliseconds, whatever its size."""

LOADS_AT_END: Final = 6
"""A load is at most this part of what is left, or one batch."""

BATCH_BYTES: Final = 4 * MIB
BATCH_CHUNKS_MAX: Final = 128
FILES_MAX: Final = 16
"""Of a load. Bounds the files that are open at once, where they are tiny: ten loads of two descriptors each stay below
400."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Chunks, `length` bytes in all, in the order in which they are written."""

    chunks: tuple[tuple[Target, ChunkAt], ...]
    length: int
    last_of: tuple[Target, ...]
    """Files that end with this batch."""


def loads(version: VersionFiles, indices: Sequence[int], begin: Callable[[FileEntry], Target]) -> Iterator[list[Batch]]:
    """The loads of these files of a version, in order; `begin` makes the target of each file when its turn comes.

    The first loads are small, so that decoding begins early and the speed of the link is known; and the last, so that
    little is left to decode when the last byte has arrived.
    """
    load: list[Batch] = []
    length = files = 0
    limit_bytes = BATCH_BYTES
    left_bytes = sum(version.files[index].size_bytes for index in indices)
    for batch in _batches(version, indices, begin):
        if load and (length + batch.length > limit_bytes or files + len(batch.last_of) > FILES_MAX):
            yield load
            left_bytes -= length
            load, length, files = [], 0, 0
            limit_bytes = min(LOAD_BYTES, limit_bytes + BATCH_BYTES, left_bytes // LOADS_AT_END)
        load.append(batch)
        length += batch.length
        files += len(batch.last_of)
    if load:
        yield load


def _batches(version: VersionFiles, indices: Sequence[int], begin: Callable[[FileEntry], Target]) -> Iterator[Batch]:
    chunks: list[tuple[Target, ChunkAt]] = []
    ended: list[Target] = []
    length = 0
    for index in indices:
        target = begin(version.files[index])
        for chunk in version.chunks(index):
            if chunks and (length + chunk.place.raw_length > BATCH_BYTES or len(chunks) == BATCH_CHUNKS_MAX):
                yield Batch(tuple(chunks), length, tuple(ended))
                chunks, ended, length = [], [], 0
            chunks.append((target, chunk))
            length += chunk.place.raw_length
        ended.append(target)
        if len(ended) == FILES_MAX:
            yield Batch(tuple(chunks), length, tuple(ended))
            chunks, ended, length = [], [], 0
    if chunks or ended:
        yield Batch(tuple(chunks), length, tuple(ended))
