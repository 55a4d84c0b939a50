"""The format of histories: what is written is read as it was, and what is no history is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.consensus.histories.history import (
    Changes,
    Conflict,
    Failed,
    MalformedHistory,
    Move,
    Operation,
    Read,
    Result,
    Resync,
    Unknown,
    Value,
    Watch,
    check_history,
    from_json,
    read_history,
    to_json,
    write_history,
)
from tests.consensus.histories.planted import BAD, GOOD, ONE, did, found, set_, unsure

LINE = (
    '{"register": "names", "client": "a", "operation": "compare_and_set", "expected_version": 3, "data": "four", '
    '"operation_id": "op-7", "called_ns": 123, "returned_ns": 456, '
    '"result": {"kind": "conflict", "current_version": 5}}'
)


def test_line_of_the_document_is_read_and_written_as_it_is() -> None:
    operation = from_json(LINE)
    assert operation.result == Conflict(5)
    assert to_json(operation) == LINE


def test_what_is_written_is_read_as_it_was(tmp_path: Path) -> None:
    watches = [
        did("w", 10, 20, Watch(1), Changes(((2, "two"), (3, "a line\u2028or two\n")))),
        did("w", 30, 40, Watch(3), Changes(())),
        did("w", 50, 60, Watch(0), Resync(90, "ninety")),
        did("w", 70, None, Watch(90), Unknown()),
    ]
    for history in [*BAD.values(), *GOOD.values(), watches]:
        write_history(tmp_path / "history.jsonl", history)
        assert read_history(tmp_path / "history.jsonl") == history


@pytest.mark.parametrize(
    ("shipped", "broken"),
    [
        ('"compare_and_set"', '"guess"'),
        ('"conflict"', '"changes"'),
        ('"client": "a", ', ""),
        ('"called_ns": 123', '"called_ns": 500'),
        ('"called_ns": 123', '"called_ns": -1'),
        ('"called_ns": 123', '"called_ns": "soon"'),
        ('"returned_ns": 456', '"returned_ns": null'),
        ('"kind": "conflict", "current_version": 5', '"kind": "unknown"'),
        ('"expected_version": 3', '"expected_version": true'),
        ('"data": "four"', '"data": 4'),
        ('"register"', '"epoch": 1, "register"'),
        ('"current_version": 5', '"current_version": 5, "sealed": true'),
        ("{", "["),
    ],
)
def test_line_that_is_no_operation_is_refused(shipped: str, broken: str, tmp_path: Path) -> None:
    assert shipped in LINE
    path = tmp_path / "history.jsonl"
    path.write_text(f"{LINE}\n{LINE.replace(shipped, broken)}\n")
    with pytest.raises(MalformedHistory, match=r"history\.jsonl:2"):
        read_history(path)


def test_result_that_does_not_answer_the_request_is_refused() -> None:
    with pytest.raises(MalformedHistory, match="cannot be answered"):
        Operation("names", "a", 1, 2, Read(), Conflict(1))


@pytest.mark.parametrize("result", [Failed(), Value(1, "one")])
def test_move_has_no_answer(result: Result) -> None:
    with pytest.raises(MalformedHistory, match="cannot be answered"):
        Operation("names", "epoch 2", 1, 2, Move(), result)


@pytest.mark.parametrize(
    ("history", "why"),
    [
        ([ONE, found("a", 15, 30, 0)], "two things at once"),
        ([ONE, replace(ONE, register="config", called_ns=15)], "two things at once"),
        ([unsure("a", 10, 0, "one"), unsure("b", 10, 1, "one")], "have one id"),
        ([ONE, set_("b", 10, 20, 1, "two", "op-one")], "have one id"),
    ],
)
def test_operations_that_one_client_cannot_have_done_are_refused(history: list[Operation], why: str) -> None:
    with pytest.raises(MalformedHistory, match=why):
        check_history(history)


def test_client_goes_on_after_an_attempt_without_an_answer() -> None:
    check_history([unsure("a", 10, 0, "one"), did("a", 15, 20, Read(), Value(0, ""))])
