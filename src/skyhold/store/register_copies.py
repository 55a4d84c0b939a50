"""What each bucket that votes holds of each register, object by object, and bringing up those that are damaged.

A read of a register is content with a majority, so a damaged copy shows nowhere until the others are gone. Here every
copy is read from its bucket and opened.

An acceptor whose object is damaged has forgotten what it promised and accepted, and no client can write that object
again in its epoch: a proposer may still count on a promise that was lost with it. So it is mended as a bucket that was
emptied is: a new epoch begins, into which the voters that have each register intact carry it (docs/consensus.md).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from skyhold import error_codes
from skyhold.buckets.bounded import read_bounded
from skyhold.buckets.bucket import Bucket
from skyhold.codec.frame import FrameKeys
from skyhold.consensus.acceptor import NO_BALLOT, AcceptorState, Ballot, beyond_reach
from skyhold.consensus.acceptor_object import (
    ACCEPTOR_BYTES_MAX,
    FOLDER,
    decode_acceptor,
    object_key,
    parse_object_key,
)
from skyhold.consensus.no_majority import acceptor_gone, acceptor_retired, out_of_reach, went_back
from skyhold.consensus.operation import Kept, version_of
from skyhold.consensus.parallel import at_once
from skyhold.consensus.sightings import Sightings
from skyhold.errors import Corrupt, NotFound, PermissionDenied, SkyholdError
from skyhold.storage.survey import Finding
from skyhold.store.connection import Connection

LOOKS_MAX: Final = 4
LOOK_INTERVAL_S: Final = 0.3
"""A voter that lacks what the others have may be about to take it: it is read again before it is reported as
lagging."""


@dataclass(slots=True)
class RegisterCopies:
    """What was found.

    `findings` are copies that are damaged, or older than this machine has seen them, or that a voter lacks; `lagging`
    are by bucket the objects of voters that lag by the last change, which is no damage. `unsettled` are registers that
    fewer than a majority of the voters have intact, or of which two copies contradict each other, with the reason;
    `scarce` are those that a majority of the voters has nothing of, and some voter has: what is decided next may be
    that there is nothing. `failed` are voters that did not answer; `read` are the objects that were read, by bucket;
    `keys` those of all registers that were examined.
    """

    findings: list[Finding] = field(default_factory=list)
    lagging: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unsettled: dict[str, str] = field(default_factory=dict)
    scarce: set[str] = field(default_factory=set)
    failed: dict[str, SkyholdError] = field(default_factory=dict)
    read: dict[str, set[str]] = field(default_factory=dict)
    read_bytes: int = 0
    keys: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Copy:
    """One copy: its state (that of an absent object where `size_bytes` is None), or the error why it does not count."""

    state: AcceptorState[Kept] = field(default_factory=AcceptorState)
    size_bytes: int | None = None
    error: SkyholdError | None = None


@dataclass(frozen=True, slots=True)
class _Voters:
    """The voters of an epoch: those that answer, with their incarnations, how many there are, and what this machine has
    seen of them."""

    answering: Mapping[str, tuple[Bucket, str]]
    count: int
    epoch: int
    keys: FrameKeys
    sightings: Sightings


def examine_registers(
    connection: Connection,
    buckets: Collection[str],
    registers: Collection[str] | None = None,
    *,
    looks: int = LOOKS_MAX,
) -> RegisterCopies:
    """Read every copy of these registers, or of all that some voter holds, in the voters among `buckets`, up to so many
    times where one lags. Where registers do not live in buckets there are none."""
    found = RegisterCopies()
    engine = connection.document.engine
    if not engine.votes:
        return found
    voters: dict[str, tuple[Bucket, str]] = {}
    keys: set[str] = set()
    for name, incarnation in engine.voters:
        if name not in buckets:
            continue
        bucket = connection.bucket(name)
        try:
            keys.update(_listed(bucket, engine.epoch))
        except SkyholdError as error:
            found.failed[name] = error
        else:
            voters[name] = bucket, incarnation

    found.keys = frozenset(keys if registers is None else keys & set(registers))
    electorate = _Voters(voters, len(engine.voters), engine.epoch, connection.keys, connection.sightings)
    for of_one in at_once(lambda key: _examine(electorate, key, looks), sorted(found.keys), "registers"):
        _add(found, of_one)
    found.findings.sort(key=lambda finding: (finding.bucket, finding.key))
    return found


def _listed(bucket: Bucket, epoch: int) -> set[str]:
    places = (parse_object_key(info.key) for info in bucket.list(f"{FOLDER}/{epoch:08x}/"))
    return {place[1] for place in places if place is not None}


def _examine(voters: _Voters, key: str, looks: int) -> RegisterCopies:
    for look in range(looks):
        if look:
            time.sleep(LOOK_INTERVAL_S)
        promised = voters.sightings.promised(voters.epoch, key)  # before they are read: others go on meanwhile
        copies = {
            name: _read(voters, key, bucket, incarnation, promised.get(incarnation, NO_BALLOT))
            for name, (bucket, incarnation) in voters.answering.items()
        }
        found = _judge(voters, key, copies)
        if not found.lagging and all(finding.problem == "damaged" for finding in found.findings):
            break
    return found


def _read(voters: _Voters, key: str, bucket: Bucket, incarnation: str, promised: Ballot) -> _Copy:
    place = object_key(voters.epoch, key)
    try:
        stored = read_bounded(bucket, place, ACCEPTOR_BYTES_MAX)
        held = decode_acceptor(stored, voters.epoch, key, incarnation, voters.keys)
    except NotFound as error:
        if error.code != error_codes.OBJECT_NOT_FOUND:
            return _Copy(error=error)
        return _Copy() if promised == NO_BALLOT else _Copy(error=acceptor_gone(bucket.name, key))
    except PermissionDenied as error:
        if error.code != error_codes.KEY_MISSING:
            return _Copy(error=error)
        # All keys of the store are open: the number of another one was flipped.
        return _Copy(error=Corrupt(error.message, code=error_codes.KEY_NUMBER_DAMAGED, key=place))
    except SkyholdError as error:
        return _Copy(error=error)
    fault: SkyholdError | None = None
    if held.retired:
        fault = acceptor_retired(bucket.name, key)
    elif held.state.promised < promised:
        fault = went_back(bucket.name, key)
    return _Copy(held.state, len(stored), fault)


def _judge(voters: _Voters, key: str, copies: Mapping[str, _Copy]) -> RegisterCopies:
    found, place = RegisterCopies(), object_key(voters.epoch, key)
    states = {name: copy.state for name, copy in copies.items() if copy.error is None}
    for name in beyond_reach(states, voters.count, version_of):
        copies[name].error = out_of_reach(name, key)
    intact = {name: copy for name, copy in copies.items() if copy.error is None}
    newest = max((copy.state.accepted for copy in intact.values()), default=NO_BALLOT)
    values = {copy.state.value for copy in intact.values() if copy.state.accepted == newest}
    for name, copy in copies.items():
        if isinstance(copy.error, Corrupt):
            found.findings.append(Finding(name, place, "damaged", copy.error.message))
            if copy.error.code != error_codes.ACCEPTOR_GONE:
                found.read[name] = {place}
        elif copy.error is not None:
            found.failed[name] = copy.error
        elif copy.size_bytes is not None:
            found.read[name] = {place}
            found.read_bytes += copy.size_bytes
            if copy.state.value not in values:
                found.lagging[name] = (place,)
        elif newest != NO_BALLOT:
            found.findings.append(Finding(name, place, "missing", "the voter has nothing of this register"))
    absent = sum(copy.size_bytes is None for copy in intact.values())
    if newest != NO_BALLOT and absent > voters.count // 2:
        found.scarce.add(key)
    damaged = sorted(name for name, copy in copies.items() if isinstance(copy.error, Corrupt))
    if damaged and len(intact) <= voters.count // 2:
        found.unsettled[key] = f"it is damaged in {', '.join(damaged)}, and no majority of the voters has it intact"
    if len(values) > 1:
        found.unsettled[key] = "two voters accepted different values under one ballot"
    return found


def _add(found: RegisterCopies, of_one: RegisterCopies) -> None:
    found.findings += of_one.findings
    found.unsettled |= of_one.unsettled
    found.scarce |= of_one.scarce
    found.failed |= of_one.failed
    found.read_bytes += of_one.read_bytes
    for name, places in of_one.lagging.items():
        found.lagging[name] = (*found.lagging.get(name, ()), *places)
    for name, read in of_one.read.items():
        found.read.setdefault(name, set()).update(read)
