"""Bringing back one register that is damaged, or gone, at a majority of its voters, while all others go on.

What is found is shown first (`RegisterPlan`), and nothing is changed before the user consents. Then the register is
retired from its epoch (`skyhold.consensus.retiring`), and the store begins the next one, with the same buckets and
voters, in which it goes on from the newest value that a voter held intact. A recovery that died half-way is run again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Final, Literal

from skyhold import error_codes
from skyhold.buckets.bounded import read_bounded
from skyhold.consensus.acceptor import NO_BALLOT
from skyhold.consensus.acceptor_object import (
    ACCEPTOR_BYTES_MAX,
    FOLDER,
    AcceptorObject,
    decode_acceptor,
    parse_object_key,
)
from skyhold.consensus.capabilities import voting
from skyhold.consensus.migration import CONFIG, NAMES, as_restored
from skyhold.consensus.no_majority import no_majority, way_back
from skyhold.consensus.operation import Kept
from skyhold.consensus.register import EngineRegisters, RegisterChange, Versioned, is_register_key
from skyhold.consensus.retiring import Acceptors, Holding, newest_of
from skyhold.errors import Corrupt, InvalidInput, PermissionDenied, SkyholdError, Unavailable
from skyhold.storage.canonical import decode, is_counter
from skyhold.store.configuration import decode_configuration
from skyhold.store.configuration_log import logged
from skyhold.store.connection import Connection
from skyhold.store.engine_status import catch_up_epoch
from skyhold.store.epoch import encode_epoch, next_epoch
from skyhold.store.membership import recorded_incarnations
from skyhold.store.opening import remember
from skyhold.store.reconfiguring import spread
from skyhold.store.unreadable_registers import created_registers
from skyhold.units import Buffer

State = Literal["intact", "older", "damaged", "absent", "unknown"]
Source = Literal["voters", "earlier epoch", "nothing"]

_GONE: Final = "this machine has seen it there, and it is gone"
_OLDER: Final = "it is older than what this machine has seen there"


@dataclass(frozen=True, slots=True)
class RegisterOwner:
    """The layer above, which has registers whose keys start with `prefix`. `find` returns the key of the one of a name;
    `first` the data with which one begins anew of which nothing is left."""

    prefix: str
    find: Callable[[Connection, str], str]
    first: Callable[[Connection, str], bytes]


@dataclass(frozen=True, slots=True)
class VoterFinding:
    """What one voter has of the register. `version`, `events`, `writer` and `time` are of
    what it holds; `reason` is what is wrong otherwise. `older`: its copy opens, and this machine has seen a newer one
    there. `unknown`: it does not answer, or is not admitted. `chosen`: the register goes on from this copy."""

    voter: str
    state: State
    version: int | None = None
    events: int | None = None
    writer: str | None = None
    time: str | None = None
    reason: str | None = None
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class RegisterPlan:
    """What a recovery found, and what it would do: go on from `version`, of which the `source` is what the voters hold
    intact, what an earlier epoch ended with, or (for a repository, on request) nothing: it begins anew, empty. `seen`
    is the newest version that this machine has seen decided. `lossless`: it holds every change that was
    acknowledged."""

    store: str
    register: str
    epoch: int
    voters: tuple[VoterFinding, ...]
    source: Source
    version: int
    events: int | None
    seen: int | None
    lossless: bool
    in_json: ClassVar = ("losses",)

    @property
    def losses(self) -> str:
        """What may be lost, as a sentence."""
        if self.lossless:
            return "Nothing is lost: a majority of the voters holds it intact"
        if self.source == "nothing":
            return "All refs, versions and events of this repository are given up; their packs stay in the buckets"
        if self.source == "earlier epoch":
            unknown = [finding.voter for finding in self.voters if finding.state == "unknown"]
            perhaps = f", also those that {', '.join(unknown)} may hold, which do not answer" if unknown else ""
            return f"All changes of this register since epoch {self.epoch} began are lost{perhaps}"
        if self.seen is not None and self.seen > self.version:
            return f"Changes after version {self.version} are lost: this machine has seen version {self.seen}"
        others = [finding.voter for finding in self.voters if finding.state != "intact"]
        away = [finding.voter for finding in self.voters if finding.state == "unknown"]
        perhaps = f"; what {', '.join(away)} may hold is not looked at then, so bring it back first" if away else ""
        return (
            f"Changes after version {self.version} are lost, if there were any: "
            f"those that only {', '.join(others)} had accepted{perhaps}"
        )


@dataclass(frozen=True, slots=True)
class RegisterReport:
    """A recovery that was carried out: the plan, and the epoch in which the register goes on."""

    plan: RegisterPlan
    epoch: int


def recover_one(
    connection: Connection, name: str, owner: RegisterOwner, *, empty: bool, consent: Callable[[RegisterPlan], None]
) -> RegisterReport:
    """Bring back a register: by its key, or by a name that its `owner` knows. `consent` is given the plan, and raises
    to leave everything as it is. `empty` lets one of which nothing is left begin anew, where its owner can.

    Raises `InvalidInput` code `nothing_to_recover` where a majority holds it intact, `Unavailable` code `no_majority`
    where too few voters answer, and `Corrupt` code `register_damaged` where nothing of it is left.
    """
    if not connection.document.engine.votes:
        raise InvalidInput(
            f"The registers of this store are in engine `{connection.document.engine.kind}`, which keeps each of them "
            "once: there are no voters to bring one back from",
            code=error_codes.NOTHING_TO_RECOVER,
            hint="Of `etcd`, from a backup of the cluster. Of `sqlite`, from its checkpoints: skyhold recover URL",
        )
    _follow(connection)
    connection.check_writable()
    key = name if is_register_key(name) else owner.find(connection, name)
    registers = connection.registers.current
    voters = voting(registers)
    if voters is None:
        raise TypeError(f"the registers of engine buckets are {registers!r}")
    acceptors = voters.acceptors
    holdings = _compared(connection, acceptors, key, acceptors.examine(key))
    _refuse_needless(connection, registers, key, holdings)
    source, kept = _newest(connection, acceptors, key, holdings, owner, empty=empty)
    plan = _plan(connection, acceptors, key, holdings, source, kept)
    consent(plan)
    connection.sightings.forget(key)  # consent gives up changes that only rolled-back voters had
    after = acceptors.retire(key, kept if source != "voters" else (), secrets.token_hex(16))
    _refuse_too_few(key, after)
    _begin_next(connection, registers, key)
    return RegisterReport(plan, connection.document.engine.epoch)


def _compared(connection: Connection, acceptors: Acceptors, key: str, holdings: list[Holding]) -> list[Holding]:
    """What the voters have; as damaged counts what is older than this machine has seen there."""
    promised = connection.sightings.promised(acceptors.epoch, key)
    incarnations = {voter.name: voter.incarnation for voter in acceptors.voters}

    def compared(holding: Holding) -> Holding:
        shown = NO_BALLOT if holding.held is None else holding.held.state.promised
        known = holding.error is None and holding.damage is None and not holding.retired
        if known and shown < promised.get(incarnations[holding.voter], NO_BALLOT):
            return replace(holding, damage=_GONE if holding.held is None else _OLDER)
        return holding

    return [compared(holding) for holding in holdings]


def _follow(connection: Connection) -> None:
    """Be in the newest epoch. One that has not begun for want of the register in question is begun below."""
    for key in (CONFIG, NAMES):
        with suppress(SkyholdError):
            connection.registers.read(key)


def _refuse_needless(connection: Connection, registers: EngineRegisters, key: str, holdings: list[Holding]) -> None:
    """Raise unless the register is damaged, absent or retired at so many that no majority holds it."""
    unknown = {holding.voter: holding.error for holding in holdings if holding.error is not None}
    if len(holdings) - len(unknown) <= len(holdings) // 2:
        raise no_majority(key, len(holdings), unknown, sent=False)
    retired = any(holding.retired for holding in holdings)
    damaged = [holding for holding in holdings if holding.damage is not None]
    sound = len(holdings) - len(unknown) - len(damaged)
    if retired or sound <= len(holdings) // 2:
        return
    try:
        value = registers.read(key)  # in this epoch alone: a move out of it may wait for this very register
    except (Corrupt, Unavailable):  # a majority went back, or was deleted, as far as this process has seen before
        return
    if value is not None:
        hint = "Look at the store: skyhold status"
        if damaged:
            hint = f"Admit the one that is damaged again: skyhold store voters replace {damaged[0].voter}"
        raise InvalidInput(
            f"A majority of the voters holds register {key} intact, at version {value.version}: there is nothing to "
            "recover",
            code=error_codes.NOTHING_TO_RECOVER,
            hint=hint,
        )
    if key in {CONFIG, NAMES} or any(holding.held is not None and holding.held.state.value for holding in holdings):
        return
    try:
        created = created_registers(connection).get(key)
    except SkyholdError:  # as it waits for a move, which waits for this register
        return
    if not created:
        raise InvalidInput(
            f"No repository that was created has register {key}",
            code=error_codes.NOTHING_TO_RECOVER,
            hint="See `skyhold list`",
        )


def _newest(
    connection: Connection,
    acceptors: Acceptors,
    key: str,
    holdings: list[Holding],
    owner: RegisterOwner,
    *,
    empty: bool,
) -> tuple[Source, Kept]:
    """What the register can go on from."""
    kept = newest_of(holding.held for holding in holdings if holding.held is not None)
    if kept:
        return "voters", kept
    kept = newest_of(_of_earlier_epochs(connection, acceptors, key))
    if kept:
        return "earlier epoch", tuple(as_restored(kept)) if kept[-1].value.sealed else kept
    renewable = key.startswith(owner.prefix)
    if empty and renewable:
        return "nothing", (RegisterChange(Versioned(1, owner.first(connection, key)), None),)
    raise Corrupt(
        f"No voter that answers holds anything intact of register {key}, in this epoch or an earlier one",
        code=error_codes.REGISTER_DAMAGED,
        hint="Bring back another voter, or its objects under registers/ from a backup; or, to begin anew without its "
        f"refs and versions: {way_back(key)} --empty"
        if renewable
        else "Bring back another voter, or its objects under registers/ from a backup, then run this again",
        key=key,
    )


def _of_earlier_epochs(connection: Connection, acceptors: Acceptors, key: str) -> Iterable[AcceptorObject]:
    """What any bucket holds intact of the register from the newest earlier epoch of which there is something."""
    found: dict[int, list[AcceptorObject]] = {}
    incarnations = _incarnations(connection)
    for voter in acceptors.voters:
        with suppress(SkyholdError):  # a voter that does not answer is in the plan
            for info in list(voter.bucket.list(f"{FOLDER}/")):
                place = parse_object_key(info.key)
                if place is not None and place[1] == key and place[0] < acceptors.epoch:
                    stored = read_bounded(voter.bucket, info.key, ACCEPTOR_BYTES_MAX)
                    held = _decoded(connection, stored, place, incarnations[voter.name])
                    found.setdefault(place[0], []).extend(held)
    return next((found[epoch] for epoch in sorted(found, reverse=True) if found[epoch]), ())


def _decoded(
    connection: Connection, stored: Buffer, place: tuple[int, str], incarnations: Iterable[str]
) -> Iterator[AcceptorObject]:
    """The acceptor in an object, which was written under one of these incarnations, or is damaged."""
    for incarnation in incarnations:
        with suppress(Corrupt, PermissionDenied):
            held = decode_acceptor(stored, *place, incarnation, connection.keys)
            if held.state.value:
                yield held


def _incarnations(connection: Connection) -> dict[str, set[str]]:
    """The incarnations that each bucket has and had, as far as the history of the configuration can be read."""
    known: dict[str, set[str]] = {}
    for name, incarnation in connection.document.engine.voters:
        known.setdefault(name, set()).add(incarnation)
    with suppress(SkyholdError):
        for name, incarnation in recorded_incarnations(connection):
            known.setdefault(name, set()).add(incarnation)
    return known


def _plan(
    connection: Connection, acceptors: Acceptors, key: str, holdings: list[Holding], source: Source, kept: Kept
) -> RegisterPlan:
    findings = tuple(_finding(key, holding, kept if source == "voters" else ()) for holding in holdings)
    intact = sum(finding.state == "intact" for finding in findings)
    noted = connection.sightings.newest(key)
    seen, version, data = None if noted is None else noted.version, kept[-1].value.version, kept[-1].value.data
    whole = intact > len(findings) // 2 and not any(holding.retired for holding in holdings)
    lossless = whole and (seen is None or seen <= version)
    return RegisterPlan(
        connection.document.store, key, acceptors.epoch, findings, source, version, _events(key, data), seen, lossless,
    )  # fmt: skip


def _finding(key: str, holding: Holding, kept: Kept) -> VoterFinding:
    if holding.error is not None:
        return VoterFinding(holding.voter, "unknown", reason=holding.error.message)
    state: State
    if holding.held is None:
        state = "absent" if holding.damage in {None, _GONE} else "damaged"
        return VoterFinding(holding.voter, state, reason=holding.damage)
    value = holding.held.state.value
    if not value:
        return VoterFinding(holding.voter, "absent", reason="retired" if holding.retired else None)
    newest = value[-1].value
    state = "intact" if holding.damage is None else "older" if holding.damage == _OLDER else "damaged"
    events, writer, time = _events(key, newest.data), holding.held.writer, holding.held.time
    return VoterFinding(
        holding.voter, state, newest.version, events, writer, time, holding.damage, chosen=value == kept
    )


def _events(key: str, data: bytes) -> int | None:
    """How many events a register has. (The history of `config` is counted otherwise.)"""
    with suppress(SkyholdError):
        events = decode(data, f"register {key}").get("events")
        return events if is_counter(events) else None
    return None


def _refuse_too_few(key: str, after: list[Holding]) -> None:
    errors = {holding.voter: holding.error for holding in after if holding.error is not None}
    if len(after) - len(errors) <= len(after) // 2:
        raise no_majority(key, len(after), errors, sent=False)


def _begin_next(connection: Connection, before: EngineRegisters, key: str) -> None:
    """Begin the next epoch; where a move was under way that this register held up, that one."""

    def following(value: Versioned) -> bytes:
        before = decode_configuration(value.data)
        epoch = next_epoch(connection.document.engine, before)
        origin = connection.origin(reason=f"recover --register {key}")
        write = partial(connection.blobs_of(before).write, "records")
        after = logged(before, epoch.configuration, epoch.engine, origin, write)
        return encode_epoch(replace(epoch, configuration=after))

    registers = connection.registers
    if key == CONFIG:
        with suppress(Corrupt):  # `names` may be sealed already, and leads on
            registers.read(CONFIG)
        if registers.current is before:
            registers.resume(following)
    else:
        registers.read(CONFIG)
        if registers.current is before:
            registers.advance(following)
    remember(connection)
    spread(connection)
    catch_up_epoch(registers.current)
