"""Pushing files into packs: read once, hashed, cut, deduplicated, encoded on both cores, sent to all buckets at once.

The threads: the caller's reads pieces, lays records into packs in file order and collects places; one hashes whole
files; `threads` encode; each bucket has writers of its own. Pieces, packs and windows are the only large buffers, and
all are bounded, so that memory does not depend on the size of what is pushed.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO, Final

from blake3 import blake3

from skyhold.codec.squeeze import Encoder, is_delta
from skyhold.codec.tensors import Tensor
from skyhold.storage.bases import DeltaBases
from skyhold.storage.blobs import Blobs
from skyhold.storage.catalogue import Catalogue
from skyhold.storage.chunks import PackSpace
from skyhold.storage.layout import PageBuilder, Run, Tensors, encode_head, encode_tensors
from skyhold.storage.pack import Place, Record
from skyhold.storage.packing import Packer
from skyhold.storage.pieces import Piece, PieceReader
from skyhold.storage.progress import Progress
from skyhold.storage.source import SourceFile, check_unchanged, open_source
from skyhold.storage.tensor_files import find_tensors
from skyhold.storage.version_files import FileEntry
from skyhold.units import MIB

EGRESS_DELTA_MAX: Final = 1 / 8
"""Under the policy `egress` a delta is stored only where it is this small beside the chunk, so that a cold pull,
which reads base and delta, costs little more than a chunk stored whole."""


@dataclass(frozen=True, slots=True)
class PushOptions:
    """Bounds of one push. `memory_bytes` counts buffers, not the interpreter (about 60 MiB)."""

    memory_bytes: int = 96 * MIB
    threads: int = 2
    delta: str = "storage"
    dry_run: bool = False

    @property
    def pack_buffers(self) -> int:
        return max(2, min(4, self.memory_bytes // (24 * MIB)))

    @property
    def piece_buffers(self) -> int:
        return max(self.threads + 2, min(4 * self.threads + 4, self.memory_bytes // (8 * MIB)))


@dataclass(slots=True)
class Pushed:
    """What a push stored. Sizes in bytes; `packs` are all packs that the files need, by id, own and reused."""

    files: list[FileEntry] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    tensors: Tensors = field(default_factory=dict)
    packs_sent: dict[bytes, int] = field(default_factory=dict)
    packs_reused: set[bytes] = field(default_factory=set)
    read_bytes: int = 0
    stored_bytes: int = 0
    reused_bytes: int = 0
    delta_bytes: int = 0
    chunks: int = 0


@dataclass(frozen=True, slots=True)
class _Reused:
    place: Place
    base: Place | None


class Push:
    """One push of files into a pack space. Use as a context manager: it ends its threads and waits for its buffers."""

    def __init__(
        self,
        space: PackSpace,
        catalogue: Catalogue,
        bases: DeltaBases,
        options: PushOptions,
        progress: Progress,
        dead_packs: frozenset[bytes] = frozenset(),
    ) -> None:
        self._space, self._catalogue, self._bases = space, catalogue, bases
        self._options, self._progress, self._dead_packs = options, progress, dead_packs
        self._class = space.placement_class.hex()
        self._packer = Packer(space, catalogue, buffers=options.pack_buffers, dry_run=options.dry_run)
        self._reader = PieceReader(options.piece_buffers)
        self._encoders = ThreadPoolExecutor(options.threads, thread_name_prefix="encode")
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._local = threading.local()
        self._queue: deque[tuple[Piece, Future[Record | _Reused], Future[None]]] = deque()
        self._pages = _PageSpool()
        self.pushed = Pushed()

    def __enter__(self) -> Push:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        self._encoders.shutdown(wait=True, cancel_futures=True)
        self._hasher.shutdown(wait=True, cancel_futures=True)
        if kind is not None:
            self._packer.abandon()
            self._pages.close()

    def run(self, files: Sequence[SourceFile]) -> Pushed:
        """Push the files, in order. Returns once every pack that was sent is durable to the policy.

        Raises `InvalidInput` code `source_changed` where a file changes meanwhile, and what `Replicas` raises.
        """
        found = find_tensors(files)
        for index, source in enumerate(files):
            self._push_file(index, source, found.get(source.path))
        self._packer.finish()
        self.pushed.packs_sent = self._packer.sent.packs
        self.pushed.stored_bytes = self._packer.sent.stored_bytes
        self.pushed.packs_reused -= set(self._packer.sent.packs)
        return self.pushed

    def write_layout(self, blobs: Blobs, version: str) -> str:
        """Write the layout of the pushed files as that of `version` (a digest); returns the head's name."""
        bodies = self._pages.finish()
        first = next(bodies)
        pages = [blobs.write("pages", body) for body in bodies]
        tensors = blobs.write("tensors", encode_tensors(self.pushed.tensors)) if self.pushed.tensors else None
        self._pages.close()
        return blobs.write("layouts", encode_head(version, self._class, self.pushed.runs, pages, tensors, first))

    def _push_file(self, index: int, source: SourceFile, tensors: tuple[Tensor, ...] | None) -> None:
        descriptor = open_source(source)
        digest = hashlib.sha256()
        try:
            check_unchanged(source, descriptor)
            for piece in self._reader.pieces(descriptor, source.path, source.size_bytes, tensors):
                hashed = self._hasher.submit(digest.update, piece.data)
                self._queue.append((piece, self._encoders.submit(self._encode, piece), hashed))
                while len(self._queue) > self._options.piece_buffers - 2:
                    self._collect(index)
            while self._queue:
                self._collect(index)
            check_unchanged(source, descriptor)
        finally:
            for piece, encoded, hashed in self._queue:  # only after an error
                encoded.cancel()
                hashed.cancel()
                piece.release()
            self._queue.clear()
            os.close(descriptor)
        if tensors:
            self.pushed.tensors[source.path] = tensors
        self.pushed.files.append(FileEntry(source.path, source.size_bytes, digest.hexdigest(), source.executable))

    def _encode(self, piece: Piece) -> Record | _Reused:
        """On an encoder's thread: the record of a piece, or where its chunk lies already."""
        chunk_id = blake3(piece.data, key=self._space.chunk_id_key).digest()
        known = self._known(chunk_id)
        if known is not None:
            return known
        encoder = getattr(self._local, "encoder", None)
        if encoder is None:
            encoder = self._local.encoder = Encoder()
        dtype = None if piece.tensor is None else piece.tensor.dtype
        length = len(piece.data)
        base_place = self._base_place(piece)
        base = None
        if base_place is not None and piece.tensor is not None:
            ahead = self._bases.following(piece.tensor, piece.tensor_offset + length, length)
            base = self._bases.read(base_place, ahead)
        encoded = encoder.encode(piece.data, dtype=dtype, base=base)
        if (
            is_delta(encoded.codec)
            and self._options.delta == "egress"
            and len(encoded.payload) > length * EGRESS_DELTA_MAX
        ):
            encoded = encoder.encode(piece.data, dtype=dtype)
        base_id = base_place.chunk_id if base_place is not None and is_delta(encoded.codec) else None
        return self._packer.sealer.seal(chunk_id, encoded.codec, length, base_id, encoded.payload)

    def _base_place(self, piece: Piece) -> Place | None:
        if piece.tensor is None or self._options.delta == "off":
            return None
        place = self._bases.find(piece.tensor, piece.tensor_offset, len(piece.data))
        return None if place is None or place.pack_id in self._dead_packs else place

    def _known(self, chunk_id: bytes) -> _Reused | None:
        place = self._packer.placed.get(chunk_id) or self._catalogue.find(chunk_id, self._class)
        if place is None or place.pack_id in self._dead_packs:
            return None
        if place.base_id is None:
            return _Reused(place, None)
        base = self._whole(place.base_id)
        return None if base is None else _Reused(place, base)

    def _whole(self, chunk_id: bytes) -> Place | None:
        """A place where the chunk is stored whole, as a delta base must be."""
        place = self._packer.placed.get(chunk_id) or self._catalogue.find(chunk_id, self._class)
        return None if place is None or place.base_id is not None or place.pack_id in self._dead_packs else place

    def _collect(self, file: int) -> None:
        """Lay the oldest piece's record into a pack, in file order, and note its place."""
        piece, encoding, hashed = self._queue.popleft()
        try:
            result = encoding.result()
            stored_bytes = 0
            if isinstance(result, Record):
                place = self._packer.placed.get(result.chunk_id)  # the same chunk twice, encoded at the same time
                if place is None:
                    place = self._packer.append(result)
                    stored_bytes = result.stored_length
                base = None if place.base_id is None else self._base_of(place.base_id)
            else:
                place, base = result.place, result.base
            hashed.result()
        finally:
            piece.release()
        self._note(file, piece.start, place, base, stored_bytes)

    def _base_of(self, base_id: bytes) -> Place:
        found = self._whole(base_id)
        if found is None:
            raise AssertionError("a delta was made to a base that is nowhere")
        return found

    def _note(self, file: int, start: int, place: Place, base: Place | None, stored_bytes: int) -> None:
        pushed = self.pushed
        pushed.chunks += 1
        pushed.read_bytes += place.raw_length
        if stored_bytes == 0:
            pushed.reused_bytes += place.raw_length
        elif base is not None:
            pushed.delta_bytes += place.raw_length
        pushed.packs_reused.add(place.pack_id)
        if base is not None:
            pushed.packs_reused.add(base.pack_id)
        page, number = self._pages.append(place, base)
        last = pushed.runs[-1] if pushed.runs else None
        if last is not None and (last.file, last.page, last.first + last.count) == (file, page, number):
            pushed.runs[-1] = Run(file, page, last.first, last.count + 1, last.start)
        else:
            pushed.runs.append(Run(file, page, number, 1, start))
        self._progress.advance(place.raw_length, stored_bytes=stored_bytes)


class _PageSpool:
    """Pages of places, kept in a file where they are more than a few: 1 TB of model has 60 MiB of them."""

    def __init__(self) -> None:
        self._builder = PageBuilder()
        self._lengths: list[int] = []
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=4 * MIB)  # noqa: SIM115

    def append(self, place: Place, base: Place | None) -> tuple[int, int]:
        """Page and number in the page that the place has got."""
        if self._builder.full():
            self._flush()
        self._builder.append(place, base)
        return len(self._lengths), len(self._builder.chunks) - 1

    def finish(self) -> Iterator[bytes]:
        """The bodies of the pages in order; the next is read only when it is asked for."""
        self._flush()
        self._file.seek(0)
        return (self._file.read(length) for length in self._lengths)

    def close(self) -> None:
        self._file.close()

    def _flush(self) -> None:
        body = self._builder.finish()
        self._file.write(body)
        self._lengths.append(len(body))
        self._builder = PageBuilder()
