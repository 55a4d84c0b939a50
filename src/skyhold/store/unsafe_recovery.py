"""Beginning anew with a minority of the voters, where the others are lost for good.

No majority can show any more what was decided last, so this is no consensus: every register goes on from the newest
value that any survivor has accepted, in an epoch of the survivors alone. What only the lost voters knew is lost, and a
change whose fate was unknown may now have happened. If the lost voters come back together, the two halves do not see
each other (split brain): so only a user who confirms it can start this.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from skyhold import error_codes
from skyhold.buckets.bounded import read_bounded
from skyhold.buckets.bucket import Bucket
from skyhold.consensus.acceptor import AcceptorState, Ballot, beyond_reach
from skyhold.consensus.acceptor_object import ACCEPTOR_BYTES_MAX, FOLDER, decode_acceptor, parse_object_key
from skyhold.consensus.buckets import BucketRegisters
from skyhold.consensus.memory import MemoryRegisters
from skyhold.consensus.migration import CONFIG, as_restored, carry_over
from skyhold.consensus.no_majority import UNDOCUMENTED, out_of_reach
from skyhold.consensus.operation import Kept, version_of
from skyhold.consensus.recovery import DamagedCheckpoint
from skyhold.consensus.register import Versioned
from skyhold.errors import Corrupt, NotFound, SkyholdError, Unavailable
from skyhold.store.bootstrap import inspect_store_document, overwrite_store_document
from skyhold.store.configuration import Configuration, decode_configuration
from skyhold.store.configuration_log import logged
from skyhold.store.connection import Connection
from skyhold.store.engine_status import catch_up_fully
from skyhold.store.epoch import Epoch, decode_epoch, encode_epoch, next_epoch
from skyhold.store.membership import names_store
from skyhold.store.opening import document_for, remember
from skyhold.store.reconfiguring import spread
from skyhold.store.succession import EPOCH_LEAP_MAX, StoreSuccession
from skyhold.store.voters import open_voters


@dataclass(slots=True)
class Salvage:
    """What the survivors held: per register the kept changes under the greatest ballot; which voters answered, which
    did not and why, and what was damaged. `undocumented` are survivors that have no vote, with the reason: their
    `store.json` is damaged or gone, and what they hold of registers is intact. `newest_epoch` is the greatest of which
    any survivor holds something."""

    accepted: dict[str, tuple[Ballot, Kept]] = field(default_factory=dict)
    survivors: list[str] = field(default_factory=list)
    failed: dict[str, SkyholdError] = field(default_factory=dict)
    undocumented: dict[str, SkyholdError] = field(default_factory=dict)
    damaged: list[DamagedCheckpoint] = field(default_factory=list)
    newest_epoch: int = 0


def salvage_newest(connection: Connection) -> Salvage:
    """Salvage the newest epoch that the survivors report: where they hold the seal of one, and some of the voters that
    follow on it hold a configuration, that one. The connection goes on with it. Changes nothing."""
    found = salvage(connection)
    while (following := _following(found)) is not None and following.engine.votes:
        engine = connection.document.engine
        connection.adopt(following.engine, following.configuration.locations)
        beyond = salvage(connection)
        if CONFIG not in beyond.accepted:
            connection.adopt(engine, ())  # it has not begun, as far as the survivors show
            break
        for key, (ballot, kept) in found.accepted.items():
            # A register that no survivor has in the newer epoch yet has the value with which the older epoch ended.
            ended = tuple(as_restored(kept)) if kept[-1].value.sealed else kept
            if key not in beyond.accepted and ended:
                beyond.accepted[key] = ballot, ended
        found = beyond
    return found


def _following(found: Salvage) -> Epoch | None:
    kept = found.accepted[CONFIG][1] if CONFIG in found.accepted else ()
    sealed = kept[-1].value.next_configuration if kept else None
    return None if sealed is None else decode_epoch(sealed)


def salvage(connection: Connection) -> Salvage:
    """Read what the voters that answer have accepted. Changes nothing."""
    found = Salvage(newest_epoch=connection.document.engine.epoch)
    places = {location.name: location for location in connection.known_places}
    voters = connection.document.engine.voters
    held: dict[str, dict[str, AcceptorState[Kept]]] = {}
    for name, incarnation in voters:
        try:
            if name not in places:
                raise NotFound(
                    f"No bucket that answers contains the place of `{name}`", code=error_codes.BUCKET_NOT_CONFIGURED
                )
            bucket = connection.bucket_at(places[name])
            undocumented = _undocumented(connection, bucket, incarnation)
            _read(connection, bucket, incarnation, held, found)
            if undocumented is not None:
                if not any(name in of for of in held.values()):
                    raise undocumented
                found.undocumented[name] = undocumented
        except SkyholdError as error:
            found.failed[name] = error
        else:
            found.survivors.append(name)
    excluded = {name: key for key, of in held.items() for name in beyond_reach(of, len(voters), version_of)}
    found.failed |= {name: out_of_reach(name, key) for name, key in excluded.items()}
    found.survivors = [name for name in found.survivors if name not in excluded]
    for key, of in held.items():
        accepted = [(state.accepted, state.value) for name, state in of.items() if state.value and name not in excluded]
        if accepted:
            found.accepted[key] = max(accepted, key=lambda one: one[0])
    return found


def _undocumented(connection: Connection, bucket: Bucket, incarnation: str) -> SkyholdError | None:
    """Why the `store.json` of a voter cannot be used, if so. Raises what the bucket raises, and where its incarnation
    is not the admitted one."""
    try:
        document = inspect_store_document(bucket, connection.store_keys)
    except (Corrupt, NotFound) as error:
        if error.code not in UNDOCUMENTED or names_store(bucket) not in {None, connection.document.store}:
            raise
        return error
    if document.incarnation != incarnation:
        raise Corrupt(f"Bucket `{bucket.name}` was emptied or exchanged", code=error_codes.VOTER_NOT_ADMITTED)
    return None


def begin_with(connection: Connection, found: Salvage) -> None:
    """Begin an epoch in which the survivors alone vote, with what they held. The lost voters stay in the configuration,
    to keep packs, until they are taken out of it.

    Raises `NotFound` code `nothing_to_recover` where they do not even hold a configuration.
    """
    held = MemoryRegisters()
    for key, (_, kept) in found.accepted.items():
        changes = kept[:-1] if kept[-1].value.sealed else kept  # the move that it began is abandoned
        if changes:
            held.restore(key, changes)
    value = held.read(CONFIG)
    if value is None:
        raise NotFound(
            "No bucket that answers holds the configuration of the store",
            code=error_codes.NOTHING_TO_RECOVER,
            hint="Bring back another bucket of the store, then run `skyhold recover` again",
        )
    before = decode_configuration(value.data)
    before.features.refuse_unwritten()
    epoch = _epoch(connection, before, found)
    connection.sightings.forget()  # the user who reports the others lost gives up what they alone knew
    connection.begin(epoch.configuration)
    places = {location.name: location for location in epoch.configuration.locations}
    # The registers first: no client reads them yet, and after a crash this is repeated in an epoch of its own.
    registers = open_voters(connection, epoch.engine, places, verified=True)
    try:
        carry_over(held, registers, encode_epoch(epoch), _Salvaged(connection, held.list()))
        _bring_up_all(registers)  # where this dies later, the first to have a new `store.json` may be left alone
    finally:
        registers.close()
    for configured in epoch.configuration.buckets:
        if configured.role == "voter":
            # This ends the old incarnations: a client that still works in that epoch detects it.
            document = replace(document_for(connection.document, epoch.configuration, configured), engine=epoch.engine)
            overwrite_store_document(connection.bucket_at(configured.location), document, connection.store_keys)
    for name in found.survivors:
        with suppress(SkyholdError):
            _forget(connection.bucket_at(places[name]), epoch.engine.epoch, found.accepted)
    connection.enter(epoch)
    connection.reopen()
    remember(connection)
    spread(connection)


class _Salvaged(StoreSuccession):
    def __init__(self, connection: Connection, keys: Sequence[str]) -> None:
        super().__init__(connection, lambda: connection.features, connection.enter)
        self._keys = keys

    def listed(self, names: Versioned, configuration: bytes) -> Mapping[str, bool]:  # noqa: ARG002 - see `salvage`
        return dict.fromkeys(self._keys, True)


def refuse_minority(found: Salvage, voters: Sequence[tuple[str, str]]) -> Unavailable:
    """The error where the user has not confirmed that the others are lost for good."""
    errors = found.failed | found.undocumented
    reasons = "; ".join(f"`{name}`: {error.message}" for name, error in sorted(errors.items()))
    votes = len(found.survivors) - len(found.undocumented)
    return Unavailable(
        f"Only {votes} of the store's {len(voters)} voters answer as such ({reasons}); nothing was changed",
        code=error_codes.MINORITY,
        hint="Bring back another bucket; or, if the others are lost for good: skyhold recover --minority URL",
    )


def _read(
    connection: Connection,
    bucket: Bucket,
    incarnation: str,
    held: dict[str, dict[str, AcceptorState[Kept]]],
    found: Salvage,
) -> None:
    epoch = connection.document.engine.epoch
    for info in list(bucket.list(f"{FOLDER}/")):
        place = parse_object_key(info.key)
        if place is None or place[0] > epoch + EPOCH_LEAP_MAX:
            continue
        found.newest_epoch = max(found.newest_epoch, place[0])
        if place[0] != epoch:
            continue
        try:
            stored = read_bounded(bucket, info.key, ACCEPTOR_BYTES_MAX)
            state = decode_acceptor(stored, *place, incarnation, connection.keys).state
        except Corrupt as error:
            found.damaged.append(DamagedCheckpoint(bucket.name, info.key, error.message))
            continue
        held.setdefault(place[1], {})[bucket.name] = state


def _bring_up_all(registers: BucketRegisters) -> None:
    keys = registers.list()
    if catch_up_fully(registers, keys) and not any(
        isinstance(held, SkyholdError) for key in keys for held in registers.inspect(key).values()
    ):
        return
    raise Unavailable(
        "A bucket that answered a moment ago does not take what the store begins anew with; nothing was changed",
        code=error_codes.MINORITY,
        hint="Run the command again",
    )


def _forget(bucket: Bucket, epoch: int, carried: Collection[str]) -> None:
    """Delete what a survivor holds of earlier epochs: together with one lost voter that comes back it would be a
    majority to a process that still has the old configuration. An absent object counts only after `store.json` was
    read, which has another incarnation now. A register that was not carried, since it is damaged, can have no majority
    there, and what an earlier epoch holds may be all that is left of it."""
    for info in list(bucket.list(f"{FOLDER}/")):
        place = parse_object_key(info.key)
        if place is not None and place[0] < epoch and place[1] in carried:
            bucket.delete(info.key)


def _epoch(connection: Connection, before: Configuration, found: Salvage) -> Epoch:
    """The survivors vote, under fresh incarnations."""
    buckets = tuple(
        replace(bucket, incarnation=secrets.token_hex(16), role="voter")
        if bucket.location.name in found.survivors
        else replace(bucket, role="packs")
        for bucket in before.buckets
    )
    engine = replace(connection.document.engine, epoch=found.newest_epoch)
    epoch = next_epoch(engine, replace(before, buckets=buckets))
    origin = connection.origin(reason="recover --minority")
    write = partial(connection.blobs_of(before).write, "records")
    return replace(epoch, configuration=logged(before, epoch.configuration, epoch.engine, origin, write))
