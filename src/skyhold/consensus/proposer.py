"""Changing one register of the bucket engine: which thread proposes, which operations together, when to retry.

All threads of a process that change one register share a `Slot`. One of them leads: it takes every operation that
waits, makes them one proposal (group commit), and hands the lead on. So proposers meet only between processes. There
each waits a random time before a retry, which grows with every attempt; does not at once outbid a rival that is
preparing; and rests after some changes in a row. So two in far regions both finish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from skyhold.consensus.acceptor import COUNTER_MAX, AcceptorState, Ballot, beyond_reach
from skyhold.consensus.no_majority import ballots_exhausted, contended, did_not_answer, no_majority, out_of_reach
from skyhold.consensus.operation import Kept, Operation, Settle, version_of
from skyhold.consensus.paxos import Effect, Get, Phase, Proposal, Put, Round, Seen, Silent, adopted, begin, step
from skyhold.consensus.register import RegisterChange, Versioned
from skyhold.consensus.runtime import Mailbox, Runtime
from skyhold.consensus.voter import Answer, VoterClient
from skyhold.errors import SkyholdError

ROUND_S_MIN: Final = 0.002
BACK_OFF_DOUBLINGS_MAX: Final = 4
BALLOT_LEAD: Final = 64
"""How far a new ballot is above all others. A rival's rises by one with each of its changes, and must not outbid ours
by further changes while we gather promises."""
TURN_ROUNDS: Final = 4
TURN_ROUNDS_MAX: Final = 32
"""After so many rounds in a row a proposer rests if it has seen a rival, or in any case: where a voter is changed with
every round, a rival that is farther away never finds it as it was when it read it, nor shows itself."""
REST_ROUNDS: Final = 2.0
"""For how long, to twice as long."""
PATIENCE: Final = 4
"""How often a ballot that is being prepared by another is left alone before it is outbid: its proposer may be dead."""
UNREACHABLE_ATTEMPTS: Final = 3


class _Signal(Enum):
    DONE = auto()
    LEAD = auto()


@dataclass(frozen=True, slots=True)
class Fault:
    """A task failed with something that is no error of a bucket: a mistake of ours."""

    voter: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class Decided:
    """The result of an operation, and the value of the register right after it."""

    result: Versioned | None
    kept: Kept


@dataclass(eq=False, slots=True)
class Ticket:
    """An operation that waits. `exposed`: a value with it was sent to some voter, so it may take effect."""

    operation: Operation
    signals: Mailbox[_Signal]
    exposed: bool = False
    decided: Decided | None = None
    error: Exception | None = None


@dataclass(eq=False, slots=True)
class Slot:
    """What the proposers of one process share of one register.

    `known` is what each voter held last, as far as the rounds of this process know it, and `shown` what reads have
    found there since: a change after a read begins with its puts. Readers fill it, and the leading thread empties it.
    `decided` is the newest change that is known to be chosen. `turn` counts the rounds that were decided since the last
    prepare or rest; `rival`: a greater ballot was seen meanwhile.
    """

    key: str
    lock: AbstractContextManager[object]
    answers: Mailbox[Answer | Fault]
    waiting: list[Ticket] = field(default_factory=list)
    led: bool = False
    known: dict[str, Seen[Kept]] = field(default_factory=dict)
    shown: dict[str, Seen[Kept]] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)
    counter: int = 0
    following: Ballot | None = None
    decided: RegisterChange | None = None
    round_s: float = 0.0
    turn: int = 0
    rival: bool = False
    rest_until_s: float = 0.0

    def note(self, answer: Answer | Fault) -> Answer:
        """Take note of what a voter answered, in whichever round."""
        self.busy.discard(answer.voter)
        if isinstance(answer, Fault):
            raise answer.error
        if isinstance(answer, Seen):
            self.known[answer.voter] = answer
        else:
            self.known.pop(answer.voter, None)
        return answer

    def note_decided(self, value: Kept) -> None:
        """This value was chosen."""
        if value and (self.decided is None or value[-1].value.version > self.decided.value.version):
            self.decided = value[-1]

    def learn(self) -> None:
        """Take over what reads have found."""
        for voter in list(self.shown):
            seen, known = self.shown.pop(voter), self.known.get(voter)
            if known is None or known.state.promised < seen.state.promised:
                self.known[voter] = seen

    def follow(self, voters: int) -> None:
        """Go on above the ballots that are known, as far as they are to be followed."""
        states = {voter: seen.state for voter, seen in self.known.items()}
        if len(states) > voters // 2:
            excluded = beyond_reach(states, voters, version_of)
            counters = [state.promised.counter for voter, state in states.items() if voter not in excluded]
            self.counter = max([self.counter, *counters])


class Proposer:
    """Decides operations at a majority of `voters`. Thread-safe."""

    def __init__(self, voters: Mapping[str, VoterClient], runtime: Runtime, deadline_s: float) -> None:
        self._voters = voters
        self._runtime = runtime
        self._deadline_s = deadline_s
        self._id = runtime.random_id()

    def slot(self, key: str) -> Slot:
        """The shared state of one register, which the caller keeps."""
        return Slot(key, self._runtime.lock(), self._runtime.mailbox())

    def decide(self, slot: Slot, operation: Operation) -> Decided:
        """Have an operation decided, together with those that wait beside it.

        Raises what the operation raises, and `Unavailable` or `OutcomeUnknown` where no majority decides in time.
        """
        ticket = Ticket(operation, self._runtime.mailbox())
        with slot.lock:
            slot.waiting.append(ticket)
            lead, slot.led = not slot.led, True
        if not lead:
            lead = self._wait(slot, ticket) is _Signal.LEAD
        if lead:
            self._lead(slot)
        if ticket.decided is None:
            raise ticket.error or AssertionError(f"{operation} was neither decided nor refused")
        return ticket.decided

    def _wait(self, slot: Slot, ticket: Ticket) -> _Signal:
        try:
            while (signal := ticket.signals.get(self._deadline_s)) is None:
                pass  # the leading thread ends by its own deadline
        except BaseException:  # an interrupt: no other thread may wait for us to lead
            with slot.lock:
                if ticket in slot.waiting:
                    slot.waiting.remove(ticket)
                if ticket.signals.get(0) is _Signal.LEAD:
                    self._hand_on(slot)
            raise
        return signal

    def _lead(self, slot: Slot) -> None:
        with slot.lock:
            batch, slot.waiting = slot.waiting, []
        try:
            self._decide_all(slot, batch)
        except BaseException as error:
            for ticket in batch:
                ticket.error = error if isinstance(error, Exception) else contended(slot.key, sent=True)
            raise
        finally:
            with slot.lock:
                self._hand_on(slot)
            for ticket in batch:
                ticket.signals.put(_Signal.DONE)

    def _hand_on(self, slot: Slot) -> None:
        slot.led = bool(slot.waiting)
        if slot.waiting:
            slot.waiting[0].signals.put(_Signal.LEAD)

    def _decide_all(self, slot: Slot, batch: Sequence[Ticket]) -> None:
        if (rest_s := slot.rest_until_s - self._runtime.monotonic()) > 0:
            self._runtime.sleep(rest_s)
        deadline_s = self._runtime.monotonic() + self._deadline_s
        attempts = unreachable = patient = 0
        while True:
            started_s = self._runtime.monotonic()
            round_ = self._attempt(slot, batch, deadline_s)
            if round_.phase is Phase.DECIDED:
                self._note_round(slot, started_s)
                return
            for ticket in batch:
                ticket.exposed |= bool(round_.exposed)
            slot.counter = max(slot.counter, round_.greatest.counter)
            if round_.phase is Phase.PREEMPTED and not round_.written:
                if not round_.disputed or patient >= PATIENCE:
                    continue  # with what was read we know how high the ballots are
                patient += 1
            attempts += 1
            unreachable += round_.phase is Phase.UNREACHABLE
            doublings = min(attempts - 1, BACK_OFF_DOUBLINGS_MAX)
            round_s = slot.round_s or self._runtime.monotonic() - started_s
            wait_s = (0.5 + self._runtime.random()) * max(round_s, ROUND_S_MIN) * 2**doublings
            if unreachable >= UNREACHABLE_ATTEMPTS or self._runtime.monotonic() + wait_s >= deadline_s:
                self._fail(slot, batch, round_)
                return
            self._runtime.sleep(wait_s)
            slot.known.clear()  # other clients changed it meanwhile

    def _attempt(self, slot: Slot, batch: Sequence[Ticket], deadline_s: float) -> Round[Kept]:
        """One ballot. Where it ended as decided, the results of the batch are in its tickets."""
        while (late := slot.answers.get(0)) is not None:
            slot.note(late)
        slot.learn()
        ballot, warm = self._ballot(slot)
        plain = len(self._voters) == 1
        known = {voter: slot.known.get(voter) if warm or not plain else None for voter in self._voters}
        if not slot.known and not plain and batch[0].operation.creates:
            # Most likely it is not there; a put that creates it finds out as well as a read would.
            known = {voter: Seen(voter, None, AcceptorState()) for voter in self._voters}
        round_, effects = begin(
            ballot, Ballot(ballot.counter + 1, self._id), known, slot.busy, plain=plain, version_of=version_of
        )
        while True:
            self._send(slot, effects)
            if round_.phase is Phase.PREPARED:
                # Also what changes nothing is proposed: an answer given before its value is chosen under this
                # ballot could be undone by a change that some minority has accepted under a lower one.
                round_, effects = step(round_, Proposal(_applied(adopted(round_) or (), batch)))
                continue
            if round_.phase is Phase.DECIDED:
                slot.following = round_.following
                slot.note_decided(round_.value or ())
                return round_
            if not round_.voting:
                return round_
            answer = slot.answers.get(deadline_s - self._runtime.monotonic())
            if answer is None:
                return self._out_of_time(round_)
            answer = slot.note(answer)
            if isinstance(answer, Seen) and answer.state.promised > round_.following:
                slot.rival = True
            round_, effects = step(round_, answer)

    def _ballot(self, slot: Slot) -> tuple[Ballot, bool]:
        """The ballot of the next attempt, and whether a majority has promised it already."""
        following, slot.following = slot.following, None
        promised = [seen for seen in slot.known.values() if seen.state.promised == following]
        if following is not None and len(promised) > len(self._voters) // 2:
            slot.counter = following.counter + 1
            return _within(slot, following), True
        slot.follow(len(self._voters))
        # The ballot after it belongs to this round too: its accepts promise it.
        slot.counter += BALLOT_LEAD
        slot.turn, slot.rival = 0, False
        return _within(slot, Ballot(slot.counter - 1, self._id)), False

    def _send(self, slot: Slot, effects: Sequence[Effect[Kept]]) -> None:
        for effect in effects:
            slot.busy.add(effect.voter)
            self._runtime.start(lambda effect=effect: self._perform(slot, effect))  # type: ignore[misc]

    def _perform(self, slot: Slot, effect: Get | Put[Kept]) -> None:
        try:
            slot.answers.put(self._voters[effect.voter].perform(slot.key, effect, slot.decided))
        except BaseException as error:  # noqa: BLE001 - a fault of ours is raised by the leader, not lost in a thread
            slot.answers.put(Fault(effect.voter, error))

    def _note_round(self, slot: Slot, started_s: float) -> None:
        now_s = self._runtime.monotonic()
        slot.round_s = now_s - started_s
        slot.turn += 1
        if slot.turn >= (TURN_ROUNDS if slot.rival else TURN_ROUNDS_MAX):
            slot.rest_until_s = now_s + (1 + self._runtime.random()) * REST_ROUNDS * slot.round_s
            slot.turn, slot.rival = 0, False

    def _out_of_time(self, round_: Round[Kept]) -> Round[Kept]:
        for voter, seat in round_.seats.items():
            if seat.asked:
                round_, _ = step(round_, Silent(voter, did_not_answer(voter)))
        return round_

    def _fail(self, slot: Slot, batch: Sequence[Ticket], round_: Round[Kept]) -> None:
        errors = {voter: seat.error for voter, seat in round_.seats.items() if seat.error}
        errors |= {voter: out_of_reach(voter, slot.key) for voter in round_.beyond_reach}
        for ticket in batch:
            ticket.decided = None
            sent = ticket.exposed and not isinstance(ticket.operation, Settle)  # which changes nothing in any case
            if round_.phase is Phase.UNREACHABLE:
                ticket.error = no_majority(slot.key, len(self._voters), errors, sent=sent)
            else:
                ticket.error = contended(slot.key, sent=sent)


def _within(slot: Slot, ballot: Ballot) -> Ballot:
    """A ballot, if the one that its accepts promise is one that readers take."""
    if ballot.counter >= COUNTER_MAX:
        raise ballots_exhausted(slot.key)
    return ballot


def _applied(value: Kept, batch: Sequence[Ticket]) -> Kept:
    """The adopted value after the operations, one after the other; their results, as they will be returned if it is
    chosen, go into the tickets."""
    for ticket in batch:
        ticket.decided = ticket.error = None
        try:
            value, result = ticket.operation.apply(value, repeated=ticket.exposed)
            ticket.decided = Decided(result, value)
        except SkyholdError as error:
            ticket.error = error
    return value
