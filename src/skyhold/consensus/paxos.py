"""CASPaxos over passive acceptors: the rules of the proposer alone, without any input or output.

What an acceptor may do is in `acceptor`. One `Round` is one ballot of one proposer on one register:

    prepare   a majority promises the ballot; the value of the highest accepted ballot among them is adopted
    propose   a majority accepts the new value under the ballot
    decide    the value is chosen: no later ballot can adopt anything else

`step(round, event)` returns the round after an event and the effects to carry out; a driver carries them out.

Sources: D. Rystsov, "CASPaxos: Replicated State Machines without logs" (2018), for a register without a log and for
the promise of the next ballot inside an accept (2.2.1, one round trip); G. Chockler and D. Malkhi, "Active Disk Paxos
with infinitely many processes" (2002), for acceptors that only store; L. Lamport, "Paxos made simple" (2001).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final, Generic

from skyhold import error_codes
from skyhold.consensus.acceptor import AcceptorState, Ballot, V, accept, beyond_reach, in_preparation, promise
from skyhold.errors import Corrupt, SkyholdError

REREADS_MAX: Final = 16
"""How often one round reads an acceptor again whose put did not succeed: each time another client changed it, or the
reply was lost. More is a store that refuses what it should take."""


class Phase(Enum):
    """Where a round is. Only the first three continue."""

    PREPARE = auto()
    PREPARED = auto()
    """A majority has promised; the round waits for the `Proposal`, or ends here."""
    PROPOSE = auto()
    DECIDED = auto()
    PREEMPTED = auto()
    """So many acceptors promised a greater ballot that no majority is left for this one."""
    UNREACHABLE = auto()
    """So many acceptors did not answer that no majority is left."""


@dataclass(frozen=True, slots=True)
class Seat(Generic[V]):
    """One acceptor as the round knows it. `tag` and `state` are what it held last, None before it was heard; `error`
    is why it takes no further part. `asked`: it has an answer to give, and is asked nothing more before. `unsure`: a
    put of the value may still be on its way there. `late`: what it answers was asked before this round began."""

    tag: str | None = None
    state: AcceptorState[V] | None = None
    asked: bool = False
    rereads: int = 0
    unsure: bool = False
    late: bool = False
    error: SkyholdError | None = None


@dataclass(frozen=True, slots=True)
class Round(Generic[V]):
    """One ballot. `following` is the ballot that an accept promises beside it. `exposed` are the acceptors that the
    value was sent to and that are not known to lack it: while there are none, it can never be chosen.
    `plain`: there is one acceptor, whose conditional put needs no promise before it (a plain compare-and-set).
    `version_of` is the number of a value, which rises by one with each change."""

    ballot: Ballot
    following: Ballot
    seats: Mapping[str, Seat[V]]
    phase: Phase = Phase.PREPARE
    value: V | None = None
    exposed: frozenset[str] = frozenset()
    plain: bool = False
    written: bool = False
    version_of: Callable[[V], int] = lambda _: 0

    @property
    def majority(self) -> int:
        return len(self.seats) // 2 + 1

    @property
    def voting(self) -> bool:
        """Whether the round asks acceptors for their votes."""
        return self.phase is Phase.PREPARE or self.phase is Phase.PROPOSE

    @property
    def disputed(self) -> bool:
        """Whether the greatest ballot that an acceptor has shown was prepared, and nothing proposed under it yet: its
        proposer is about to, or died. (A smaller one is over, and was left where only its prepare arrived.)"""
        states = _credible(self).values()
        greatest = max(states, key=lambda state: state.promised, default=None)
        return greatest is not None and greatest.promised > self.following and in_preparation(greatest)

    @property
    def greatest(self) -> Ballot:
        """The greatest ballot that has been shown and is to be followed: the next attempt must be above it. Until a
        majority was seen, it is unknown whether one is within reach."""
        followed = _credible(self).values() if len(_shown(self)) >= self.majority else ()
        return max([self.ballot, *(state.promised for state in followed)])

    @property
    def beyond_reach(self) -> frozenset[str]:
        """The acceptors that take no part because of what they show."""
        return beyond_reach(_shown(self), len(self.seats), self.version_of)


@dataclass(frozen=True, slots=True)
class Seen(Generic[V]):
    """An acceptor holds this: it was read, or our put was acknowledged. `tag` is None where there is no object."""

    voter: str
    tag: str | None
    state: AcceptorState[V]


@dataclass(frozen=True, slots=True)
class Refused:
    """The condition of a put was false. No vote either way. Whether it had an effect all the same is seen when the
    acceptor is read again: what was sent twice on the way, as by a proxy, is refused because of its own effect."""

    voter: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The reply to a put was lost: it may have taken effect, or may still. No vote until it is read back."""

    voter: str


