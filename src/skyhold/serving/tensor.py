"""Tensors of requests and responses, and the datatypes of the Open Inference Protocol.

Specification: `kserve/open-inference-protocol`, section "Tensor Data Types". `BF16` is handled by `ml_dtypes`, since
NumPy lacks it; BYTES are arrays of `object`, whose elements are `bytes`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from skyhold import error_codes
from skyhold.errors import InvalidInput

Array = np.ndarray[Any, np.dtype[Any]]

_NUMPY: Final = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "object",
}
DATATYPES: Final = (*_NUMPY, "BF16")
_NAMES: Final = {np.dtype(dtype): name for name, dtype in _NUMPY.items()}
RANK_MAX: Final = 32
"""Dimensions of a tensor, as in NumPy before 2."""
EMPTY_ELEMENTS_MAX: Final = 1 << 31
"""Product of the other sizes of a tensor that has a size of 0."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named tensor; its datatype and shape are those of `array`."""

    name: str
    array: Array

    @property
    def datatype(self) -> str:
        return datatype_of(self.array.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.array.shape
        return shape


def numpy_dtype(datatype: str, name: str) -> np.dtype[Any]:
    """The type of NumPy for a datatype of the tensor `name`. Raises `InvalidInput`."""
    if datatype == "BF16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    try:
        return np.dtype(_NUMPY[datatype])
    except (KeyError, TypeError):
        raise InvalidInput(
            f"Tensor {name!r} has the datatype {datatype!r}, which the protocol does not define",
            code=error_codes.TENSOR_MISMATCH,
            hint=f"Use one of {', '.join(DATATYPES)}",
        ) from None


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The datatype of the protocol for a type of NumPy; texts are BYTES. Raises `InvalidInput`."""
    if dtype.kind in "OSU":
        return "BYTES"
    name = _NAMES.get(dtype.newbyteorder("=")) or ("BF16" if dtype.name == "bfloat16" else None)
    if name is None:
        raise InvalidInput(f"The protocol has no datatype for arrays of {dtype}", code=error_codes.TENSOR_MISMATCH)
    return name


def check_shape(name: str, shape: Sequence[object], elements_max: int) -> tuple[int, ...]:
    """The shape of the tensor `name`, whose data has no more than `elements_max` elements. Raises `InvalidInput`."""
    sizes: list[int] = []
    if len(shape) > RANK_MAX:
        raise InvalidInput(
            f"Tensor {name!r} has {len(shape)} dimensions; at most {RANK_MAX} are accepted",
            code=error_codes.TENSOR_MISMATCH,
        )
    for size in shape:
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise InvalidInput(
                f"Tensor {name!r} has the shape {list(shape)!r:.200}; each size must be an integer from 0 on",
                code=error_codes.TENSOR_MISMATCH,
            )
        sizes.append(size)
    count = math.prod(sizes)
    # A size of 0 makes any other fit: bound those as well, since NumPy multiplies them.
    if count > elements_max or math.prod(max(size, 1) for size in sizes) > max(elements_max, EMPTY_ELEMENTS_MAX):
        raise InvalidInput(
            f"Tensor {name!r} has the shape {list(shape)!r:.200}, which is more than its data",
            code=error_codes.TENSOR_MISMATCH,
        )
    return tuple(sizes)


def array_of(values: Sequence[Any], dtype: np.dtype[Any]) -> Array:
    """An array of one dimension. Raises `ValueError`, `TypeError` or `OverflowError` for a value that is not of the
    type."""
    if dtype.kind == "O":
        array = np.empty(len(values), dtype=object)
        array[:] = values
        return array
    if dtype.kind in "biu":
        return np.array(values, dtype=dtype)
    return np.array(values, dtype=np.float64).astype(dtype)


def texts_to_bytes(array: Array) -> Array:
    """An array of texts as one of `bytes` in UTF-8; any other array as it is."""
    if array.dtype.kind == "U":
        array = array.astype(object)
    if array.dtype.kind == "S":
        return array.astype(object)
    if array.dtype.kind == "O":
        flat = [item.encode() if isinstance(item, str) else item for item in array.ravel().tolist()]
        return array_of(flat, array.dtype).reshape(array.shape)
    return array
