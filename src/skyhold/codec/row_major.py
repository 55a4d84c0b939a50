"""Tensors in the one form that safetensors holds: row-major, elements little-endian. A format may store another one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any, Final

from skyhold.codec.formats.tensor import FORTRAN, Tensor, element_width_bytes
from skyhold.units import Buffer

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_BYTES: Final = 64 << 20
"""What is held in memory while the elements of a tensor are put into another order."""

_BIG_ENDIAN: Final = re.compile(r">([fiuc])(2|4|8)")
_KINDS: Final = {"f": "F", "i": "I", "u": "U", "c": "C"}


def is_column_major(tensor: Tensor) -> bool:
    """Whether the first dimension of a tensor varies fastest; of one dimension or none, both orders are the same."""
    return tensor.dtype.endswith(FORTRAN) and len(tensor.shape) > 1


def row_major_dtype(dtype: str) -> str:
    """The type of the same tensor once it is row-major and little-endian: `F32` of `F32`, `F32:fortran` and `>f4`."""
    plain = dtype.removesuffix(FORTRAN)
    match = _BIG_ENDIAN.fullmatch(plain)
    return plain if match is None else f"{_KINDS[match[1]]}{8 * int(match[2])}"


def little_endian(dtype: str, data: bytes) -> Buffer:
    """Whole elements of a tensor of this type, each little-endian."""
    match = _BIG_ENDIAN.fullmatch(dtype.removesuffix(FORTRAN))
    if match is None:
        return data
    import numpy as np

    width = int(match[2]) // (2 if match[1] == "c" else 1)  # a complex number is two numbers
    return np.frombuffer(data, f"u{width}").byteswap().data.cast("B")


def row_major(tensor: Tensor, pieces: Iterable[Buffer], spool: IO[bytes]) -> Iterator[Buffer]:
    """The bytes of a tensor in row-major order, from those in column-major order. Its elements have whole bytes.
    `spool` is an empty file, for writing and reading, on a disk that has room for the tensor."""
    import numpy as np

    for piece in pieces:
        spool.write(piece)
    spool.flush()
    if 0 not in tensor.shape:
        width = element_width_bytes(row_major_dtype(tensor.dtype))
        yield from _blocks(np.memmap(spool, f"u{width}", "r", shape=tensor.shape, order="F"))


def _blocks(array: NDArray[Any]) -> Iterator[Buffer]:
    import numpy as np

    row_bytes = array.nbytes // len(array)
    if row_bytes > BLOCK_BYTES:
        for row in array:
            yield from _blocks(row)
        return
    rows = BLOCK_BYTES // row_bytes
    for start in range(0, len(array), rows):
        yield np.ascontiguousarray(array[start : start + rows]).data.cast("B")
