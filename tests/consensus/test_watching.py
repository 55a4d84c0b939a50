"""The checker of watches, on histories that are known to be right or wrong, and on random ones."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from tests.consensus.histories.generated import random_history
from tests.consensus.histories.history import Changes, Operation, Resync, Unknown, Watch
from tests.consensus.histories.planted import (
    MANY,
    ONE,
    TWO,
    absent,
    did,
    failed,
    found,
    moved,
    refused,
    set_,
    unsure,
)
from tests.consensus.histories.watching import watch_violation

SEEDS = 100


def seen(called_ns: int, returned_ns: int, after: int, *values: tuple[int, str]) -> Operation:
    return did("w", called_ns, returned_ns, Watch(after), Changes(values))


def resynced(called_ns: int, returned_ns: int, after: int, version: int, data: str) -> Operation:
    return did("w", called_ns, returned_ns, Watch(after), Resync(version, data))


V1, V2, V3 = (1, "one"), (2, "two"), (3, "three")
THREE = set_("c", 50, 60, 2, "three")


@pytest.mark.parametrize(
    ("history", "why"),
    [
        ([ONE, TWO, THREE, seen(70, 80, 0, V1, V3)], "one by one"),
        ([ONE, TWO, THREE, seen(70, 80, 1, V1, V2, V3)], "one by one"),
        ([ONE, TWO, THREE, seen(70, 80, 0, V2, V3)], "one by one"),
        ([ONE, TWO, seen(70, 80, 0, V2, V1)], "one by one"),
        ([ONE, TWO, seen(70, 80, 0, V1, V1, V2)], "one by one"),
        ([ONE, TWO, seen(70, 80, 0, V1, (2, "three"))], "several values"),
        ([ONE, unsure("b", 30, 1, "two"), unsure("c", 30, 1, "three"), seen(40, 50, 1, V2),
          seen(60, 70, 1, (2, "three"))], "several values"),
        ([ONE, seen(70, 80, 0, V1, (2, "made up"))], "no client set"),
        ([ONE, seen(30, 40, 1, V2), replace(TWO, called_ns=50, returned_ns=60)], "no client set"),
        ([ONE, failed("b", 22, 24, 1, "two"), seen(30, 40, 1, V2)], "no client set"),
        ([ONE, refused("b", 22, 24, 1, "two", 2), seen(30, 40, 1, V2)], "no client set"),
        ([ONE, unsure("b", 22, 1, "two"), absent("b", 24, 26, "two"), seen(30, 40, 1, V2)], "no client set"),
        ([ONE, unsure("b", 22, 1, "two"), refused("b", 24, 26, 1, "two", 2), seen(30, 40, 1, V2)], "no client set"),
        ([ONE, unsure("b", 22, 2, "two"), seen(30, 40, 1, V2)], "no client set"),
        ([ONE, TWO, seen(50, 60, 0, V1)], "is missing"),
        ([ONE, TWO, seen(50, 60, 1)], "is missing"),
        ([ONE, unsure("b", 22, 1, "two"), found("c", 30, 40, *V2), seen(50, 60, 1)], "is missing"),
        ([ONE, unsure("b", 22, 1, "two"), refused("c", 30, 40, 1, "three", 2), seen(50, 60, 1)], "is missing"),
        ([ONE, unsure("b", 22, 1, "two"), seen(30, 40, 1, V2), seen(50, 60, 1)], "is missing"),
        ([ONE, unsure("b", 22, 1, "two"), seen(30, 40, 1, V2), found("c", 50, 60, *V1)], "older register"),
        ([ONE, unsure("b", 22, 1, "two"), seen(30, 40, 1, V2), refused("c", 50, 60, 2, "three", 1)], "older register"),
        ([*MANY, resynced(660, 670, 1, 65, "v65")], "every change is kept"),
        ([*MANY, resynced(660, 670, 65, 65, "v65")], "every change is kept"),
        ([*MANY, resynced(660, 670, 0, 65, "v64")], "several values"),
        ([*MANY, resynced(660, 670, 0, 66, "v66")], "no client set"),
        ([*MANY, unsure("b", 650, 65, "v66"), found("c", 652, 654, 66, "v66"), resynced(660, 670, 0, 65, "v65")],
         "is missing"),
        ([ONE, TWO, resynced(50, 60, 9, 1, "one")], "is missing"),
        ([ONE, moved(22), seen(30, 40, 0, V1, (2, "not one"))], "no client set"),
        ([ONE, moved(22), seen(30, 40, 0, V1, (2, "one"), (3, "one"))], "no client set"),
        ([ONE, moved(50), seen(30, 40, 0, V1, (2, "one"))], "no client set"),
        ([moved(10), seen(30, 40, 0, (1, ""))], "no client set"),
        ([ONE, moved(22), found("c", 24, 26, 2, "one"), seen(30, 40, 0, V1)], "is missing"),
        ([ONE, TWO, moved(42), seen(50, 60, 1, (2, "one"))], "several values"),
    ],
)  # fmt: skip
def test_watch_with_a_wrong_answer_is_rejected(history: list[Operation], why: str) -> None:
    violation = watch_violation(history)
    assert violation is not None
    assert why in violation


@pytest.mark.parametrize(
    "history",
    [
        [],
        [seen(10, 20, 0)],
        [seen(10, 20, 3)],
        [ONE, TWO, seen(50, 60, 0, V1, V2), seen(70, 80, 2)],
        [ONE, TWO, seen(50, 60, 1, V2), seen(70, 80, 0, V1, V2)],
        [ONE, TWO, seen(25, 35, 1), seen(36, 38, 1, V2)],
        [ONE, TWO, seen(25, 60, 0, V1)],
        [ONE, unsure("b", 30, 1, "two"), seen(40, 50, 1, V2)],
        [ONE, unsure("b", 30, 1, "two"), seen(40, 50, 1), seen(60, 70, 1, V2)],
        [ONE, failed("b", 22, 24, 1, "two"), set_("b", 26, 28, 1, "two"), seen(30, 40, 1, V2)],
        [
            ONE,
            unsure("b", 22, 1, "two"),
            absent("b", 24, 26, "two"),
            set_("b", 27, 28, 1, "two"),
            seen(30, 40, 1, V2),
        ],
        [*MANY, resynced(660, 670, 0, 65, "v65")],
        [*MANY, seen(660, 670, 0, *((number, f"v{number}") for number in range(1, 66)))],
        [ONE, resynced(30, 40, 7, 1, "one"), seen(50, 60, 1)],
        [ONE, moved(22), seen(30, 40, 0, V1, (2, "one"))],
        [ONE, moved(22), seen(30, 40, 0, V1)],
        [ONE, moved(22), moved(24, "other"), seen(30, 40, 1, (2, "one"), (3, "one"))],
        [ONE, unsure("b", 22, 1, "two"), moved(24), seen(30, 40, 2, (3, "two"))],
    ],
)
def test_watch_with_a_right_answer_is_accepted(history: list[Operation]) -> None:
    assert watch_violation(history) is None


def test_watch_of_one_register_is_not_judged_by_another() -> None:
    assert watch_violation([ONE, replace(TWO, register="config"), seen(50, 60, 1)]) is None


def test_random_watches_of_a_correct_register_are_accepted_and_changed_ones_rejected() -> None:
    rejected = 0
    for seed in range(SEEDS):
        random = Random(seed)
        history = random_history(random, clients=3, operations=10, watchers=2, moves=seed % 3)
        assert watch_violation(history) is None, f"seed {seed}"
        for index, watch in enumerate(history):
            values = watch.result.values if isinstance(watch.result, Changes) else ()
            if not values:
                continue
            at = random.randrange(len(values))
            version, data = values[at]
            for wrong in [
                (*values[:at], *values[at + 1 :]) if at < len(values) - 1 else (*values, (version + 1, "made up")),
                (*values[:at], (version, f"not {data}"), *values[at + 1 :]),
                (*values[: at + 1], *values[at:]),
            ]:
                changed = [*history[:index], replace(watch, result=Changes(wrong)), *history[index + 1 :]]
                assert watch_violation(changed) is not None, f"seed {seed}: {wrong} instead of {values}"
                rejected += 1
    assert rejected > SEEDS


def test_watch_without_an_answer_proves_nothing() -> None:
    assert watch_violation([ONE, did("w", 30, None, Watch(0), Unknown())]) is None
