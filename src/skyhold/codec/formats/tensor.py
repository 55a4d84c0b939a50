"""Where a tensor is in a file, the names of element types, and the limits that every format's reader keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod

Read = Callable[[int, int], bytes]
"""`read(start, length)`: the bytes of a file in `[start, start + length)`, fewer only at the end of the file."""

TENSORS_MAX = 1 << 16
"""Tensors of one file. A file with more is stored as bytes: its list would not fit into a page of memory anyhow."""

DIMENSIONS_MAX = 64
SIZE_BYTES_MAX = 2**53 - 1
"""Of places, sizes and dimensions: what a JSON document can hold, in which they are stored."""

FORTRAN = ":fortran"
"""What is added to the type of a dense tensor of several dimensions whose *first* dimension varies fastest."""

_WIDTH_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64, "C128": 128,
    "F4": 4, "U4": 4, "I4": 4, "U2": 2, "I2": 2, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class Malformed(Exception):
    """The header is not what its format requires. The file is then stored as bytes."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array in the bytes `[start, end)` of a file, elements little-endian in the order of the file.

    `dtype` is a name of safetensors (`BF16`, `F8_E4M3`, `I64`), or of the format itself where safetensors has none
    (`Q4_K` of GGUF, `>f4` of NumPy). `shape` is row-major: the last dimension varies fastest, but for a `dtype` that
    ends in `:fortran` (`F32:fortran`), whose first one does.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def element_width_bytes(dtype: str) -> int:
    """Bytes of one element, or 0 where elements are packed, block-quantised or unknown."""
    return _WIDTH_BITS.get(dtype.removesuffix(FORTRAN), 0) // 8


def tensor_size_bytes(dtype: str, shape: tuple[int, ...]) -> int | None:
    """Bytes of a dense tensor (sub-byte elements packed), or None where the type is unknown to us.

    Raises `Malformed` for a negative, too large or too deep shape, or packed elements that end inside a byte.
    """
    bits_per_element = _WIDTH_BITS.get(dtype)
    check_shape(shape)
    if bits_per_element is None:
        return None
    bits = prod(shape) * bits_per_element
    if bits % 8 or bits // 8 > SIZE_BYTES_MAX:
        raise Malformed
    return bits // 8


def check_shape(shape: tuple[int, ...]) -> None:
    """Raises `Malformed` for a shape that no file can hold."""
    if len(shape) > DIMENSIONS_MAX or not all(0 <= dimension <= SIZE_BYTES_MAX for dimension in shape):
        raise Malformed


def in_file_order(tensors: Iterable[Tensor], size_bytes: int) -> tuple[Tensor, ...]:
    """The tensors sorted by their place. Raises `Malformed` where two overlap or one is outside the file."""
    ordered = tuple(sorted(tensors, key=lambda tensor: (tensor.start, tensor.end, tensor.name)))
    position = 0
    for tensor in ordered:
        if not position <= tensor.start <= tensor.end <= size_bytes:
            raise Malformed
        position = tensor.end
    return ordered


def read_exactly(read: Read, start: int, length: int, size_bytes: int) -> bytes:
    """The bytes `[start, start + length)`. Raises `Malformed` where the file has fewer."""
    if start < 0 or length < 0 or start + length > size_bytes:
        raise Malformed
    data = read(start, length)
    if len(data) != length:
        raise Malformed
    return data
