"""Chunks as Hypothesis draws them: noise, repeats, weights and small changes of them, of every length and type."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

DTYPES = [None, "BF16", "F16", "F32", "F64", "F8_E4M3", "I8", "I16", "I32", "I64", "U8", "BOOL", "C64", "C128", "Q4_K"]


@st.composite
def chunks(draw: st.DrawFn, max_size: int = 200_000) -> bytes:
    length = draw(st.one_of(st.integers(0, 70), st.integers(0, max_size)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["noise", "zeros", "weights", "halves", "repeats", "drawn"]))
    if kind == "drawn":
        return draw(st.binary(max_size=300))
    if kind == "noise":
        return generator.bytes(length)
    if kind == "zeros":
        return bytes(length)
    if kind == "repeats":
        return (generator.bytes(37) * (length // 37 + 1))[:length]
    weights = (generator.standard_normal(length // 4 + 1) * 0.02).astype("<f4")
    if kind == "halves":
        return (weights.view("<u4") >> 16).astype("<u2").tobytes()[:length]
    return weights.tobytes()[:length]


@st.composite
def bases(draw: st.DrawFn, data: bytes) -> bytes | None:
    """None, a base near the data, one far from it, or one of another length."""
    kind = draw(st.sampled_from(["none", "near", "far", "longer"]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    if kind == "none":
        return None
    if kind == "longer":
        return data + b"x"
    if kind == "far":
        return generator.bytes(len(data))
    near = bytearray(data)
    for position in generator.integers(0, max(len(near), 1), len(near) // 50):
        near[position] ^= 1
    return bytes(near)
