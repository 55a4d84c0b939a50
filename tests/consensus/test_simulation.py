"""The shipped driver of the bucket engine in a simulated world. A violation names its seed, which repeats it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from skyhold.errors import Conflict
from tests.consensus.histories.history import read_history
from tests.consensus.histories.linearizability import Verdict
from tests.consensus.histories.porcupine import is_built, porcupine
from tests.consensus.histories.register_model import verdicts
from tests.consensus.histories.watching import watch_violation
from tests.consensus.simulation.campaign import tally
from tests.consensus.simulation.clouds import Cloud
from tests.consensus.simulation.judge import FOREVER, Done, violation
from tests.consensus.simulation.mutants import MUTANTS, PITFALLS, killed
from tests.consensus.simulation.run import Run, simulate

SEEDS = int(os.environ.get("SKYHOLD_SIMULATION_SEEDS", "300"))
CHUNKS = max(1, min(4, SEEDS // 250))
"""Each meets every fault in every phase, which takes some 250 seeds."""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_registers_are_linearizable_under_every_fault(chunk: int, capsys: pytest.CaptureFixture[str]) -> None:
    found = tally(range(chunk, SEEDS, CHUNKS))
    with capsys.disabled():
        print(f"\nseeds {chunk}, {chunk + CHUNKS} .. {SEEDS - 1}: {found.table()}")
    assert found.complaints() == []


def test_every_pitfall_of_the_list_is_a_mutant() -> None:
    assert {mutant.pitfall for mutant in MUTANTS.values()} | {*BROKEN_CLOUDS.values()} == {*PITFALLS}


@pytest.mark.parametrize("name", MUTANTS)
def test_pitfall_is_found_out_when(name: str, tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    assert killed(name, path) is not None
    if MUTANTS[name].stops:
        return
    history = read_history(path)
    assert Verdict.ILLEGAL in verdicts(history).values() or watch_violation(history) is not None
    if is_built():
        assert porcupine(history) == verdicts(history)


def _not_atomic(run: Run) -> None:
    """Clouds that check the condition of a put, and write a little later."""
    for cloud in run.clouds:
        put_if = cloud.put_if

        def racy(
            key: str, body: bytes, expected_tag: str | None, cloud: Cloud = cloud, put_if: _Put = put_if
        ) -> str | Conflict:
            before = dict(cloud.objects)
            result = put_if(key, body, expected_tag)
            if not isinstance(result, Conflict):
                cloud.objects.clear()
                cloud.objects.update(before)
                run.world.at(0.03, lambda: cloud.objects.__setitem__(key, body))
            return result

        cloud.put_if = racy  # type: ignore[method-assign]


def _ballots_outside_the_tag(run: Run) -> None:
    """Clouds whose tag depends on the value alone, as where the ballots were kept in the object's metadata."""
    for cloud in run.clouds:

        def tag(name: str, body: bytes, cloud: Cloud = cloud) -> str:
            return repr(cloud.state(name, body).value)

        cloud.tag = tag  # type: ignore[method-assign]


_Put = Callable[[str, bytes, str | None], str | Conflict]


def _admitted_as_anything(run: Run) -> None:
    """Clouds whose incarnation is whatever is asked for, so long as they have any."""
    for cloud in run.clouds:
        cloud.is_admitted = lambda incarnation, cloud=cloud: cloud.incarnation is not None  # type: ignore[method-assign, misc]


BROKEN_CLOUDS = {_not_atomic: 2, _ballots_outside_the_tag: 6, _admitted_as_anything: 7}
"""With the number of the pitfall (`simulation/mutants.py`)."""


@pytest.mark.parametrize("broken", BROKEN_CLOUDS)
def test_cloud_that_breaks_the_rules_is_found_out(broken: Callable[[Run], None]) -> None:
    assert any(simulate(seed, prepare=broken).violation is not None for seed in range(300))


def test_one_seed_is_one_run() -> None:
    assert simulate(11) == simulate(11)
    assert simulate(11) != simulate(12)


ONE = Done("a", "compare_and_set", 0, 1, 1, b"one", changes=True)
TWO = Done("a", "compare_and_set", 2, 3, 2, b"two", changes=True)


@pytest.mark.parametrize(
    ("history", "why"),
    [
        ([ONE, TWO, Done("b", "read", 4, 5, 1, b"one")], "comes after it"),
        ([ONE, Done("b", "read", 4, 5, 0)], "comes after it"),
        ([ONE, Done("b", "conflict", 4, 5, 0)], "comes after it"),
        ([ONE, replace(TWO, saw=1)], "two values"),
        ([ONE, Done("b", "read", 4, 5, 2, b"one")], "took effect twice"),
        ([ONE, Done("b", "read", 4, 5, 2, b"made up")], "no client wrote"),
        ([replace(ONE, fate="never", saw=None), Done("b", "read", 4, 5, 1, b"one")], "without effect"),
        ([Done("b", "read", 0, 1, 1, b"one"), replace(ONE, called=2, returned=3)], "comes after it"),
        ([ONE, TWO, Done("b", "read", 2.1, 2.2, 2, b"two"), Done("c", "read", 2.3, 2.4, 1, b"one")], "comes after it"),
    ],
)
def test_history_that_is_not_linearizable_is_rejected(history: list[Done], why: str) -> None:
    found = violation(history)
    assert found is not None
    assert why in found


@pytest.mark.parametrize(
    "history",
    [
        [],
        [ONE, TWO, Done("b", "read", 2.5, 5, 1, b"one"), Done("b", "read", 5, 6, 2, b"two")],
        [replace(ONE, fate="unknown", saw=None, returned=FOREVER), Done("b", "read", 90, 91, 1, b"one")],
        [replace(ONE, fate="unknown", saw=None, returned=FOREVER), Done("b", "read", 90, 91, 0)],
        [ONE, replace(TWO, fate="never", saw=None), Done("b", "conflict", 2, 3, 1)],
    ],
)
def test_history_that_is_linearizable_is_accepted(history: list[Done]) -> None:
    assert violation(history) is None


@pytest.mark.parametrize(
    ("history", "moved", "why"),
    [
        ([ONE, Done("b", "read", 4, 5, 2, b"one")], [4.5, 4.6], None),
        ([ONE, Done("b", "read", 4, 5, 2, b"one"), Done("b", "read", 6, 7, 3, b"one")], [4.5, 4.6], None),
        ([ONE, replace(TWO, called=5, returned=6, saw=3), Done("b", "read", 7, 8, 4, b"two")], [4.0, 6.5], None),
        ([ONE, Done("b", "read", 4, 5, 2, b"one")], [6.0], "comes after it"),
        ([ONE, Done("b", "read", 4, 5, 2, b"one"), Done("b", "read", 6, 7, 3, b"one")], [4.5], "took effect twice"),
        ([ONE, TWO, Done("b", "read", 4, 5, 3, b"one")], [4.5], "took effect twice"),
        ([ONE, Done("b", "read", 4, 5, 2, b"one"), Done("b", "read", 6, 7, 1, b"one")], [4.5], "comes after it"),
        ([ONE, TWO, Done("b", "read", 4, 5, 2, b"one")], [3.5], "two values"),
    ],
)
def test_move_is_judged_as_a_change_that_leaves_the_data(
    history: list[Done], moved: list[float], why: str | None
) -> None:
    found = violation(history, moved)
    assert found is None if why is None else found is not None and why in found
