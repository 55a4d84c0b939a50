"""Reading a source file once, in pieces: one piece becomes one chunk. Buffers are bounded and used again."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from skyhold.codec.cut import CDC_BYTES_MAX, TENSOR_CHUNK_BYTES, Region, cut_bytes, regions
from skyhold.codec.tensors import Tensor
from skyhold.storage.sources.port import OpenFile

WINDOW_BYTES: Final = 2 * CDC_BYTES_MAX


@dataclass(slots=True)
class Piece:
    """Bytes of a file at `start`, in `tensor` (if any) at `tensor_offset`. `release` gives the buffer back."""

    data: memoryview
    start: int
    tensor: Tensor | None
    tensor_offset: int
    _pool: queue.SimpleQueue[bytearray] | None = None
    _buffer: bytearray | None = None

    def release(self) -> None:
        if self._pool is not None and self._buffer is not None:
            self._pool.put(self._buffer)
            self._buffer = None


class PieceReader:
    """Cuts files into pieces with `buffers` buffers of 1 MiB; the reader waits while none is free."""

    def __init__(self, buffers: int) -> None:
        self._pool: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        for _ in range(buffers):
            self._pool.put(bytearray(TENSOR_CHUNK_BYTES))

    def pieces(self, opened: OpenFile, size_bytes: int, tensors: tuple[Tensor, ...] | None) -> Iterator[Piece]:
        """The pieces of an open file of `size_bytes`, in order. Raises `Conflict` where it has become shorter."""
        for region in regions(size_bytes, tensors):
            if region.tensor is None:
                yield from self._by_content(opened, region)
            else:
                yield from self._by_size(opened, region)

    def _by_size(self, opened: OpenFile, region: Region) -> Iterator[Piece]:
        for start in range(region.start, region.end, TENSOR_CHUNK_BYTES):
            length = min(TENSOR_CHUNK_BYTES, region.end - start)
            buffer = self._pool.get()
            view = memoryview(buffer)[:length]
            opened.read_into(view, start)
            yield Piece(view, start, region.tensor, start - region.start, self._pool, buffer)

    def _by_content(self, opened: OpenFile, region: Region) -> Iterator[Piece]:
        window = bytearray(min(WINDOW_BYTES, region.end - region.start))
        view = memoryview(window)
        start, held = region.start, 0
        while start < region.end:
            wanted = min(len(window) - held, region.end - start - held)
            opened.read_into(view[held : held + wanted], start + held)
            held += wanted
            used = 0
            for length in cut_bytes(view[:held], final=start + held == region.end):
                yield Piece(memoryview(bytes(view[used : used + length])), start + used, None, 0)
                used += length
            window[: held - used] = window[used:held]
            start, held = start + used, held - used
