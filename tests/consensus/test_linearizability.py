"""Both judges, our search and Porcupine, on histories that are known to be right or wrong, and on random ones."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers, randoms

from skyhold.consensus.register import CHANGES_KEPT
from tests import servers
from tests.consensus.histories.generated import mutated, random_history
from tests.consensus.histories.history import Operation, Value, write_history
from tests.consensus.histories.linearizability import Verdict
from tests.consensus.histories.planted import BAD, GOOD, ONE, found, unsure
from tests.consensus.histories.porcupine import porcupine, renamed
from tests.consensus.histories.register_model import judge, verdicts

SEEDS = 500
HARD = [
    *(unsure(f"{version}-{n}", 10, version, f"{version}-{n}") for version in range(10) for n in range(10)),
    found("b", 30, 40, 11, "made up"),
]
"""There are 10^10 ways to reach version 10, and it takes all of them to see that none is right."""


def verdict(history: list[Operation]) -> Verdict:
    return judge(history)["names"].verdict


@functools.cache
def verdicts_of_porcupine() -> dict[str, Verdict]:
    return porcupine(renamed(BAD | GOOD))


@pytest.mark.parametrize("wrong", BAD)
def test_search_rejects(wrong: str) -> None:
    assert verdict(BAD[wrong]) is Verdict.ILLEGAL


@pytest.mark.parametrize("right", GOOD)
def test_search_accepts(right: str) -> None:
    assert verdict(GOOD[right]) is Verdict.OK


@pytest.mark.parametrize("wrong", BAD)
def test_porcupine_rejects(wrong: str) -> None:
    assert verdicts_of_porcupine()[wrong] is Verdict.ILLEGAL


@pytest.mark.parametrize("right", GOOD)
def test_porcupine_accepts(right: str) -> None:
    assert verdicts_of_porcupine()[right] is Verdict.OK


def test_search_names_the_operation_that_does_not_fit() -> None:
    stale = found("c", 30, 40, 0)
    judgement = judge([ONE, stale])["names"]
    assert judgement.stuck == stale
    assert judgement.longest == 1


def test_search_that_was_given_up_has_no_verdict() -> None:
    assert judge(HARD, configurations_max=1_000)["names"].verdict is Verdict.UNKNOWN


def checked(folder: Path, history: list[Operation], *options: str) -> tuple[int, list[str]]:
    """The exit status of `history-checker` and its verdicts."""
    path = folder / "history.jsonl"
    write_history(path, history)
    command = [servers.program("history-checker"), *options, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, [json.loads(line)["verdict"] for line in done.stdout.splitlines()]


def test_porcupine_that_runs_out_of_time_has_no_verdict_and_a_status_of_its_own(tmp_path: Path) -> None:
    assert checked(tmp_path, HARD, "-timeout", "100ms") == (2, ["unknown"])


def test_program_reports_by_its_status_what_it_found_and_draws_what_is_wrong(tmp_path: Path) -> None:
    picture = tmp_path / "wrong.html"
    options = ("-visualise", str(picture))
    assert checked(tmp_path, [ONE], *options) == (0, ["ok"])
    assert not picture.exists()
    wrong = renamed({"right": [ONE], "wrong": [ONE, found("c", 30, 40, 0)]})
    assert checked(tmp_path, wrong, *options) == (1, ["ok", "illegal"])
    assert "op-one" in picture.read_text()


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"register": "names", "client": "a", "operation": "guess", "called_ns": 1, "returned_ns": 2}',
        '{"register": "names", "client": "a", "operation": "read", "called_ns": 1, "returned_ns": 2,'
        ' "result": {"kind": "value", "version": 1, "data": "x", "sealed": true}}',
        '{"register": "names", "client": "a", "operation": "read", "called_ns": 1, "returned_ns": null,'
        ' "result": {"kind": "value", "version": 1, "data": "x"}}',
        '{"register": "names", "client": "a", "operation": "read", "called_ns": 1, "returned_ns": 2,'
        ' "result": {"kind": "conflict", "current_version": 1}}',
    ],
)
def test_program_refuses_what_is_no_history(line: str, tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(line + "\n")
    command = [servers.program("history-checker"), path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "line 1" in done.stderr


@given(randoms(use_true_random=False), integers(1, 4), integers(1, 12), integers(0, 3))
@settings(print_blob=True)
def test_search_accepts_what_a_correct_register_did(random: Random, clients: int, operations: int, moves: int) -> None:
    assert verdict(random_history(random, clients=clients, operations=operations, moves=moves)) is Verdict.OK


@pytest.mark.parametrize("operations", [4, 12])
def test_judges_agree_on_random_histories_right_and_changed(operations: int) -> None:
    histories: dict[str, list[Operation]] = {}
    for seed in range(SEEDS):
        random = Random(seed)
        right = random_history(
            random, clients=random.choice([2, 3, 5]), operations=operations, moves=random.choice([0, 1, 3])
        )
        histories[f"seed {seed}, {operations} operations, right"] = right
        histories[f"seed {seed}, {operations} operations, changed"] = mutated(random, right)
    ours = verdicts(renamed(histories))
    theirs = porcupine(renamed(histories))
    assert [name for name in ours if theirs[name] is not ours[name]] == []
    assert [name for name in ours if name.endswith("right") and ours[name] is not Verdict.OK] == []
    # Both verdicts are frequent among what was changed, so agreement is evidence.
    changed = [ours[name] for name in ours if name.endswith("changed")]
    assert SEEDS // 4 < changed.count(Verdict.ILLEGAL) < SEEDS * 9 // 10


def test_judges_decide_and_agree_on_a_thousand_operations_with_many_unknown() -> None:
    histories = {}
    for seed in range(8):
        random = Random(seed)
        right = random_history(random, clients=8, operations=125, moves=seed)
        histories[f"seed {seed}, right"] = right
        histories[f"seed {seed}, changed"] = mutated(random, right)
    values = [
        result
        for history in histories.values()
        for operation in history
        if isinstance(result := operation.result, Value)
    ]
    assert max(value.version for value in values) > CHANGES_KEPT
    ours = verdicts(renamed(histories))
    assert ours == porcupine(renamed(histories))
    assert set(ours.values()) == {Verdict.OK, Verdict.ILLEGAL}
