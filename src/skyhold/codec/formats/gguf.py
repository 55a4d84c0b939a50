"""GGUF: metadata pairs, tensor descriptions, padding, then the tensors.

Specification: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from struct import unpack

from skyhold.codec.formats.tensor import TENSORS_MAX, Malformed, Read, Tensor, check_shape, in_file_order
from skyhold.codec.formats.window import Window

HEADER_BYTES_MAX = 32 << 20
"""A vocabulary of 262,000 tokens with its merges takes about 15 MiB."""

_PAIRS_MAX = 1 << 16
_NESTING_MAX = 4
_NAME_BYTES_MAX = 1 << 16
_DIMENSIONS_MAX = 8

_UINT32, _STRING, _ARRAY = 4, 8, 9
_VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

# ggml type number: name, elements per block, bytes per block (ggml-common.h)
_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Description:
    name: str
    shape: tuple[int, ...]
    type_number: int
    offset: int


def matches(head: bytes) -> bool:
    """Whether the first bytes of a file may be those of a GGUF file."""
    return head[:4] == b"GGUF"


def read_tensors(size_bytes: int, read: Read) -> tuple[Tensor, ...]:
    """The tensors of a GGUF file. Raises `Malformed`."""
    window = Window(size_bytes, read, limit_bytes=HEADER_BYTES_MAX)
    _magic, version, tensor_count, pair_count = unpack("<IIQQ", window.take(24))
    if version not in (2, 3) or tensor_count > TENSORS_MAX or pair_count > _PAIRS_MAX:
        raise Malformed
    alignment = 32
    for _ in range(pair_count):
        key, type_number = _string(window), _u32(window)
        if key == "general.alignment" and type_number == _UINT32:
            alignment = _u32(window)
        else:
            _skip_value(window, type_number, depth=0)
    descriptions = [_description(window) for _ in range(tensor_count)]
    if not 1 <= alignment <= 1 << 20:
        raise Malformed
    data_start = -(-window.position // alignment) * alignment
    return in_file_order(_placed(descriptions, data_start, size_bytes), size_bytes)


def _description(window: Window) -> _Description:
    name, dimensions = _string(window), _u32(window)
    if dimensions > _DIMENSIONS_MAX:
        raise Malformed
    # ggml lists the fastest dimension first; ours is row-major.
    shape = tuple(reversed([_u64(window) for _ in range(dimensions)]))
    check_shape(shape)
    return _Description(name, shape, _u32(window), _u64(window))


def _placed(descriptions: list[_Description], data_start: int, size_bytes: int) -> list[Tensor]:
    """Descriptions with their byte ranges. A type newer than this program reaches to the next tensor."""
    starts = sorted({description.offset for description in descriptions})
    next_start = dict(pairwise([*starts, size_bytes - data_start]))
    tensors = []
    for description in descriptions:
        dtype, block_elements, block_bytes = _TYPES.get(description.type_number, ("", 1, 0))
        elements = prod(description.shape)
        if (description.shape or (1,))[-1] % block_elements:  # a block never reaches into the next row
            raise Malformed
        length = elements // block_elements * block_bytes
        if not dtype:
            dtype = f"GGML_{description.type_number}"
            length = next_start[description.offset] - description.offset
        start = data_start + description.offset
        tensors.append(Tensor(description.name, dtype, description.shape, start, start + length))
    return tensors


def _skip_value(window: Window, type_number: int, depth: int) -> None:
    if type_number == _STRING:
        window.skip(_u64(window))
    elif type_number == _ARRAY:
        item_type, count = _u32(window), _u64(window)
        if depth >= _NESTING_MAX:
            raise Malformed
        if item_type in _VALUE_BYTES:
            window.skip(count * _VALUE_BYTES[item_type])
            return
        if count > window.bytes_left // 8:  # every string or array takes 8 bytes or more
            raise Malformed
        for _ in range(count):
            _skip_value(window, item_type, depth + 1)
    elif type_number in _VALUE_BYTES:
        window.skip(_VALUE_BYTES[type_number])
    else:
        raise Malformed


def _string(window: Window) -> str:
    length = _u64(window)
    if length > _NAME_BYTES_MAX:
        raise Malformed
    try:
        return window.take(length).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed from error


def _number(width: int) -> Callable[[Window], int]:
    return lambda window: int.from_bytes(window.take(width), "little")


_u32, _u64 = _number(4), _number(8)
