"""Where files are cut into chunks: at tensors where a format names them, by content everywhere else.

Cuts decide only how well versions share their bytes; no reader depends on them, so these settings may change without
a new format. They are measured in `docs/decisions/010-codec.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyfastcdc import FastCDC

from skyhold.codec.tensors import Tensor
from skyhold.units import Buffer

TENSOR_CHUNK_BYTES = 1 << 20
"""Bytes of a chunk inside a tensor: a power of two, hence a multiple of every element's width."""

TENSOR_BYTES_MIN = 4 << 10
"""A smaller tensor (a norm, a bias) is no region of its own: it would cost more in records than it can save."""

CDC_BYTES_MIN, CDC_BYTES_AVERAGE, CDC_BYTES_MAX = 64 << 10, 256 << 10, 1 << 20


@dataclass(frozen=True, slots=True)
class Region:
    """The bytes `[start, end)` of a file: one tensor, or bytes that are cut by content."""

    start: int
    end: int
    tensor: Tensor | None


def regions(size_bytes: int, tensors: Sequence[Tensor] | None) -> list[Region]:
    """Regions that cover a file exactly and in order; byte regions are never empty and never adjacent.

    Tensors below `TENSOR_BYTES_MIN`, headers and gaps go into byte regions. Tensors that are out of order, overlap or
    are not inside the file (such as external data of another file) make the whole file one byte region.
    """
    found: list[Region] = []
    position = covered = 0
    for tensor in tensors or ():
        if not covered <= tensor.start <= tensor.end <= size_bytes:
            return _bytes_only(0, size_bytes)
        covered = tensor.end
        if tensor.end - tensor.start >= TENSOR_BYTES_MIN:
            found += [*_bytes_only(position, tensor.start), Region(tensor.start, tensor.end, tensor)]
            position = tensor.end
    return found + _bytes_only(position, size_bytes)


def _bytes_only(start: int, end: int) -> list[Region]:
    return [Region(start, end, None)] if start < end else []


def cut_bytes(window: Buffer, final: bool) -> list[int]:
    """Lengths of the chunks at the beginning of a window into a byte region (FastCDC, Xia and others 2020).

    `final`: the region ends with the window; then the lengths add up to the window. Otherwise the rest, whose end may
    still move, is left out, and the caller passes it again at the beginning of the next window. The cuts do not depend
    on the windows. A window of `CDC_BYTES_MAX` bytes or more always yields a chunk.
    """
    chunker = FastCDC(CDC_BYTES_AVERAGE, min_size=CDC_BYTES_MIN, max_size=CDC_BYTES_MAX)
    lengths = [chunk.length for chunk in chunker.cut_buf(memoryview(window))]
    # A chunk that ends with the window may have been cut by the window: only one of full length is sure to end there.
    if lengths and not final and lengths[-1] < CDC_BYTES_MAX:
        lengths.pop()
    return lengths
