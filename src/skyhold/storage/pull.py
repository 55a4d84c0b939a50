"""Pulling files: batches of chunks are fetched, decoded and written by a few threads; whole files are hashed in order.

A batch is a few MiB of one or several files. Its records come by coalesced ranged reads (from the cache, or from the
next bucket when one fails or stalls), every chunk is checked by its id, and every whole file by the version's SHA-256
before it appears under its name.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Final

from blake3 import blake3

from skyhold.errors import NotFound
from skyhold.storage.chunks import ChunkReader, PackSpace
from skyhold.storage.pack import CHUNK_BYTES_MAX, Place
from skyhold.storage.progress import Progress
from skyhold.storage.targets import Target, check_space, is_current, missing_bytes
from skyhold.storage.version_files import ChunkAt, VersionFiles
from skyhold.units import MIB

BATCH_BYTES: Final = 6 * MIB
BATCH_CHUNKS_MAX: Final = 128
BATCH_FILES_MAX: Final = 32
"""Bounds the files that are open at once, where they are tiny: six batches of two descriptors each stay below 400."""

THREADS: Final = 4


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


@dataclass(frozen=True, slots=True)
class _Restored:
    chunks: tuple[memoryview, ...]
    """Views into the room that was lent to the batch."""
    fetched_bytes: int
    kept_bytes: int


class Pull:
    """One pull of files of a version into a folder. Use as a context manager."""

    def __init__(self, space: PackSpace, progress: Progress, *, threads: int = THREADS) -> None:
        self._space = space
        self._reader = ChunkReader(space)
        self._progress = progress
        self._threads = threads
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="pull")
        self._rooms = [bytearray(BATCH_BYTES) for _ in range(threads + 1)]
        self._local = threading.local()
        self._open: list[Target] = []
        self.pulled = Pulled()

    def __enter__(self) -> Pull:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._workers.shutdown(wait=True, cancel_futures=True)
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
        running: deque[tuple[_Batch, bytearray, Future[_Restored]]] = deque()
        for batch in self._batches(version, wanted, root):
            if not self._rooms:
                self._complete(*running.popleft())
            room = self._rooms.pop()
            running.append((batch, room, self._workers.submit(self._restore, batch, room)))
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

    def _restore(self, batch: _Batch, buffer: bytearray) -> _Restored:
        """On a worker's thread: every chunk of the batch, checked and written."""
        room = memoryview(buffer)
        views, missing, position, kept = [], [], 0, 0
        for target, chunk in batch.chunks:
            view = room[position : position + chunk.place.raw_length]
            position += len(view)
            views.append(view)
            if target.take(chunk.start, view, partial(self._is, chunk.place.chunk_id)):
                kept += len(view)
            else:
                missing.append((target, chunk, view))
        needed: list[Place] = []
        for _, chunk, _ in missing:
            needed.append(chunk.place)
            if chunk.base is not None:
                needed.append(chunk.base)
        records = self._reader.fetch(needed) if needed else {}
        for target, chunk, view in missing:
            if chunk.base is None:
                self._reader.decode(chunk.place, records[chunk.place], None, view)
            else:
                self._reader.decode_delta(chunk.place, chunk.base, records, self._base_room(len(view)), view)
            target.write(chunk.start, view)
        return _Restored(tuple(views), sum(len(record) for record in records.values()), kept)

    def _base_room(self, length: int) -> memoryview:
        """A buffer of this thread for the delta base of the chunk at hand."""
        if not hasattr(self._local, "base"):
            self._local.base = memoryview(bytearray(CHUNK_BYTES_MAX))
        room: memoryview = self._local.base[:length]
        return room

    def _is(self, chunk_id: bytes, data: memoryview) -> bool:
        return blake3(data, key=self._space.chunk_id_key).digest() == chunk_id

    def _complete(self, batch: _Batch, room: bytearray, restoring: Future[_Restored]) -> None:
        restored = restoring.result()
        for (target, _), view in zip(batch.chunks, restored.chunks, strict=True):
            target.hash(view)
        self._rooms.append(room)
        for target in batch.last_of:
            target.finish()
            self._open.remove(target)
        self.pulled.fetched_bytes += restored.fetched_bytes
        self.pulled.kept_bytes += restored.kept_bytes
        self._progress.advance(batch.length, stored_bytes=restored.fetched_bytes)


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
