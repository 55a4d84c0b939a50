"""The report of the last decision: the proposer that committed it, never one that only prepared after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from skyhold.cli.voting import last_decision
from skyhold.consensus.acceptor import Ballot, promise
from skyhold.consensus.acceptor_object import AcceptorObject
from skyhold.consensus.migration import NAMES
from skyhold.consensus.paxos import Get, Put, Seen
from skyhold.store.engine_status import Decision, EngineStatus, _decision
from tests.consensus.fixtures import FlakyBucket, bucket_registers, new_buckets


@pytest.fixture
def voters() -> Iterator[list[FlakyBucket]]:
    """Three voters that show a decision of `ada`."""
    buckets = new_buckets(3)
    ada = bucket_registers(buckets, writer="ada")
    ada.compare_and_set(NAMES, 0, b"one", "a")
    ada.compare_and_set(NAMES, 1, b"two", "b")
    for number in range(100):  # until the voter that is slowest has accepted it under the ballot of the others
        shown = [
            held.state.accepted if isinstance(held, AcceptorObject) else None for held in ada.inspect(NAMES).values()
        ]
        if None not in shown and len(set(shown)) == 1:
            break
        ada.outcome(NAMES, f"level-{number}")
    ada.close()
    yield buckets


def prepare(voters: list[FlakyBucket], count: int) -> None:
    """`ben` prepares at the first `count` voters, and dies."""
    ben = bucket_registers(voters, writer="ben")
    for name in sorted(ben._clients)[:count]:
        seen = ben._clients[name].perform(NAMES, Get(name), 2)
        assert isinstance(seen, Seen)
        promised = promise(seen.state, Ballot(10_000, "f" * 32))
        assert promised is not None
        assert isinstance(ben._clients[name].perform(NAMES, Put(name, seen.tag, promised), 2), Seen)


def decision(voters: list[FlakyBucket]) -> Decision:
    found = _decision(NAMES, bucket_registers(voters).inspect(NAMES), len(voters))
    assert found is not None
    return found


@pytest.mark.parametrize("prepared", [0, 1, 2])
def test_decision_is_reported_with_the_writer_that_a_voter_still_shows(
    prepared: int, voters: list[FlakyBucket]
) -> None:
    prepare(voters, prepared)
    found = decision(voters)
    assert (found.version, found.writer) == (2, "ada")


def test_decision_whose_writer_no_voter_shows_any_more_is_reported_without_one(voters: list[FlakyBucket]) -> None:
    prepare(voters, 3)
    found = decision(voters)
    assert found == Decision(NAMES, 2, None, None)
    status = EngineStatus("buckets", 1, 2, "whole", (), (found,))
    assert last_decision(status) == "register names, version 2"
