"""The values of a stored tensor as NumPy has them.

Types that NumPy lacks (`BF16`, 8-bit floats) become float32, which holds each of their values exactly. Packed and
block-quantised types have no values here. Nothing but the tensor's own chunks is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skyhold import error_codes
from skyhold.codec.floats import decode_floats, is_float_type
from skyhold.codec.row_major import is_column_major
from skyhold.codec.tensors import FORTRAN, element_width_bytes
from skyhold.errors import InvalidInput
from skyhold.storage.named_tensors import NamedTensor, misplaced
from skyhold.storage.version_files import StoredFile
from skyhold.units import MIB

Array = NDArray[Any]

_STEP_BYTES: Final = 8 * MIB
_DTYPES: Final = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "C64": "<c8", "C128": "<c16", "BOOL": "|b1",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1",
}  # fmt: skip
_OF_NUMPY: Final = re.compile(r"[<>|=][fiucbSU][1-9]\d{0,3}")


class TensorValues:
    """The values of one tensor, whose `dtype` is NumPy's."""

    def __init__(self, file: StoredFile, named: NamedTensor) -> None:
        """Raises `InvalidInput` code `tensor_type` for a type without values, and `Corrupt` where the bytes that are
        listed do not fit the shape."""
        tensor = named.tensor
        plain = tensor.dtype.removesuffix(FORTRAN)
        self._stored = None if is_decoded(plain) else _numpy_type(plain)
        if self._stored is None and not is_decoded(plain):
            raise InvalidInput(
                f"Tensor `{named.name}` of {file.path} has type {plain}, which NumPy cannot hold",
                code=error_codes.TENSOR_TYPE,
                hint="Read its whole file, with the library of its format",
            )
        width = element_width_bytes(plain) if self._stored is None else self._stored.itemsize
        if prod(tensor.shape) * width != named.size_bytes or not 0 <= tensor.start <= tensor.end <= file.size_bytes:
            raise misplaced(named.name, file.path)
        self._file, self._tensor, self._plain, self._width = file, tensor, plain, width
        self.shape = tensor.shape
        self.dtype = np.dtype(np.float32) if self._stored is None else self._stored.newbyteorder("=")
        self.column_major = is_column_major(tensor)

    def pieces(self) -> Iterator[Array]:
        """The elements in the order in which they are stored, a few MiB at a time."""
        step = _STEP_BYTES // self._width * self._width
        for start in range(self._tensor.start, self._tensor.end, step):
            data = self._file.read(start, min(step, self._tensor.end - start))
            if self._stored is None:
                yield decode_floats(self._plain, data).astype(self.dtype)
            else:
                yield np.frombuffer(data, self._stored).astype(self.dtype)

    def array(self) -> Array:
        """All of them, in the shape of the tensor. A column-major one stays so in memory."""
        flat, done = np.empty(prod(self.shape), self.dtype), 0
        for piece in self.pieces():
            flat[done : done + len(piece)] = piece
            done += len(piece)
        return flat.reshape(self.shape, order="F" if self.column_major else "C")


def is_decoded(dtype: str) -> bool:
    """Whether a type is one that NumPy lacks, whose values are decoded to float32."""
    return dtype not in _DTYPES and is_float_type(dtype)


def _numpy_type(dtype: str) -> np.dtype[Any] | None:
    if dtype in _DTYPES:
        return np.dtype(_DTYPES[dtype])
    if _OF_NUMPY.fullmatch(dtype):
        with suppress(TypeError):  # such as `>f3`
            return np.dtype(dtype)
    return None