@dataclass(frozen=True, slots=True)
class Silent:
    """An acceptor cannot take part in this round. `unsent`: this answers a put, which provably had no effect."""

    voter: str
    error: SkyholdError
    unsent: bool = False


@dataclass(frozen=True, slots=True)
class Proposal(Generic[V]):
    """The value to propose, made from what `adopted` returned."""

    value: V


Event = Seen[V] | Refused | Lost | Silent | Proposal[V]


@dataclass(frozen=True, slots=True)
class Get:
    """Read this acceptor: answer with `Seen` or `Silent`."""

    voter: str


@dataclass(frozen=True, slots=True)
class Put(Generic[V]):
    """Replace what has `tag` (None: create) by `state`, in one attempt: answer with `Seen` (the new tag, this state),
    `Refused`, `Lost`, or `Silent` with `unsent`."""

    voter: str
    tag: str | None
    state: AcceptorState[V]


Effect = Get | Put[V]


def begin(
    ballot: Ballot,
    following: Ballot,
    known: Mapping[str, Seen[V] | None],
    busy: Collection[str] = (),
    *,
    plain: bool = False,
    version_of: Callable[[V], int] = lambda _: 0,
) -> tuple[Round[V], tuple[Effect[V], ...]]:
    """Start a round. `known` has an entry for each voter: what it holds as far as we know, None to read it first.
    `busy` are voters that still have to answer to an earlier round: their answer is the first event that they have.

    Where a majority is known to have promised the ballot already, the round is prepared at once.
    """
    seats: dict[str, Seat[V]] = {
        voter: Seat(seen.tag, seen.state)
        if seen and voter not in busy
        else Seat(asked=voter in busy, late=voter in busy)
        for voter, seen in known.items()
    }
    return _asking(_concluded(Round(ballot, following, seats, plain=plain, version_of=version_of)), list(seats))


def step(round_: Round[V], event: Event[V]) -> tuple[Round[V], tuple[Effect[V], ...]]:
    """The round after an event, and what to do next. A round that has ended still takes note of what it hears."""
    if isinstance(event, Proposal):
        if round_.phase is not Phase.PREPARED:
            raise ValueError(f"a proposal in phase {round_.phase}")
        return _asking(replace(round_, phase=Phase.PROPOSE, value=event.value), list(round_.seats))
    seat = round_.seats[event.voter]
    if isinstance(event, Seen):
        # Where no promise confirms it, an answer of before is no answer.
        state = None if seat.late and round_.plain else event.state
        seat = replace(seat, tag=event.tag, state=state, asked=False, late=False)
    elif isinstance(event, Silent):
        seat = replace(seat, error=event.error, asked=False, late=False)
    else:
        error = None if seat.rereads < REREADS_MAX else _stubborn(event.voter)
        unsure = seat.unsure or (isinstance(event, Lost) and round_.phase is not Phase.PREPARE)
        rereads = seat.rereads + 1
        seat = replace(seat, state=None, rereads=rereads, unsure=unsure, error=error, asked=False, late=False)
    # A refused put is read back. An acceptor that accepted a lower ballot has never accepted this one.
    not_there = isinstance(event, Seen) and event.state.accepted < round_.ballot
    no_effect = not_there or (isinstance(event, Silent) and event.unsent)
    exposed = round_.exposed - {event.voter} if no_effect and not seat.unsure else round_.exposed
    overtaken = _overtaken(round_, event)
    round_ = _concluded(replace(round_, seats={**round_.seats, event.voter: seat}, exposed=exposed))
    if overtaken and round_.phase is Phase.PROPOSE:
        round_ = replace(round_, phase=Phase.PREEMPTED)
    return _asking(round_, [event.voter])


def adopted(round_: Round[V]) -> V | None:
    """The value that a prepared round adopts; None where nothing was chosen before.

    Raises `Corrupt` code `ballot_shared` where one ballot carries two values: two proposers work under one id, as
    copies of one virtual machine would.
    """
    # Of a plain round the put is conditional on what was read, so no promise is needed.
    states = [state for state in _credible(round_).values() if round_.plain or state.promised == round_.ballot]
    highest = max(states, key=lambda state: state.accepted)
    agreeing = [state for state in states if state.accepted == highest.accepted]
    if any(state.value != highest.value for state in agreeing):
        raise Corrupt(
            f"Two values were accepted under one ballot ({highest.accepted.counter}, {highest.accepted.proposer})",
            code=error_codes.BALLOT_SHARED,
            hint="End all copies of a virtual machine that was cloned while it used the store, and ask for help",
        )
    return highest.value


