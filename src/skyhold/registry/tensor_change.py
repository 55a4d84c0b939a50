"""How far the values of a tensor moved between two versions, in bounded memory."""

from __future__ import annotations

import math
import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from skyhold.codec.floats import decode_floats, is_float_type
from skyhold.codec.row_major import is_column_major, little_endian, row_major, row_major_dtype
from skyhold.codec.tensors import FORTRAN, Tensor, element_width_bytes
from skyhold.units import Buffer

BLOCK_BYTES: Final = 1 << 20
"""A multiple of every element's width, and the chunk size inside tensors, so that a block is mostly one chunk."""

Array = NDArray[Any]


class TensorFile(Protocol):
    """What is needed of the file that holds a tensor; see `skyhold.registry.diff.StoredFile`."""

    @property
    def path(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    def read(self, start: int, length: int) -> bytes: ...
    def chunks(self) -> Sequence[tuple[int, int, bytes]]: ...


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor and the file that contains it."""

    file: TensorFile
    tensor: Tensor

    def read(self, start: int, length: int) -> bytes:
        """Bytes of the tensor, `start` counted from its first byte."""
        return self.file.read(self.tensor.start + start, length)


@dataclass(frozen=True, slots=True)
class ContentChange:
    """See `skyhold.registry.diff.TensorDiff`."""

    changed_share: float | None
    relative_norm: float | None


@dataclass(frozen=True, slots=True)
class _Copy:
    """A local file in the form of a version's file, to compare its content."""

    path: str
    file: IO[bytes]
    sha256: str = ""

    def read(self, start: int, length: int) -> bytes:
        return os.pread(self.file.fileno(), length, start)

    def chunks(self) -> Sequence[tuple[int, int, bytes]]:
        return ()


@contextmanager
def in_row_major_order(stored: StoredTensor) -> Iterator[StoredTensor]:
    """The same tensor row-major and little-endian; if it is stored in another way, a copy of it in a file without a
    name."""
    tensor = stored.tensor
    dtype, size_bytes = row_major_dtype(tensor.dtype), tensor.end - tensor.start
    if dtype == tensor.dtype:
        yield stored
        return
    pieces: Iterator[Buffer] = (
        little_endian(tensor.dtype, stored.read(start, min(BLOCK_BYTES, size_bytes - start)))
        for start in range(0, size_bytes, BLOCK_BYTES)
    )
    with tempfile.TemporaryFile() as spool, tempfile.TemporaryFile() as copy:
        if is_column_major(tensor):
            pieces = row_major(tensor, pieces, spool)
        for piece in pieces:
            copy.write(piece)
        copy.flush()
        yield StoredTensor(_Copy(stored.file.path, copy), Tensor(tensor.name, dtype, tensor.shape, 0, size_bytes))


def compare_values(old: StoredTensor, new: StoredTensor) -> ContentChange | None:
    """How two tensors of equal type and shape differ; None where they are equal.

    Bytes in chunks that are equal on both sides are not compared; of those, only the old side's are read, for the
    norm of the old tensor, and only once a difference has been found.
    """
    size_bytes = old.tensor.end - old.tensor.start
    if size_bytes != new.tensor.end - new.tensor.start:  # a type whose width depends on its content
        return ContentChange(None, None)
    if old.file.sha256 == new.file.sha256 != "" and old.tensor.start == new.tensor.start:
        return None
    equal = _equal_ranges(old, new)
    width = element_width_bytes(old.tensor.dtype)
    elements, changed, squares_changed, squares_old = size_bytes // (width or 1), 0, 0.0, 0.0
    dtype = old.tensor.dtype.removesuffix(FORTRAN)
    is_float = is_float_type(dtype)
    compared = _complement(equal, size_bytes, width or 1)
    for start, length in _blocks(compared):
        before, after = old.read(start, length), new.read(start, length)
        if before != after:
            changed += _count_changed(before, after, width or 1)
            if not is_float:
                continue
        if is_float:
            values = decode_floats(dtype, before)
            squares_old += _sum_of_squares(values)
            if before != after:
                squares_changed += _sum_of_squares(_difference(values, decode_floats(dtype, after)))
    if not changed:
        return None
    share = changed / elements if width else None
    if not is_float:
        return ContentChange(share, None)
    for start, length in _blocks(_complement(compared, size_bytes, 1)):
        squares_old += _sum_of_squares(decode_floats(dtype, old.read(start, length)))
    return ContentChange(share, _quotient(squares_changed, squares_old))


Range = tuple[int, int]
"""Bytes `[start, end)` of a tensor, counted from its first byte."""


def _equal_ranges(old: StoredTensor, new: StoredTensor) -> list[Range]:
    """In ascending order: where a chunk of the same id is at the same offset relative to the tensor on both sides."""
    known = set(_chunks_of(new))
    size_bytes = old.tensor.end - old.tensor.start
    return [
        (max(start, 0), min(start + length, size_bytes))
        for start, length, chunk_id in _chunks_of(old)
        if (start, length, chunk_id) in known
    ]


def _chunks_of(tensor: StoredTensor) -> Iterator[tuple[int, int, bytes]]:
    """The chunks that hold bytes of the tensor; their starts are relative to it, and may be negative."""
    chunks, origin = tensor.file.chunks(), tensor.tensor.start
    first = max(0, bisect_right(chunks, origin, key=lambda chunk: chunk[0]) - 1)
    for index in range(first, len(chunks)):
        start, length, chunk_id = chunks[index]
        if start >= tensor.tensor.end:
            return
        if start + length > origin:
            yield start - origin, length, chunk_id


def _complement(ranges: list[Range], size_bytes: int, width: int) -> list[Range]:
    """What of `[0, size_bytes)` is outside the ascending `ranges`, grown to whole elements of `width` bytes."""
    outside: list[Range] = []
    position = 0
    for start, end in [*ranges, (size_bytes, size_bytes)]:
        if position < start:
            grown = position // width * width, -(-start // width) * width
            if outside and grown[0] < outside[-1][1]:
                grown = outside.pop()[0], grown[1]
            outside.append(grown)
        position = max(position, end)
    return outside


def _blocks(ranges: list[Range]) -> Iterator[tuple[int, int]]:
    """The ranges cut into (start, length) at multiples of `BLOCK_BYTES` in the tensor."""
    for start, end in ranges:
        position = start
        while position < end:
            stop = min(end, (position // BLOCK_BYTES + 1) * BLOCK_BYTES)
            yield position, stop - position
            position = stop


def _count_changed(before: bytes, after: bytes, width: int) -> int:
    """How many elements of `width` bytes differ in any bit."""
    differs = np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8)
    return int(np.count_nonzero(differs.reshape(-1, width).any(axis=1)))


def _sum_of_squares(values: Array) -> float:
    with np.errstate(all="ignore"):  # NaN and infinity show in the result
        return float(np.dot(values, values))


def _difference(old: Array, new: Array) -> Array:
    with np.errstate(all="ignore"):
        return new - old


def _quotient(squares_changed: float, squares_old: float) -> float | None:
    if not (math.isfinite(squares_changed) and math.isfinite(squares_old)) or squares_old == 0:
        return None
    return math.sqrt(squares_changed / squares_old)
