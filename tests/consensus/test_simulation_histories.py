"""What the clients of the simulation saw, before Porcupine and the checker of watches. The simulation itself puts every
history before its quick judge, the search and the checker of watches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from skyhold.consensus import buckets
from skyhold.consensus.operation import after, newest
from skyhold.consensus.register import RegisterChange, Resync, Versioned
from tests.consensus.histories.history import Changes, Operation, Watch, check_history
from tests.consensus.histories.history import Resync as ResyncReported
from tests.consensus.histories.linearizability import Verdict
from tests.consensus.histories.porcupine import porcupine
from tests.consensus.simulation.run import Report, simulate

SEEDS = range(60)
LONG_SEEDS = (2, 3)
LONG_OPERATIONS = 220
"""Of each client: so many changes that a watcher that was late misses some that are no longer kept."""


def simulate_long() -> list[Report]:
    return [simulate(seed, operations=LONG_OPERATIONS) for seed in LONG_SEEDS]


def named(reports: Sequence[Report]) -> list[Operation]:
    """The histories of these runs, their registers named for the seed."""
    return [
        replace(operation, register=f"seed {report.seed}, {operation.register}")
        for report in reports
        for operation in report.history
    ]


@pytest.mark.parametrize("reports", [lambda: [simulate(seed) for seed in SEEDS], simulate_long])
def test_porcupine_accepts_what_clients_of_the_simulation_saw(reports: Callable[[], list[Report]]) -> None:
    verdicts = porcupine(named(reports()))
    assert {register: verdict for register, verdict in verdicts.items() if verdict is not Verdict.OK} == {}


def test_watchers_of_the_simulation_get_changes_and_resyncs() -> None:
    reported: Counter[type] = Counter()
    for report in simulate_long():
        check_history(report.history)
        assert report.violation is None
        assert report.watch_violation is None
        reported.update(type(operation.result) for operation in report.history if isinstance(operation.request, Watch))
    assert reported[Changes] > 0
    assert reported[ResyncReported] > 0


Kept = Sequence[RegisterChange]
Found = Sequence[Versioned] | Resync


def _goes_on_with_what_is_left(kept: Kept, version: int) -> Found:
    found = after(kept, version)
    return [change.value for change in kept if change.value.version > version] if isinstance(found, Resync) else found


def _reports_the_newest_alone(kept: Kept, version: int) -> Found:
    found = after(kept, version)
    return found if isinstance(found, Resync) else found[-1:]


def _reports_one_change_again(kept: Kept, version: int) -> Found:
    return after(kept, max(version - 1, 0))


def _misses_the_newest(kept: Kept, version: int) -> Found:
    return after(kept[:-1], version)


def _resyncs_at_every_change(kept: Kept, version: int) -> Found:
    found, current = after(kept, version), newest(kept)
    return Resync(current) if found and current else found


@pytest.mark.parametrize(
    "broken",
    [
        _goes_on_with_what_is_left,
        _reports_the_newest_alone,
        _reports_one_change_again,
        _misses_the_newest,
        _resyncs_at_every_change,
    ],
)
def test_watch_that_is_broken_is_found_out(
    broken: Callable[[Kept, int], Found], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "after", broken)
    reports = simulate_long()
    assert any(report.watch_violation for report in reports)
    assert not any(report.violation for report in reports)
