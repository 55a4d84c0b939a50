"""Arguments of callers, of any type: they become plain values, or are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from skyhold.errors import InvalidInput
from skyhold.registry import validate

LONE_SURROGATE = "\ud800"


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("number", "plain"),
    [
        (np.float32(0.5), 0.5),
        (np.float64(0.25), 0.25),
        (np.longdouble(0.5), 0.5),
        (np.int64(3), 3),
        (np.array(0.5), 0.5),
        (Fraction(1, 4), 0.25),
        (2**53 - 1, 2**53 - 1),
        (-0.0, -0.0),
    ],
)
def test_numbers_of_other_libraries_become_plain_ones(number: object, plain: float) -> None:
    found = validate.numbers({"accuracy": number}, "metrics")["accuracy"]
    assert (found, type(found)) == (plain, type(plain))
    assert validate.values({"lr": {"deep": [number]}}, "parameters") == {"lr": {"deep": [plain]}}


@pytest.mark.parametrize(
    "number",
    [
        None, True, np.bool_(True), "0.5", b"0.5", 10**400, -(10**400), 10**9000, float("nan"), np.float32("inf"),
        Fraction(10**400, 1), Decimal("0.5"), 1j, [0.5], np.array([0.5]), {}, object, 2**53,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_no_finite_number_is_refused_by_the_name_of_its_metric(number: object) -> None:
    with pytest.raises(InvalidInput, match="`accuracy`"):
        validate.numbers({"accuracy": number}, "metrics")


@pytest.mark.parametrize("values", ["v1", b"v1", {"v1": 1}, 3, None, [3], [None], [b"v1"], [LONE_SURROGATE]])
def test_text_and_other_values_where_a_list_of_texts_is_meant_are_refused(values: object) -> None:
    with pytest.raises(InvalidInput, match="tags"):
        validate.texts(values, "tags")


def test_any_series_of_texts_is_a_list_of_them() -> None:
    for values in (["a", "b"], ("a", "b"), (letter for letter in "ab"), np.array(["a", "b"])):
        found = validate.texts(values, "tags")
        assert found == ("a", "b")
        assert {type(text) for text in found} == {str}
    assert validate.text(Colour.RED, "a colour") == "red"
    assert type(validate.text(Colour.RED, "a colour")) is str


def deep() -> object:
    value: list[object] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "values",
    [
        "a=b", ["a"], {1: 2}, {"a": {1: 2}}, {"a": object()}, {"a": b"bytes"}, {"a": LONE_SURROGATE},
        {LONE_SURROGATE: 1}, {"a": 10**400}, {"a": 10**9000}, {"a": float("nan")}, {"a": {1, 2}}, {"a": deep()},
        {"a": np.zeros(3)}, {"a": np.datetime64("2026-11-30")}, {"a": Fraction(10**400, 1)},
    ],
    ids=lambda value: str(type(value).__name__),
)  # fmt: skip
def test_values_that_json_cannot_hold_are_refused(values: object) -> None:
    with pytest.raises(InvalidInput, match="parameters"):
        validate.values(values, "parameters")


@pytest.mark.parametrize("path", ["", "a\0b", b"bytes", None, 3, [], Path])
def test_what_is_no_path_is_refused(path: object) -> None:
    with pytest.raises(InvalidInput, match="the folder"):
        validate.path(path, "the folder")


@pytest.mark.parametrize("number", [-1, 0, True, "3", 2.0, None, np.float32(1)])
def test_what_is_no_count_is_refused(number: object) -> None:
    with pytest.raises(InvalidInput, match="limit"):
        validate.count(number, "limit")


def test_value_without_an_end_is_named_in_short() -> None:
    class Unprintable:
        def __repr__(self) -> str:
            raise RuntimeError

    refusals: list[Callable[[], object]] = [
        lambda: validate.text(["x" * 10**6], "a"),
        lambda: validate.text(Unprintable(), "a"),
        lambda: validate.number(10**9000, "a"),
    ]
    for refused in refusals:
        with pytest.raises(InvalidInput) as error:
            refused()
        assert len(error.value.message) < 200
