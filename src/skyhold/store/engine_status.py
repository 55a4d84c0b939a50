"""The status of a store's engine: which voters answer, what each has promised and accepted, what was decided last."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

from skyhold.consensus.acceptor import in_preparation, unanimous
from skyhold.consensus.acceptor_object import AcceptorObject
from skyhold.consensus.capabilities import Clustered, Voting, clustered, voting
from skyhold.consensus.migration import CONFIG, NAMES
from skyhold.consensus.no_majority import NOT_TO_BE_HAD
from skyhold.consensus.parallel import at_once
from skyhold.consensus.register import EngineRegisters, Known
from skyhold.errors import Corrupt, SkyholdError
from skyhold.store.connection import Connection, new_operation_id
from skyhold.store.store_document import Engine

BRING_UP_ATTEMPTS: Final = 20
BRING_UP_INTERVAL_S: Final = 0.2

Quorum = Literal["whole", "degraded", "lost"]


@dataclass(frozen=True, slots=True)
class Vote:
    """What one voter shows of one register: the counters of the ballots that it promised and accepted, the version that
    it accepted, and who wrote it when (RFC 3339, by the writer's clock). All None where it has nothing of it."""

    register: str
    promised: int | None
    accepted: int | None
    version: int | None
    writer: str | None
    time: str | None


@dataclass(frozen=True, slots=True)
class VoterStatus:
    """One voter. `error` is why it takes no part now, and `hint` what to do."""

    name: str
    incarnation: str
    error: str | None
    hint: str | None
    votes: tuple[Vote, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """The newest decision on a register that a majority shows. `writer` committed it, at `time` (RFC 3339, by its
    clock). Both are None where every voter that shows it was written by another proposer since, which only prepared."""

    register: str
    version: int
    writer: str | None
    time: str | None


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """Where the registers live. `needed` of the voters decide; `quorum` is whether all of them answer, or at least so
    many. Of an etcd cluster the voters are the nodes that this machine knows; a node answers only while a majority of
    its cluster supports it. On one machine there are none, and `quorum` is None."""

    kind: str
    epoch: int
    needed: int
    quorum: Quorum | None
    voters: tuple[VoterStatus, ...]
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class StaleRead:
    """A read that may have missed moves: what it found was the newest within the last `age_s` seconds, or (None) at an
    unknown time. `decided` is False where some voter has accepted it and it is unknown whether a majority did. `writer`
    and `time` are who wrote it and when; `silent` are the voters that did not answer."""

    register: str
    version: int
    decided: bool
    age_s: float | None
    writer: str
    time: str
    silent: tuple[str, ...]

    @classmethod
    def of(cls, register: str, known: Known) -> StaleRead:
        undecided = known.undecided if known.age_s is None else None
        found = undecided or known.value
        version = found.version if found is not None else 0
        return cls(register, version, undecided is None, known.age_s, known.writer, known.time, known.silent)


def engine_of(connection: Connection) -> EngineStatus:
    """Ask every voter. Raises only where the store cannot be opened at all."""
    with suppress(SkyholdError):  # where a majority answers, it shows whether the store has moved on
        connection.registers.read(CONFIG)
    engine = connection.document.engine
    registers = voting(connection.registers.current)
    cluster = clustered(connection.registers.current)
    if cluster is not None:
        return _cluster(engine, cluster)
    if registers is None:
        return EngineStatus(engine.kind, engine.epoch, 0, None, (), ())
    shown = {key: registers.inspect(key) for key in (NAMES, CONFIG)}
    voters = tuple(_voter(name, incarnation, shown) for name, incarnation in engine.voters)
    needed = len(voters) // 2 + 1
    answering = sum(voter.error is None for voter in voters)
    quorum: Quorum = "whole" if answering == len(voters) else "degraded" if answering >= needed else "lost"
    decisions = tuple(decision for key in shown if (decision := _decision(key, shown[key], len(voters))) is not None)
    return EngineStatus(engine.kind, engine.epoch, needed, quorum, voters, decisions)


def catch_up(registers: Voting) -> int:
    """Write the last change of each register to the voters that answer and lack it; returns of how many registers. A
    majority has it without them; with them, more voters may be lost."""

    def caught_up(key: str) -> bool:
        if is_caught_up(registers.inspect(key)):
            return False
        try:
            registers.outcome(key, new_operation_id())  # which settles the register, at every voter that answers
        except Corrupt as error:
            if error.code not in NOT_TO_BE_HAD:
                raise
            return False
        return True

    return sum(at_once(caught_up, registers.list(), "catch-up"))


def catch_up_fully(registers: Voting, keys: Iterable[str]) -> bool:
    """As `catch_up`, of these registers, again and again until no voter that answers is lagging; returns whether none
    is. A voter that is always slower than the others is read in one round, and takes the change in the next."""

    def is_done(key: str) -> bool:
        if is_caught_up(registers.inspect(key)):
            return True
        try:
            registers.outcome(key, new_operation_id())
        except SkyholdError as error:  # it cannot be decided now; `status` and `verify` name it
            return not error.retryable
        return False

    left = sorted(keys)
    for attempt in range(BRING_UP_ATTEMPTS):
        if attempt:
            time.sleep(BRING_UP_INTERVAL_S)
        left = [key for key, done in zip(left, at_once(is_done, left, "catch-up"), strict=True) if not done]
        if not left:
            return True
    return False


def catch_up_epoch(registers: EngineRegisters) -> None:
    """As `catch_up_fully`, of every register of an epoch that has just begun, so that no voter lacks its beginning. It
    has begun in any case: `status` and `verify` name what cannot be read now."""
    voters = voting(registers)
    if voters is not None:
        with suppress(SkyholdError):
            catch_up_fully(voters, voters.list())


def is_caught_up(shown: Shown) -> bool:
    """Whether all voters that answer have accepted one value, even under several ballots: settling it again, which
    changes nothing, would always leave a slow voter one ballot behind."""
    answers = [held for held in shown.values() if not isinstance(held, SkyholdError)]
    return len({held.state.value or () if held is not None else () for held in answers}) <= 1


def _cluster(engine: Engine, registers: Clustered) -> EngineStatus:
    """The nodes of an etcd cluster that this machine knows. One that answers does so for a majority of the cluster."""
    nodes = []
    for name, answer in registers.nodes().items():
        if isinstance(answer, SkyholdError):
            nodes.append(VoterStatus(name, "", answer.message, answer.hint, ()))
        else:
            nodes.append(VoterStatus(name, answer.member_id, None, None, ()))
    answering = sum(node.error is None for node in nodes)
    quorum: Quorum = "whole" if answering == len(nodes) else "degraded" if answering else "lost"
    found = {key: registers.inspect(key) for key in (NAMES, CONFIG)} if answering else {}
    decisions = tuple(
        Decision(key, record.value.version, record.writer, record.time) for key, record in found.items() if record
    )
    return EngineStatus(engine.kind, engine.epoch, 1, quorum, tuple(nodes), decisions)


Shown = Mapping[str, AcceptorObject | SkyholdError | None]


def _voter(name: str, incarnation: str, shown: Mapping[str, Shown]) -> VoterStatus:
    votes = []
    error: SkyholdError | None = None
    for key, by_voter in shown.items():
        held = by_voter[name]
        if isinstance(held, SkyholdError):
            error = held
        elif held is None:
            votes.append(Vote(key, None, None, None, None, None))
        else:
            value, state = held.state.value, held.state
            version = value[-1].value.version if value else 0
            votes.append(
                Vote(key, state.promised.counter, state.accepted.counter, version, held.writer or None, held.time)
            )
    reason, hint = (error.message, error.hint) if error else (None, None)
    return VoterStatus(name, incarnation, reason, hint, tuple(votes))


def _decision(key: str, shown: Shown, voters: int) -> Decision | None:
    """None where no majority shows one value at this moment."""
    held = {name: item for name, item in shown.items() if isinstance(item, AcceptorObject)}
    chosen = unanimous({name: item.state for name, item in held.items()}, voters)
    if chosen is None or not chosen.value:
        return None
    version = chosen.value[-1].value.version
    for item in held.values():
        # A later promise leaves the value as it was, and puts its own writer and time beside it.
        if item.state.accepted == chosen.accepted and not in_preparation(item.state):
            return Decision(key, version, item.writer, item.time)
    return Decision(key, version, None, None)
