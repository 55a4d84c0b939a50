"""CASPaxos over passive acceptors: what one acceptor may do, and what a majority of them shows. Pure.

An acceptor is one object in one bucket, changed only by conditional puts: a client that read the object computes what
the acceptor would answer, and the put takes effect only if no other client was faster. So a read followed by a put that
succeeded is one atomic step of the acceptor of the paper. The proposer is in `paxos`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

V = TypeVar("V")

VOTERS_MAX: Final = 7
"""Of one epoch. Every round asks all of them; with seven, three may be gone."""

COUNTER_MAX: Final = 2**53 - 1
"""Of a ballot: what canonical JSON can hold."""
LEAP_MAX: Final = 2**26
"""How far one acceptor may be above what a majority shows, in its ballot or its version. A ballot rises by some 65 with
each new process that changes the register, so an honest one is as far ahead after a million changes that missed all
other acceptors. One that is farther is not followed: an attacker who controls one bucket needs 2^27 changes at least to
use the counters up, and not one."""


@dataclass(frozen=True, slots=True, order=True)
class Ballot:
    """Greater counters win; the proposer breaks a tie. One ballot is used for one attempt, of one proposer."""

    counter: int
    proposer: str


NO_BALLOT: Final = Ballot(0, "")


@dataclass(frozen=True, slots=True)
class AcceptorState(Generic[V]):
    """What one acceptor has promised and accepted. An object that is not there is an acceptor in its first state."""

    promised: Ballot = NO_BALLOT
    accepted: Ballot = NO_BALLOT
    value: V | None = None


def promise(state: AcceptorState[V], ballot: Ballot) -> AcceptorState[V] | None:
    """The acceptor's rule for a prepare: the state after it, or None where a greater ballot was promised."""
    return AcceptorState(ballot, state.accepted, state.value) if state.promised <= ballot else None


def accept(state: AcceptorState[V], ballot: Ballot, value: V | None, following: Ballot) -> AcceptorState[V] | None:
    """The acceptor's rule for a proposal: the state after it, or None where a greater ballot was promised.

    The acceptor also promises the ballot `following` of the same proposer, so that its next change needs no prepare.
    """
    return AcceptorState(following, ballot, value) if state.promised <= ballot else None


def in_preparation(state: AcceptorState[V]) -> bool:
    """Whether what was promised last is the ballot of a prepare, and not the one that an accept has promised beside."""
    promised, accepted = state.promised, state.accepted
    beside_accept = promised.counter == accepted.counter + 1 and promised.proposer == accepted.proposer
    return promised != NO_BALLOT and not beside_accept


def beyond_reach(
    seen: Mapping[str, AcceptorState[V]], voters: int, version_of: Callable[[V], int] = lambda _: 0
) -> frozenset[str]:
    """The acceptors with a ballot or a version that no honest one can have: more than `LEAP_MAX` above what a majority
    of all `voters` shows at least. They take no part. Empty while fewer than a majority were seen."""
    counters = {name: state.promised.counter for name, state in seen.items()}
    versions = {name: 0 if state.value is None else version_of(state.value) for name, state in seen.items()}
    return frozenset(_leapt(counters, voters) | _leapt(versions, voters))


def _leapt(shown: Mapping[str, int], voters: int) -> set[str]:
    majority = voters // 2 + 1
    if len(shown) < majority:
        return set()
    reached = sorted(shown.values(), reverse=True)[majority - 1]
    return {name for name, counter in shown.items() if counter - reached > LEAP_MAX}


def unanimous(seen: Mapping[str, AcceptorState[V]], voters: int) -> AcceptorState[V] | None:
    """A state whose value a read may return without a round of its own, or None: a majority of all `voters` shows its
    accepted ballot. Its value was chosen then, and whatever was chosen before the read began would have shown in one of
    them. A majority that has accepted nothing shows that nothing was chosen."""
    by_ballot: dict[Ballot, list[AcceptorState[V]]] = {}
    for state in seen.values():
        by_ballot.setdefault(state.accepted, []).append(state)
    for states in by_ballot.values():
        if len(states) > voters // 2 and all(state.value == states[0].value for state in states):
            return states[0]
    return None
