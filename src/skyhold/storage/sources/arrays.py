"""Arrays in memory as one safetensors file. The same arrays make the same bytes, in whatever order they are given."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skyhold import error_codes
from skyhold.codec.formats import safetensors
from skyhold.codec.formats.tensor import Malformed, element_width_bytes
from skyhold.errors import InvalidInput
from skyhold.storage.sources.port import OpenFile, changed

DTYPES: Final = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "complex64": "C64", "bool": "BOOL",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip
"""Types by the name that NumPy (with `ml_dtypes`) and PyTorch both give them."""


@dataclass(frozen=True, slots=True)
class _Array:
    """An array of the caller, with the type, shape and size that it had when it was given."""

    value: Any
    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


class ArraysFile:
    """A safetensors file of arrays, which stay unchanged until the push has ended. They are copied one at a time,
    and only where one is not in order in memory or not on the CPU."""

    def __init__(self, path: str, arrays: Mapping[str, object]) -> None:
        """Raises `InvalidInput` code `invalid_tensor` where safetensors cannot hold one."""
        found = [_described(path, name, value) for name, value in arrays.items()]
        self._arrays = sorted(found, key=lambda array: (-_width(array), array.name))
        self._head = safetensors.encode_head(
            (array.name, array.dtype, array.shape, array.size_bytes) for array in self._arrays
        )
        self._starts: list[int] = []
        position = len(self._head)
        for array in self._arrays:
            self._starts.append(position)
            position += array.size_bytes
        self.path, self.size_bytes, self.executable = path, position, False
        self._check_readable()

    def open(self) -> OpenFile:
        return _OpenArrays(self)

    def _check_readable(self) -> None:
        """What is written here must be readable as tensors: a reader bounds their number and the header."""
        try:
            safetensors.read_tensors(self.size_bytes, lambda start, length: self._head[start : start + length])
        except Malformed:
            raise InvalidInput(
                f"The {len(self._arrays)} tensors of {self.path} need a header that safetensors readers refuse",
                code=error_codes.INVALID_TENSOR,
                hint="Spread them over several files, or give them shorter names",
            ) from None


class _OpenArrays:
    def __init__(self, file: ArraysFile) -> None:
        self._file = file
        self._at: tuple[int, memoryview] | None = None

    def read_into(self, view: memoryview, start: int) -> None:
        file, done = self._file, 0
        while done < len(view):
            position = start + done
            index = bisect_right(file._starts, position) - 1
            data, begin = (memoryview(file._head), 0) if index < 0 else (self._bytes(index), file._starts[index])
            piece = data[position - begin : position - begin + len(view) - done]
            view[done : done + len(piece)] = piece
            done += len(piece)

    def check_unchanged(self) -> None:
        """Nothing: the caller keeps the arrays as they are."""

    def close(self) -> None:
        self._at = None

    def _bytes(self, index: int) -> memoryview:
        if self._at is None or self._at[0] != index:
            array = self._file._arrays[index]
            data = _contiguous_bytes(array.value)
            if len(data) != array.size_bytes:
                raise changed(self._file.path, f"{self._file.path}, tensor `{array.name}`,")
            self._at = index, data
        return self._at[1]


def is_array(value: object) -> bool:
    """Whether a value is an array of NumPy, PyTorch, JAX or another library that can hand its arrays on."""
    return hasattr(value, "__array__") or hasattr(value, "__dlpack__")


def _described(path: str, name: object, value: object) -> _Array:
    if not isinstance(name, str) or not name or name == "__metadata__" or not _has_utf8(name):
        raise InvalidInput(
            f"Tensor {name!r} of {path} has a name that safetensors cannot hold",
            code=error_codes.INVALID_TENSOR,
            hint="Name it by a text that is not empty and not `__metadata__`",
        )
    if not is_array(value):
        raise InvalidInput(
            f"Expected tensor `{name}` of {path} as an array but got a {type(value).__name__}",
            code=error_codes.INVALID_TENSOR,
            hint="Give an array of NumPy, or a tensor of a library that can hand it on (PyTorch, JAX)",
        )
    given: Any = value
    if not hasattr(given, "dtype") or not hasattr(given, "shape"):
        given = _as_numpy(given)
    dtype = str(getattr(given.dtype, "name", given.dtype)).removeprefix("torch.")
    if dtype not in DTYPES or isinstance(given, np.ma.MaskedArray):
        raise InvalidInput(
            f"Tensor `{name}` of {path} has type {given.dtype}"
            + (" and a mask" if isinstance(given, np.ma.MaskedArray) else "")
            + ", which safetensors cannot hold",
            code=error_codes.INVALID_TENSOR,
            hint="Convert it, or push it in a file of another format",
        )
    shape = tuple(int(length) for length in given.shape)
    size_bytes = int(np.prod(shape, dtype=object)) * element_width_bytes(DTYPES[dtype])
    return _Array(given, name, DTYPES[dtype], shape, size_bytes)


def _width(array: _Array) -> int:
    return element_width_bytes(array.dtype)


def _has_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _contiguous_bytes(value: Any) -> memoryview:
    """The elements of an array, row-major and little-endian."""
    array = np.ascontiguousarray(_as_numpy(value))
    if array.dtype.str.startswith(">"):
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.reshape(-1).view(np.uint8).data


def _as_numpy(value: Any) -> NDArray[Any]:
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    if hasattr(value, "detach"):  # PyTorch, which NumPy can ask for types that both have only
        value = value.detach().cpu()
        if str(value.dtype).removeprefix("torch.").startswith(("bfloat16", "float8")):
            value = value.contiguous().reshape(-1).view(sys.modules["torch"].uint8)
        return np.asarray(value.numpy())
    return np.asarray(value) if hasattr(value, "__array__") else np.from_dlpack(value)
