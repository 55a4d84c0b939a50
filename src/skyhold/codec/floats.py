"""The values of every float type that a tensor may have, also of those that NumPy lacks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def is_float_type(dtype: str) -> bool:
    """Whether `decode_floats` knows a type."""
    return dtype in _DECODERS


def decode_floats(dtype: str, data: bytes) -> Array:
    """The elements as float64, exactly. `dtype` is a float type of safetensors; a complex number counts as two."""
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return _DECODERS[dtype](data)


def _plain(dtype: str) -> Callable[[bytes], Array]:
    return lambda data: np.frombuffer(data, dtype).astype(np.float64)


def _bfloat16(data: bytes) -> Array:
    bits = np.frombuffer(data, "<u2").astype(np.uint32) << 16
    return bits.view(np.float32).astype(np.float64)


def _by_table(table: Array) -> Callable[[bytes], Array]:
    return lambda data: table[np.frombuffer(data, np.uint8)]


def _float8(exponent_bits: int, bias: int, *, negative_zero_is_nan: bool) -> Array:
    """All 256 values of an 8-bit float (OCP 8-bit floating point; FNUZ after Noune et al., arXiv:2206.02915)."""
    codes = np.arange(256)
    mantissa_bits = 7 - exponent_bits
    exponent = codes >> mantissa_bits & ((1 << exponent_bits) - 1)
    mantissa = (codes & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    magnitude = np.where(exponent == 0, mantissa * 2.0 ** (1 - bias), (1 + mantissa) * 2.0 ** (exponent - bias))
    values = np.where(codes & 0x80, -magnitude, magnitude)
    if negative_zero_is_nan:
        values[0x80] = math.nan
    elif exponent_bits == 4:
        values[[0x7F, 0xFF]] = math.nan
    else:
        values[[0x7C, 0xFC]] = math.inf, -math.inf
        values[[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = math.nan
    return values


_EXPONENTS_ONLY: Final = np.append(2.0 ** np.arange(-127.0, 128.0), math.nan)
_DECODERS: Final[dict[str, Callable[[bytes], Array]]] = {
    "F64": _plain("<f8"),
    "F32": _plain("<f4"),
    "F16": _plain("<f2"),
    "C64": _plain("<f4"),
    "C128": _plain("<f8"),
    "BF16": _bfloat16,
    "F8_E4M3": _by_table(_float8(4, 7, negative_zero_is_nan=False)),
    "F8_E5M2": _by_table(_float8(5, 15, negative_zero_is_nan=False)),
    "F8_E4M3FNUZ": _by_table(_float8(4, 8, negative_zero_is_nan=True)),
    "F8_E5M2FNUZ": _by_table(_float8(5, 16, negative_zero_is_nan=True)),
    "F8_E8M0": _by_table(_EXPONENTS_ONLY),
}
