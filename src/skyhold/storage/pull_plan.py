"""What a pull would fetch and from where, without fetching a chunk.

Layouts list which records are needed, the target folder and the cache are read for what they have, and listings of the
buckets show which has the packs of the rest. What changes or fails afterwards is not foreseen.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Final

from blake3 import blake3

from skyhold.buckets.bucket import Bucket
from skyhold.errors import SkyholdError
from skyhold.storage.chunks import PackSpace, spans
from skyhold.storage.file_entry import FileEntry
from skyhold.storage.object_keys import pack_id_of, pack_key
from skyhold.storage.parts import part_path
from skyhold.storage.paths import on_disk
from skyhold.storage.target_state import Stored, examine
from skyhold.storage.targets import check_space, missing_bytes
from skyhold.storage.tensor_pull import WantedTensors, choose_tensors, examine_tensors_file, safetensors_head
from skyhold.storage.version_files import ChunkAt, VersionFiles
from skyhold.units import Buffer

LISTERS: Final = 8
_STEP_CHUNKS: Final = 128


@dataclass(frozen=True, slots=True)
class PullSources:
    """Where the records that a pull needs would come from, in stored bytes: the cache, and by its name the first bucket
    that has their pack, in the order in which a pull asks them. `absent_bytes` are in no bucket that answered;
    `unreachable` is why one did not."""

    cached_bytes: int = 0
    bucket_bytes: dict[str, int] = field(default_factory=dict)
    absent_bytes: int = 0
    unreachable: dict[str, str] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        return self.cached_bytes + sum(self.bucket_bytes.values()) + self.absent_bytes


@dataclass(frozen=True, slots=True)
class Planned:
    """What a pull would do; `kept_bytes` of its `total_bytes` are in files of this machine already."""

    files: int
    total_bytes: int
    kept_bytes: int
    sources: PullSources
    tensors: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)


def plan_files(
    version: VersionFiles, indices: Sequence[int], root: Path, space: PackSpace, stored: Stored | None
) -> Planned:
    """What `pull_files` would do. Raises as it does before it writes."""
    entries = [version.files[index] for index in indices]
    states = examine(root, entries, stored)
    wanted = [index for index, found in zip(indices, states, strict=True) if not found.current]
    check_space(root, sum(missing_bytes(root, version.files[index]) for index in wanted))

    def missing() -> Iterator[ChunkAt]:
        for index in wanted:
            yield from _not_here(version, index, root, space)

    missed_bytes, sources = _find_sources(missing(), space)
    total_bytes = sum(entry.size_bytes for entry in entries)
    return Planned(len(entries), total_bytes, total_bytes - missed_bytes, sources)


def plan_tensors(
    version: VersionFiles, wanted: WantedTensors, root: Path, space: PackSpace, *, force: bool = False
) -> Planned:
    """What `pull_tensors` would do. Raises as it does before it writes."""
    chosen = choose_tensors(version, wanted)
    head, payload_bytes = safetensors_head(chosen.tensors)
    total_bytes = len(head) + payload_bytes
    examine_tensors_file(root, force=force)
    check_space(root, total_bytes + chosen.room_bytes)

    def needed() -> Iterator[ChunkAt]:
        for index in sorted({one.file for one in chosen.tensors}):
            ranges = sorted((one.tensor.start, one.tensor.end) for one in chosen.tensors if one.file == index)
            starts = [start for start, end in ranges if end > start]
            reached = list(accumulate((end for start, end in ranges if end > start), max))
            for chunk in version.chunks(index):
                begun = bisect_left(starts, chunk.start + chunk.place.raw_length)
                if begun and reached[begun - 1] > chunk.start:
                    yield chunk

    _, sources = _find_sources(needed(), space)
    return Planned(1, total_bytes, 0, sources, chosen.names, chosen.left_out)


def _not_here(version: VersionFiles, index: int, root: Path, space: PackSpace) -> Iterator[ChunkAt]:
    """The chunks of a file that no file of this machine has: neither the one in the target folder, nor the part of an
    interrupted pull, nor one that the cache has linked. Bases that such a file has are left out, too."""
    entry = version.files[index]
    with ExitStack() as opened:
        here = [_opened(path, opened) for path in _candidates(root, entry)]

        def found(chunk: ChunkAt) -> Iterator[Buffer]:
            length = chunk.place.raw_length
            yield from (os.pread(descriptor, length, chunk.start) for descriptor in here if descriptor >= 0)
            linked = space.files.read(chunk.place)
            if linked is not None:
                yield linked

        for chunk in version.chunks(index):
            wanted = chunk.place.chunk_id
            if any(blake3(data, key=space.chunk_id_key).digest() == wanted for data in found(chunk)):
                continue
            yield replace(chunk, base=None) if chunk.base is not None and space.files.has(chunk.base) else chunk


def _candidates(root: Path, entry: FileEntry) -> tuple[Path, Path]:
    return root / on_disk(entry.path), part_path(root, entry)


def _opened(path: Path, opened: ExitStack) -> int:
    """A descriptor for reading, or -1 where there is nothing to read."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        opened.callback(os.close, descriptor)
        return descriptor
    return -1


def _find_sources(chunks: Iterable[ChunkAt], space: PackSpace) -> tuple[int, PullSources]:
    """The size of `chunks`, and where their records and those of their bases would come from, each counted once."""
    cached_bytes = 0
    seen: set[tuple[bytes, int]] = set()
    wanted: Counter[bytes] = Counter()
    raw_bytes = 0
    left = iter(chunks)
    while step := list(islice(left, _STEP_CHUNKS)):
        raw_bytes += sum(chunk.place.raw_length for chunk in step)
        places = [place for chunk in step for place in (chunk.place, chunk.base) if place is not None]
        for span in spans(place for place in places if (place.pack_id, place.offset) not in seen):
            pack_id = span.places[0].pack_id
            seen.update((pack_id, place.offset) for place in span.places)
            length = sum(place.record_length for place in span.places)
            if space.cache.get(pack_id, span.places) is not None:
                cached_bytes += length
            else:
                wanted[pack_id] += length
    buckets = [space.replicas.buckets[name] for name in space.replicas.order]
    return raw_bytes, _find_packs(cached_bytes, wanted, buckets)


def _find_packs(cached_bytes: int, wanted: Counter[bytes], buckets: Sequence[Bucket]) -> PullSources:
    """Ask one bucket after the other which of the packs it lists, until all are found."""
    left = dict(wanted)
    bucket_bytes: dict[str, int] = {}
    unreachable: dict[str, str] = {}
    with ThreadPoolExecutor(LISTERS, thread_name_prefix="list") as listers:
        for bucket in buckets:
            if not left:
                break
            try:
                folders = sorted({pack_key(pack_id).rpartition("/")[0] + "/" for pack_id in left})
                listed = set().union(*listers.map(partial(_packs_below, bucket), folders))
            except SkyholdError as error:
                unreachable[bucket.name] = error.message
                continue
            found = listed & left.keys()
            if found:
                bucket_bytes[bucket.name] = sum(left.pop(pack_id) for pack_id in found)
    return PullSources(cached_bytes, bucket_bytes, sum(left.values()), unreachable)


def _packs_below(bucket: Bucket, folder: str) -> set[bytes]:
    return {pack_id for info in bucket.list(folder) if (pack_id := pack_id_of(info.key)) is not None}
