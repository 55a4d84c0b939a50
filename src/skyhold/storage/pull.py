"""Pulling files: batches of chunks are fetched ahead, decoded side by side, then hashed and written in order.

A batch is a few MiB of one or several files. Its records come by coalesced ranged reads (from the cache, or from the
next bucket when one fails or stalls), every chunk is checked by its id, and every whole file by the version's SHA-256
before it appears under its name. One thread alone writes: two that write to one file wait for each other's lock.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Final

from blake3 import blake3

from skyhold.errors import NotFound
from skyhold.storage.chunks import Buffer, ChunkReader, PackSpace
from skyhold.storage.pack import CHUNK_BYTES_MAX, Place
from skyhold.storage.progress import Progress
from skyhold.storage.targets import Target, check_space, is_current, missing_bytes
from skyhold.storage.version_files import ChunkAt, VersionFiles
from skyhold.units import MIB

BATCH_BYTES: Final = 4 * MIB
BATCH_CHUNKS_MAX: Final = 128
BATCH_FILES_MAX: Final = 16
"""Bounds the files that are open at once, where they are tiny: ten batches of two descriptors each stay below 400."""

FETCHERS: Final = 6
"""Batches that are fetched at once: enough for a link of long round trips, before decoding wants them."""

DECODERS: Final = 2
BATCHES_UNDER_WAY: Final = FETCHERS + DECODERS + 2
"""Each has a buffer. The last two are being written, and waiting for that."""


@dataclass(slots=True)
class Pulled:
    """What a pull did, in bytes. `fetched_bytes` came out of the buckets or the cache; `kept_bytes` were there."""

    files: int = 0
    files_current: int = 0
    total_bytes: int = 0
    kept_bytes: int = 0
    fetched_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Batch:
    chunks: tuple[tuple[Target, ChunkAt], ...]
    length: int
    last_of: tuple[Target, ...]
    """Files that end with this batch."""


@dataclass(slots=True)
class _Fetched:
    """A batch with what decoding it needs."""

    batch: _Batch
    views: list[memoryview]
    """Views into the room that was lent to the batch, one for each chunk."""
    missing: list[int]
    """Numbers of the chunks that are to be decoded; the others' bytes are there."""
    unwritten: list[int]
    """Numbers of the chunks that do not lie in the part file yet."""
    records: dict[Place, Buffer]

    @property
    def fetched_bytes(self) -> int:
        return sum(len(record) for record in self.records.values())

    @property
    def kept_bytes(self) -> int:
        return self.batch.length - sum(len(self.views[number]) for number in self.missing)


