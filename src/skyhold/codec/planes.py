"""Arithmetic on whole chunks of elements: byte planes, and differences to a base.

All arrays are one-dimensional, elements unsigned and little-endian. Every operation is a NumPy loop into a buffer that
exists already: such a loop releases the GIL, and fresh megabytes would cost more than the arithmetic.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Words = NDArray[np.unsignedinteger]

WIDTHS = (1, 2, 4, 8)
"""Element widths in bytes that have planes and differences."""


def words_of(data: Bytes, width: int) -> Words:
    """The whole elements of `width` bytes at the beginning of `data`, as a view."""
    count = len(data) // width
    return data[: count * width].view(f"<u{width}")


def split(words: Words, planes: list[Bytes]) -> None:
    """Write byte `k` of every element into `planes[k]`, least significant first."""
    for k, plane in enumerate(planes):
        np.right_shift(words, 8 * k, out=plane, casting="unsafe")


def merge(planes: list[Bytes], words: Words) -> None:
    """Undo `split`: compose every element of `words` from its bytes."""
    width = words.itemsize
    if width == 2:  # two passes over whole elements, three times as fast as two over every second byte
        np.multiply(planes[1], 256, out=words, dtype=words.dtype)
        np.bitwise_or(words, planes[0], out=words)
        return
    octets = words.view(np.uint8)
    for k, plane in enumerate(planes):
        np.copyto(octets[k::width], plane)


def difference(words: Words, base: Words, out: Words) -> None:
    """`words - base`, moved up by 0x80 in every byte: a small difference of either sign changes the lowest byte only.

    Bit patterns of floats of one sign are ordered like the floats, so a small step is a small integer. Two passes to
    write and two to read; zigzag, which serves as well, takes four and five.
    """
    np.subtract(words, base, out=out)
    np.add(out, _centre(words), out=out)


def undo_difference(words: Words, base: Words) -> None:
    """Undo `difference` in place: differences in `words` become elements."""
    np.add(words, base, out=words)
    np.subtract(words, _centre(words), out=words)


def _centre(words: Words) -> np.unsignedinteger:
    """0x80 in every byte of an element."""
    return words.dtype.type(int.from_bytes(b"\x80" * words.itemsize, "little"))
