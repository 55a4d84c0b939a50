"""Pulling files: chunks are fetched ahead, decoded side by side, then hashed and written in order.

Records come by coalesced ranged reads (from the cache, or from the next bucket when one fails or stalls), every chunk
is checked by its id, and every whole file by the version's SHA-256 before it appears under its name. One thread alone
writes: two that write to one file wait for each other's lock.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Final

from blake3 import blake3

from skyhold.storage.chunk_record import CHUNK_BYTES_MAX, Place
from skyhold.storage.chunks import ChunkReader, PackSpace
from skyhold.storage.fetch_plan import BATCH_BYTES, Batch, loads
from skyhold.storage.file_entry import FileEntry
from skyhold.storage.progress import Progress
from skyhold.storage.target_folder import Identity, TargetFolder
from skyhold.storage.target_state import Stored, examine
from skyhold.storage.targets import Target, check_space, missing_bytes
from skyhold.storage.version_files import VersionFiles
from skyhold.units import Buffer

FETCHERS: Final = 3
"""Loads that are fetched at once, ahead of decoding."""

DECODERS: Final = 2
BUFFERS: Final = DECODERS + 2
"""Buffers for decoded batches. The last two are being written, and waiting for that."""


@dataclass(slots=True)
class Pulled:
    """What a pull did, in bytes. `fetched_bytes` came out of the buckets or the cache; `kept_bytes` were there."""

    files: int = 0
    total_bytes: int = 0
    kept_bytes: int = 0
    fetched_bytes: int = 0


@dataclass(slots=True)
class _Found:
    """The chunks of a batch that this machine had."""

    chunks: list[Buffer | None]
    """The chunks of the batch, None for those that have to be decoded."""
    unwritten: list[int]
    """Numbers of the chunks that are not in the part file yet."""


@dataclass(frozen=True, slots=True)
class _Load:
    """What decoding the batches of a load needs."""

    found: list[_Found]
    records: dict[Place, Buffer]


@dataclass(frozen=True, slots=True)
class _Restored:
    """A batch whose chunks are complete and checked. Those that were decoded are in the buffer lent to it."""

    batch: Batch
    chunks: list[Buffer]
    unwritten: list[int]
    fetched_bytes: int
    kept_bytes: int


def _new_buffer() -> mmap.mmap:
    """A buffer for a batch. Its memory comes when it is first written, in pages of 2 MiB where the system has them."""
    buffer = mmap.mmap(-1, BATCH_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer


class Pull:
    """One pull of files of a version into a folder. Use as a context manager."""

    def __init__(self, space: PackSpace, progress: Progress) -> None:
        self._space = space
        self._reader = ChunkReader(space)
        self._progress = progress
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="pull-fetch")
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="pull-decode")
        self._buffers = [_new_buffer() for _ in range(BUFFERS)]
        self._local = threading.local()
        self._fetching: deque[tuple[list[Batch], Future[_Load]]] = deque()
        self._decoding: deque[tuple[mmap.mmap, Future[_Restored]]] = deque()
        self._open: list[Target] = []
        self._kept: set[Target] = set()
        """Files that the cache will hold whole, so that it need not hold their records."""
        self.pulled = Pulled()

    def __enter__(self) -> Pull:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop()

    def _stop(self) -> None:
        """End all threads, then close what they use."""
        for workers in (self._fetchers, self._decoders):
            workers.shutdown(wait=True, cancel_futures=True)
        for target in self._open:
            target.close()
        self._open.clear()

    def run(self, version: VersionFiles, indices: Sequence[int], root: Path, stored: Stored | None) -> Pulled:
        """Restore the files of these indices below `root`. Existing files and parts are used; an existing file whose
        content `stored` does not have is not replaced (`examine`)."""
        states = examine(root, [version.files[index] for index in indices], stored)
        wanted = [index for index, found in zip(indices, states, strict=True) if not found.current]
        for found in states:
            self.pulled.files += 1
            self.pulled.total_bytes += found.entry.size_bytes
            if found.current:
                self.pulled.kept_bytes += found.entry.size_bytes
                self._progress.advance(found.entry.size_bytes)
        check_space(root, sum(missing_bytes(root, version.files[index]) for index in wanted))
        before = {found.entry.path: found.before for found in states}
        with TargetFolder(root) as folder:
            try:
                self._restore(version, wanted, partial(self._begin, folder, before))
            finally:
                self._stop()
        return self.pulled

    def _restore(self, version: VersionFiles, wanted: Sequence[int], begin: Callable[[FileEntry], Target]) -> None:
        for batches in loads(version, wanted, begin):
            self._fetching.append((batches, self._fetchers.submit(self._fetch, batches)))
            if len(self._fetching) > FETCHERS:
                self._begin_decoding()
        while self._fetching:
            self._begin_decoding()
        while self._decoding:
            self._complete_first()

    def _begin(self, folder: TargetFolder, before: Mapping[str, Identity | None], entry: FileEntry) -> Target:
        target = Target(folder, entry, before[entry.path])
        self._open.append(target)
        if self._space.files.accepts(folder.path, entry.size_bytes):
            self._kept.add(target)
        return target

    def _fetch(self, batches: Sequence[Batch]) -> _Load:
        """On a fetcher's thread: what this machine has of the batches, and the records of the rest."""
        kept: list[Place] = []
        passing: list[Place] = []
        found = [self._find(batch, kept, passing) for batch in batches]
        return _Load(found, self._reader.fetch(kept) | self._reader.fetch(passing, keep=False))

    def _find(self, batch: Batch, kept: list[Place], passing: list[Place]) -> _Found:
        """What this machine has of a batch; what it lacks is added to `kept`, the records that go into the cache, or to
        `passing`, those that do not."""
        files = self._space.files
        result = _Found([], [])
        for number, (target, chunk) in enumerate(batch.chunks):
            place = chunk.place
            found = self._checked(place, target.resume(chunk.start, place.raw_length))
            if found is None:
                result.unwritten.append(number)
                found = self._checked(place, target.reuse(chunk.start, place.raw_length))
            if found is None:
                found = self._checked(place, files.read(place))
            if found is None:
                (passing if target in self._kept else kept).append(place)
                if chunk.base is not None and not files.has(chunk.base):
                    kept.append(chunk.base)
            result.chunks.append(found)
        return result

    def _checked(self, place: Place, found: bytes | None) -> bytes | None:
        if found is None or blake3(found, key=self._space.chunk_id_key).digest() != place.chunk_id:
            return None
        return found

    def _begin_decoding(self) -> None:
        """Hand the batches of the first load to the decoders."""
        batches, fetching = self._fetching.popleft()
        for number, batch in enumerate(batches):
            if not self._buffers:
                self._complete_first()
            buffer = self._buffers.pop()
            decoding = self._decoders.submit(self._decode, batch, number, fetching, buffer)
            self._decoding.append((buffer, decoding))

    def _decode(self, batch: Batch, number: int, fetching: Future[_Load], buffer: mmap.mmap) -> _Restored:
        """On a decoder's thread: every chunk of a batch, checked."""
        load = fetching.result()
        found, records = load.found[number], load.records
        free, position, fetched_bytes = memoryview(buffer), 0, 0
        chunks: list[Buffer] = []
        for (_, chunk), here in zip(batch.chunks, found.chunks, strict=True):
            if here is not None:
                chunks.append(here)
                continue
            out = free[position : position + chunk.place.raw_length]
            position += len(out)
            chunks.append(out)
            fetched_bytes += len(records[chunk.place])
            if chunk.base is None:
                self._reader.decode(chunk.place, records[chunk.place], None, out)
            else:
                fetched_bytes += len(records.get(chunk.base, b""))
                self._reader.decode_delta(chunk.place, chunk.base, records, self._base_buffer(len(out)), out)
        return _Restored(batch, chunks, found.unwritten, fetched_bytes, batch.length - position)

    def _base_buffer(self, length: int) -> memoryview:
        """A buffer of this thread for the delta base of the current chunk."""
        if not hasattr(self._local, "base"):
            self._local.base = memoryview(bytearray(CHUNK_BYTES_MAX))
        buffer: memoryview = self._local.base[:length]
        return buffer

    def _complete_first(self) -> None:
        """Write and hash the first batch, once it is decoded, and finish the files that end with it."""
        buffer, decoding = self._decoding.popleft()
        restored = decoding.result()
        batch = restored.batch
        for number in restored.unwritten:
            target, chunk = batch.chunks[number]
            target.write(chunk.start, restored.chunks[number])
        for (target, _), data in zip(batch.chunks, restored.chunks, strict=True):
            target.hash(data)
        self._buffers.append(buffer)
        for target, chunks in groupby(batch.chunks, itemgetter(0)):
            if target in self._kept:
                self._space.files.note(target.entry.sha256, ((chunk.start, chunk.place) for _, chunk in chunks))
        for target in batch.last_of:
            target.finish(self._space.files if target in self._kept else None)
            self._open.remove(target)
            self._kept.discard(target)
        self.pulled.fetched_bytes += restored.fetched_bytes
        self.pulled.kept_bytes += restored.kept_bytes
        self._progress.advance(batch.length, stored_bytes=restored.fetched_bytes)


def pull_files(
    version: VersionFiles,
    indices: Sequence[int],
    root: Path,
    space: PackSpace,
    stored: Stored | None,
    progress: Progress,
) -> Pulled:
    """Restore the files of these indices of a version below `root`. Raises as `examine` does."""
    progress.begin("pull", sum(version.files[index].size_bytes for index in indices))
    try:
        with Pull(space, progress) as pull:
            return pull.run(version, indices, root, stored)
    finally:
        progress.end()
