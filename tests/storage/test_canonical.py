"""Canonical JSON: what is written the short way has the bytes of the library."""

from __future__ import annotations

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from skyhold.storage.canonical import INTEGER_MAX, canonical

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-INTEGER_MAX, INTEGER_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.slow
@settings(max_examples=300)
@given(values)
def test_bytes_are_those_of_the_library(value: object) -> None:
    assert canonical(value) == rfc8785.dumps(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [{"€": 1, "\U0001f600": 2, "\ufb33": 3}, {"b": 1, "a": 2, "A": 3, "": 4}, {"x": "\x00\x1f\x7f\u2028\"\\/"},
     {"tuple": (1, 2)}, [1.0, 1e21, -0.0], {"true": True, "int": 1}, "\U0001f600"],
)  # fmt: skip
def test_order_escapes_and_numbers_are_those_of_the_library(value: object) -> None:
    assert canonical(value) == rfc8785.dumps(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [2**53, -(2**53), {"x": 2**60}, "\ud800", {"\ud800": 1}, {1: 2}, object()])
def test_what_json_cannot_hold_is_refused_by_the_library(value: object) -> None:
    with pytest.raises(Exception) as ours:
        canonical(value)
    with pytest.raises(type(ours.value)):
        rfc8785.dumps(value)  # type: ignore[arg-type]