def _room() -> mmap.mmap:
    """A buffer for a batch. Its memory comes when it is first written, in pages of 2 MiB where the system has them."""
    room = mmap.mmap(-1, BATCH_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            room.madvise(mmap.MADV_HUGEPAGE)
    return room


class Pull:
    """One pull of files of a version into a folder. Use as a context manager."""

    def __init__(self, space: PackSpace, progress: Progress) -> None:
        self._space = space
        self._reader = ChunkReader(space)
        self._progress = progress
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="pull-fetch")
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="pull-decode")
        self._rooms = [_room() for _ in range(BATCHES_UNDER_WAY)]
        self._local = threading.local()
        self._open: list[Target] = []
        self._kept: set[Target] = set()
        """Files that the cache will hold whole, so that their records need not be there."""
        self.pulled = Pulled()

    def __enter__(self) -> Pull:
        return self

    def __exit__(self, *_exc: object) -> None:
        for workers in (self._fetchers, self._decoders):
            workers.shutdown(wait=True, cancel_futures=True)
        for target in self._open:
            target.close()

    def run(self, version: VersionFiles, indices: Sequence[int], root: Path) -> Pulled:
        """Restore the files of these indices below `root`. What is there already, whole or in part, is used."""
        wanted = []
        for index in indices:
            entry = version.files[index]
            self.pulled.files += 1
            self.pulled.total_bytes += entry.size_bytes
            if is_current(root, entry):
                self.pulled.files_current += 1
                self.pulled.kept_bytes += entry.size_bytes
                self._progress.advance(entry.size_bytes)
            else:
                wanted.append(index)
        check_space(root, sum(missing_bytes(root, version.files[index]) for index in wanted))
        running: deque[tuple[mmap.mmap, Future[_Fetched]]] = deque()
        for batch in self._batches(version, wanted, root):
            if not self._rooms:
                self._complete(*running.popleft())
            room = self._rooms.pop()
            fetching = self._fetchers.submit(self._fetch, batch, room)
            running.append((room, self._decoders.submit(self._decode, fetching)))
        while running:
            self._complete(*running.popleft())
        return self.pulled

    def _batches(self, version: VersionFiles, indices: Sequence[int], root: Path) -> Iterator[_Batch]:
        chunks: list[tuple[Target, ChunkAt]] = []
        ended: list[Target] = []
        length = 0
        for index in indices:
            target = Target(root, version.files[index])
            self._open.append(target)
            if self._space.files.accepts(root, target.entry.size_bytes):
                self._kept.add(target)
            for chunk in version.chunks(index):
                if chunks and (length + chunk.place.raw_length > BATCH_BYTES or len(chunks) == BATCH_CHUNKS_MAX):
                    yield _Batch(tuple(chunks), length, tuple(ended))
                    chunks, ended, length = [], [], 0
                chunks.append((target, chunk))
                length += chunk.place.raw_length
            ended.append(target)
            if len(ended) == BATCH_FILES_MAX:
                yield _Batch(tuple(chunks), length, tuple(ended))
                chunks, ended, length = [], [], 0
        if chunks or ended:
            yield _Batch(tuple(chunks), length, tuple(ended))

    def _fetch(self, batch: _Batch, buffer: mmap.mmap) -> _Fetched:
        """On a fetcher's thread: what the target folder has of the batch, and the records of the rest."""
        files, room, position = self._space.files, memoryview(buffer), 0
        fetched = _Fetched(batch, [], [], [], {})
        kept: list[Place] = []
        passing: list[Place] = []
        for number, (target, chunk) in enumerate(batch.chunks):
            view = room[position : position + chunk.place.raw_length]
            position += len(view)
            fetched.views.append(view)
            is_right = partial(self._is, chunk.place.chunk_id)
            if target.resume(chunk.start, view, is_right):
                continue
            fetched.unwritten.append(number)
            if target.reuse(chunk.start, view, is_right) or (files.read(chunk.place, view) and is_right(view)):
                continue
            fetched.missing.append(number)
            (passing if target in self._kept else kept).append(chunk.place)
            if chunk.base is not None and not files.has(chunk.base):
                kept.append(chunk.base)
        fetched.records = self._reader.fetch(kept) | self._reader.fetch(passing, keep=False)
        return fetched

    def _decode(self, fetching: Future[_Fetched]) -> _Fetched:
        """On a decoder's thread: every chunk of the batch, checked."""
        fetched = fetching.result()
        records = fetched.records
        for number in fetched.missing:
            chunk, view = fetched.batch.chunks[number][1], fetched.views[number]
            if chunk.base is None:
                self._reader.decode(chunk.place, records[chunk.place], None, view)
            else:
                self._reader.decode_delta(chunk.place, chunk.base, records, self._base_room(len(view)), view)
        return fetched

    def _base_room(self, length: int) -> memoryview:
        """A buffer of this thread for the delta base of the chunk at hand."""
        if not hasattr(self._local, "base"):
            self._local.base = memoryview(bytearray(CHUNK_BYTES_MAX))
        room: memoryview = self._local.base[:length]
        return room

    def _is(self, chunk_id: bytes, data: memoryview) -> bool:
        return blake3(data, key=self._space.chunk_id_key).digest() == chunk_id

    def _complete(self, room: mmap.mmap, decoding: Future[_Fetched]) -> None:
        fetched = decoding.result()
        for number in fetched.unwritten:
            target, chunk = fetched.batch.chunks[number]
            target.write(chunk.start, fetched.views[number])
        for (target, _), view in zip(fetched.batch.chunks, fetched.views, strict=True):
            target.hash(view)
        self._rooms.append(room)
        for target, chunks in groupby(fetched.batch.chunks, itemgetter(0)):
            if target in self._kept:
                self._space.files.note(target.entry.sha256, ((chunk.start, chunk.place) for _, chunk in chunks))
        for target in fetched.batch.last_of:
            target.finish(self._space.files if target in self._kept else None)
            self._open.remove(target)
            self._kept.discard(target)
        self.pulled.fetched_bytes += fetched.fetched_bytes
        self.pulled.kept_bytes += fetched.kept_bytes
        self._progress.advance(fetched.batch.length, stored_bytes=fetched.fetched_bytes)


def pull_files(
    version: VersionFiles, include: Sequence[str], root: Path, space: PackSpace, progress: Progress
) -> Pulled:
    """Restore the files of a version whose paths match one of the globs in `include`, or all, below `root`.

    Raises `NotFound` where a glob matches none.
    """
    for pattern in include:
        if not any(fnmatchcase(file.path, pattern) for file in version.files):
            raise NotFound(
                f"No file of the version matches `{pattern}`",
                code="file_not_found",
                hint="List them with `skyhold show`",
                pattern=pattern,
            )
    indices = [
        index
        for index, file in enumerate(version.files)
        if not include or any(fnmatchcase(file.path, pattern) for pattern in include)
    ]
    progress.begin("pull", sum(version.files[index].size_bytes for index in indices))
    try:
        with Pull(space, progress) as pull:
            return pull.run(version, indices, root)
    finally:
        progress.end()