def _asking(round_: Round[V], voters: list[str]) -> tuple[Round[V], tuple[Effect[V], ...]]:
    """Ask acceptors for what the phase needs of them next."""
    effects = [effect for voter in voters if (effect := _effect(round_, voter)) is not None]
    if not effects:
        return round_, ()
    puts = [effect for effect in effects if isinstance(effect, Put)]
    return replace(
        round_,
        seats={**round_.seats, **{of.voter: replace(round_.seats[of.voter], asked=True) for of in effects}},
        exposed=round_.exposed | {put.voter for put in puts if put.state.accepted == round_.ballot},
        written=round_.written or bool(puts),
    ), tuple(effects)


def _effect(round_: Round[V], voter: str) -> Effect[V] | None:
    seat = round_.seats[voter]
    if not round_.voting or seat.asked or seat.error is not None:
        return None
    if seat.state is None:
        return Get(voter)
    if _has_voted(round_, seat):
        return None
    if round_.phase is Phase.PREPARE or seat.tag is None:
        # No acceptor gets a value as it is created, not even the only one: by that `voter` detects an emptied bucket.
        after = promise(seat.state, round_.ballot)
    else:
        after = accept(seat.state, round_.ballot, round_.value, round_.following)
    return Put(voter, seat.tag, after) if after is not None else None


def _has_voted(round_: Round[V], seat: Seat[V]) -> bool:
    if seat.state is None:
        return False
    if round_.phase is Phase.PREPARE:
        plain = round_.plain and seat.state.promised < round_.ballot
        return seat.state.promised == round_.ballot or plain
    return seat.state.accepted == round_.ballot and seat.state.value == round_.value


def _has_rejected(round_: Round[V], seat: Seat[V]) -> bool:
    return seat.state is not None and not _has_voted(round_, seat) and seat.state.promised > round_.ballot


def _concluded(round_: Round[V]) -> Round[V]:
    """The round in the phase that its votes put it into."""
    if not round_.voting:
        return round_
    excluded = round_.beyond_reach
    seats = [seat for voter, seat in round_.seats.items() if voter not in excluded]
    if sum(_has_voted(round_, seat) for seat in seats) >= round_.majority:
        return replace(round_, phase=Phase.PREPARED if round_.phase is Phase.PREPARE else Phase.DECIDED)
    rejections = sum(_has_rejected(round_, seat) for seat in seats)
    gone = sum(seat.error is not None and not _has_rejected(round_, seat) for seat in seats)
    if len(seats) - rejections - gone >= round_.majority:
        return round_
    if rejections and len(_shown(round_)) < round_.majority:
        # The others show whether the greater ballot is one to follow.
        pending = any(seat.state is None and seat.error is None for seat in seats)
        return round_ if pending else replace(round_, phase=Phase.UNREACHABLE)
    return replace(round_, phase=Phase.PREEMPTED if rejections else Phase.UNREACHABLE)


def _shown(round_: Round[V]) -> dict[str, AcceptorState[V]]:
    return {voter: seat.state for voter, seat in round_.seats.items() if seat.state is not None}


def _credible(round_: Round[V]) -> dict[str, AcceptorState[V]]:
    excluded = round_.beyond_reach
    return {voter: state for voter, state in _shown(round_).items() if voter not in excluded}


def _overtaken(round_: Round[V], event: Event[V]) -> bool:
    """Without a promise, what was adopted holds only for the tag that it was read with. A put that was refused, or read
    back as not done, must not be repeated on what another client wrote."""
    if not round_.plain or round_.phase is not Phase.PROPOSE:
        return False
    return isinstance(event, Refused) or (
        # It holds our value, or what we have created to hold it.
        isinstance(event, Seen) and round_.ballot not in (event.state.accepted, event.state.promised)
    )


def _stubborn(voter: str) -> SkyholdError:
    return Corrupt(
        f"Bucket `{voter}` refused {REREADS_MAX} conditional puts one after the other",
        code=error_codes.VOTER_REFUSES,
        hint=f"Run `skyhold bucket check {voter}`",
        bucket=voter,
    )
