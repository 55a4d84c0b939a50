"""What users type: references, pairs, policies."""

from __future__ import annotations

import math

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyhold.cli.arguments import PairType, Reference, ReferenceType, policy_of, read_metric
from skyhold.cli.output import printable
from skyhold.cli.verbs.diff import _percent
from skyhold.errors import InvalidInput
from skyhold.storage.policy import Policy
from tests.cli.running import Shell


@pytest.mark.parametrize(
    ("typed", "reference"),
    [
        ("fraud/scorer", Reference("fraud/scorer", "main", given=False)),
        ("fraud/scorer@v1.2", Reference("fraud/scorer", "v1.2")),
        ("fraud/scorer@feature/x~2", Reference("fraud/scorer", "feature/x~2")),
    ],
)
def test_reference_is_taken_apart(typed: str, reference: Reference) -> None:
    assert ReferenceType().convert(typed, None, None) == reference


@pytest.mark.parametrize("typed", ["scorer", "a/b/c", "fraud/scorer@", "@main", "fraud/../x", "", "fraud/scorer@a b"])
def test_what_is_no_reference_is_refused(typed: str) -> None:
    with pytest.raises(InvalidInput):
        ReferenceType().convert(typed, None, None)


def test_reference_without_a_ref_is_refused_where_one_is_needed() -> None:
    with pytest.raises(click.BadParameter, match="fraud/scorer@REF"):
        ReferenceType(ref_needed=True).convert("fraud/scorer", None, None)


@pytest.mark.parametrize("typed", ["12e10", "3.10", "7e12345", "true", "null", '{"a": 1}', "=x", "", "NaN", ":=3"])
def test_value_is_the_text_as_it_is_given(typed: str) -> None:
    assert PairType(str, typed=True).convert(f"commit={typed}", None, None) == ("commit", typed)


@pytest.mark.parametrize(
    ("typed", "value"), [("0.1", 0.1), ("3", 3), ("true", True), ('"3"', "3"), ('{"lr": [1, 2]}', {"lr": [1, 2]})]
)
def test_value_is_json_where_the_user_asks_for_it(typed: str, value: object) -> None:
    assert PairType(str, typed=True).convert(f"lr:={typed}", None, None) == ("lr", value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_metric_is_read_exactly(number: float) -> None:
    assert read_metric(repr(number)) == number


@pytest.mark.parametrize("typed", ["nan", "inf", "-Infinity", "1e999", "high", ""])
def test_metric_that_is_no_finite_number_is_refused(typed: str) -> None:
    with pytest.raises(ValueError, match="finite number"):
        read_metric(typed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "accuracy"], "expected NAME=VALUE but got 'accuracy'"),
        (["--metric", "=3"], "expected NAME=VALUE"),
        (["--metric", "accuracy=nan"], "accuracy: expected a finite number but got 'nan'"),
        (["--metric", "a=1", "--metric", "a=2"], "'a' is given more than once"),
        (["--param", "lr"], "expected NAME=VALUE or NAME:=JSON"),
        (["--param", "lr:=high"], "lr: expected JSON after := but got 'high'"),
        (["--meta", "x:=NaN"], "x: expected JSON after :="),
        (["--meta", "x:=" + "[" * 100_000], "x: expected JSON after :="),
    ],
)
def test_wrong_pair_is_refused_before_anything_is_opened(arguments: list[str], message: str, skyhold: Shell) -> None:
    assert message in skyhold("push", "fraud/scorer", ".", *arguments, status=2).err


def test_policy_changes_only_what_is_given() -> None:
    before = Policy(copies=3, providers=2, regions=("eu-*",), delta="off")
    assert policy_of(before, copies=None, providers=None, regions=(), delta=None) == before
    changed = policy_of(before, copies="majority", providers=1, regions=("us-*",), delta="egress")
    assert changed == Policy(copies=None, providers=1, regions=("us-*",), delta="egress")


@pytest.mark.parametrize("copies", ["-1", "two", "1.5", "²"])
def test_number_of_copies_must_be_a_number(copies: str) -> None:
    with pytest.raises(click.BadParameter):
        policy_of(Policy(), copies=copies, providers=None, regions=(), delta=None)


@given(st.text())
def test_printable_text_prints_and_keeps_what_prints(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()


@given(st.floats(0, 1, exclude_min=True))
def test_share_that_is_not_whole_never_reads_as_all_or_nothing(share: float) -> None:
    shown = _percent(share)
    assert (shown == "100.0 %") == (share == 1)
    assert not math.isclose(float(shown.removeprefix("> ").removesuffix(" %")), 0)
