"""Pushing files into packs: read once, hashed, cut, deduplicated, encoded on both cores, sent to all buckets at once.

The threads: the caller's reads pieces, appends records to packs in file order and collects places; one hashes whole
files; `threads` encode; each bucket has writers of its own. Pieces, packs and windows are the only large buffers, and
all are bounded, so that memory does not depend on the size of what is pushed.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO, Final

from blake3 import blake3

from skyhold.codec.cut import TENSOR_CHUNK_BYTES
from skyhold.codec.squeeze import Encoder, is_delta
from skyhold.codec.tensors import Tensor
from skyhold.errors import SkyholdError
from skyhold.storage.bases import DeltaBases
from skyhold.storage.blobs import Blobs
from skyhold.storage.chunk_index import ChunkIndex
from skyhold.storage.chunk_record import Place, Record
from skyhold.storage.chunks import PackSpace
from skyhold.storage.file_entry import FileEntry
from skyhold.storage.layout import PageBuilder, Run, Tensors, encode_head, encode_tensors
from skyhold.storage.packer import Packer, StoredChunk
from skyhold.storage.progress import Progress
from skyhold.storage.source_reader import Piece, PieceReader
from skyhold.storage.sources.port import SourceFile
from skyhold.storage.tensor_files import find_tensors
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
        """A pack that is filled and two in flight, where memory allows: more make nothing faster."""
        return 3 if self.memory_bytes >= 72 * MIB else 2

    @property
    def pieces(self) -> int:
        """Pieces between reading and appending: two for each encoder, one more each, and one at either end."""
        return 3 * self.threads + 2


@dataclass(slots=True)
class Pushed:
    """What a push stored. Sizes in bytes; `packs` are all packs that the files need, by id, own and reused.

    These ids are kept in memory to the end: with everything else that a push then holds, under 1 KiB per pack, hence
    under 60 MB per TB (`tracemalloc`, pushes of 12 and of 34 packs compared; a dry run: 1.5 KiB). Chunks are kept on
    disk.
    """

    files: list[FileEntry] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    tensors: Tensors = field(default_factory=dict)
    packs_sent: dict[bytes, int] = field(default_factory=dict)
    packs_reused: set[bytes] = field(default_factory=set)
    read_bytes: int = 0
    stored_bytes: int = 0
    reused_bytes: int = 0
    delta_bytes: int = 0


class Push:
    """One push of files into a pack space. Use as a context manager: it ends its threads and settles what was sent."""

    def __init__(
        self,
        space: PackSpace,
        chunk_index: ChunkIndex,
        bases: DeltaBases,
        options: PushOptions,
        progress: Progress,
        dead_packs: frozenset[bytes] = frozenset(),
    ) -> None:
        self._space, self._chunk_index, self._bases = space, chunk_index, bases
        self._options, self._progress, self._dead_packs = options, progress, dead_packs
        self._class = space.placement_class.hex()
        self._packer = Packer(space, chunk_index, buffers=options.pack_buffers, dry_run=options.dry_run)
        self._reader = PieceReader(options.pieces)
        self._encoders = ThreadPoolExecutor(options.threads, thread_name_prefix="encode")
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._local = threading.local()
        self._lost_packs: set[bytes] = set()
        self._queue: deque[tuple[Piece, Future[StoredChunk | _Encoded], Future[None]]] = deque()
        self._pages = _PageSpool()
        self.pushed = Pushed()

    def __enter__(self) -> Push:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        self._encoders.shutdown(wait=True, cancel_futures=True)
        self._hasher.shutdown(wait=True, cancel_futures=True)
        self._pages.close()
        if kind is not None:
            self._packer.abandon()
        self._packer.close()

    def run(self, files: Sequence[SourceFile]) -> Pushed:
        """Push the files, in order. Returns once every pack that was sent is durable to the policy.

        Raises `Conflict` code `source_changed` where a file changes meanwhile, and what `Replicas` raises.
        """
        found = find_tensors(files)
        for index, source in enumerate(files):
            self._push_file(index, source, found.get(source.path))
        self._encoders.shutdown()
        self._hasher.shutdown()
        self._packer.finish()
        self.pushed.packs_sent = self._packer.sent.packs
        self.pushed.stored_bytes = self._packer.sent.stored_bytes
        self.pushed.packs_reused -= set(self._packer.sent.packs)
        return self.pushed

    def write_layout(self, blobs: Blobs, version: str) -> str:
        """Write the layout of the pushed files as that of `version` (a digest); returns the head's name."""
        bodies = self._pages.bodies()
        first = next(bodies)
        pages = [blobs.write("pages", body) for body in bodies]
        tensors = blobs.write("tensors", encode_tensors(self.pushed.tensors)) if self.pushed.tensors else None
        return blobs.write("layouts", encode_head(version, self._class, self.pushed.runs, pages, tensors, first))

    def _push_file(self, index: int, source: SourceFile, tensors: tuple[Tensor, ...] | None) -> None:
        opened = source.open()
        digest = hashlib.sha256()
        try:
            for piece in self._reader.pieces(opened, source.size_bytes, tensors):
                hashed = self._hasher.submit(digest.update, piece.data)
                self._queue.append((piece, self._encoders.submit(self._encode, piece), hashed))
                while self._is_full():
                    self._collect(index)
            while self._queue:
                self._collect(index)
            opened.check_unchanged()
        finally:
            for _, encoding, hashed in self._queue:  # only after an error
                encoding.cancel()
                hashed.cancel()
            self._queue.clear()
            opened.close()
        if tensors:
            self.pushed.tensors[source.path] = tensors
        self.pushed.files.append(FileEntry(source.path, source.size_bytes, digest.hexdigest(), source.executable))

    def _is_full(self) -> bool:
        """Whether a piece must be appended before the next is read: by number, and by bytes where pieces are large."""
        waiting_bytes = sum(len(piece.data) for piece, _, _ in self._queue)
        return max(len(self._queue), waiting_bytes // TENSOR_CHUNK_BYTES) >= self._options.pieces - 1

    def _encode(self, piece: Piece) -> StoredChunk | _Encoded:
        """On an encoder's thread: the record of a piece, or the place where its chunk is stored already."""
        chunk_id = blake3(piece.data, key=self._space.chunk_id_key).digest()
        known = self._known(chunk_id)
        if known is not None:
            return known
        tools = getattr(self._local, "tools", None)
        if tools is None:
            tools = self._local.tools = _Tools(Encoder(), bytearray(TENSOR_CHUNK_BYTES))
        dtype = None if piece.tensor is None else piece.tensor.dtype
        length = len(piece.data)
        base_place = self._base_of(piece)
        base = None
        if piece.tensor is not None and base_place is not None:
            ahead = self._bases.following(piece.tensor, piece.tensor_offset + length, length)
            base = self._read_base(base_place, ahead, memoryview(tools.base)[:length])
        encoded = tools.encoder.encode(piece.data, dtype=dtype, base=base)
        if (
            is_delta(encoded.codec)
            and self._options.delta == "egress"
            and len(encoded.payload) > length * EGRESS_DELTA_MAX
        ):
            encoded = tools.encoder.encode(piece.data, dtype=dtype)
        used = base_place if is_delta(encoded.codec) else None
        base_id = None if used is None else used.chunk_id
        return _Encoded(self._packer.sealer.seal(chunk_id, encoded.codec, length, base_id, encoded.payload), used)

    def _base_of(self, piece: Piece) -> Place | None:
        if piece.tensor is None or self._options.delta == "off":
            return None
        place = self._bases.find(piece.tensor, piece.tensor_offset, len(piece.data))
        if place is None or place.pack_id in self._lost_packs or place.pack_id in self._dead_packs:
            return None
        return place

    def _read_base(self, place: Place, ahead: Sequence[Place], out: memoryview) -> memoryview | None:
        """A delta base, or None where no bucket returns it: the chunk is then stored whole."""
        try:
            return self._bases.read(place, ahead, out)
        except SkyholdError as error:
            if place.pack_id not in self._lost_packs:
                self._lost_packs.add(place.pack_id)
                self._progress.note(f"Without a delta base: {error.message}")
            return None

    def _known(self, chunk_id: bytes) -> StoredChunk | None:
        """Where the chunk is stored already, with its delta base, if both may be reused."""
        stored = self._packer.find(chunk_id)
        if stored is not None:
            return stored
        place = self._chunk_index.find(chunk_id, self._class, self._dead_packs)
        if place is None or place.base_id is None:
            return None if place is None else StoredChunk(place, None)
        base = self._chunk_index.find(place.base_id, self._class, self._dead_packs)
        return None if base is None or base.base_id is not None else StoredChunk(place, base)

    def _collect(self, file: int) -> None:
        """Append the oldest piece's record to a pack, in file order, and note its place."""
        piece, encoding, hashed = self._queue.popleft()
        try:
            result = encoding.result()
            stored_bytes = 0
            if isinstance(result, _Encoded):
                stored = self._known(result.record.chunk_id)  # stored since: the same chunk, encoded at the same time
                if stored is None:
                    stored = StoredChunk(self._packer.append(result.record, result.base), result.base)
                    stored_bytes = result.record.stored_length
            else:
                stored = result
            hashed.result()
        finally:
            piece.release()
        self._note(file, piece.start, stored.place, stored.base, stored_bytes)

    def _note(self, file: int, start: int, place: Place, base: Place | None, stored_bytes: int) -> None:
        pushed = self.pushed
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


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A record for a chunk that is not stored yet, and the place of its delta base, if it has one."""

    record: Record
    base: Place | None


@dataclass(frozen=True, slots=True)
class _Tools:
    """What each encoder's thread has of its own; `base` holds the delta base of the current chunk."""

    encoder: Encoder
    base: bytearray


class _PageSpool:
    """Pages of places, kept in a file where they are more than a few: 1 TB of model has 60 MiB of them."""

    def __init__(self) -> None:
        self._builder = PageBuilder()
        self._lengths: list[int] = []
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=4 * MIB)  # noqa: SIM115

    def append(self, place: Place, base: Place | None) -> tuple[int, int]:
        """Page and number in the page that the place was given."""
        if self._builder.full():
            self._flush()
        self._builder.append(place, base)
        return len(self._lengths), len(self._builder.chunks) - 1

    def bodies(self) -> Iterator[bytes]:
        """The bodies of the pages in order; the next is read only on demand. Used at the end of a push, and again if
        its layout has to be written again."""
        if self._builder.chunks or not self._lengths:
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
