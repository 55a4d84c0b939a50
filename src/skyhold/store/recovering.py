"""Recovering a store: from checkpoints, where its machine is lost; from a minority, where most voters are; or one of
its registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from skyhold import error_codes
from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.open import open_bucket
from skyhold.codec.frame import FrameKeys
from skyhold.consensus.framed_registers import FramedRegisters
from skyhold.consensus.memory import MemoryRegisters
from skyhold.consensus.migration import CONFIG, carry_over
from skyhold.consensus.recovery import DamagedCheckpoint, Recovery, recover_registers, restore
from skyhold.consensus.register import Versioned
from skyhold.consensus.sqlite import SqliteRegisters
from skyhold.errors import (
    AlreadyExists,
    Conflict,
    Corrupt,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    SkyholdError,
    Unavailable,
)
from skyhold.store.bootstrap import inspect_store_document, read_store_document, replace_store_document
from skyhold.store.configuration import Configuration, decode_configuration, encode_configuration
from skyhold.store.configuration_log import logged
from skyhold.store.connection import Connection, new_operation_id
from skyhold.store.epoch import Epoch, decode_epoch, encode_epoch, next_epoch
from skyhold.store.opening import look_up, remember
from skyhold.store.reconfiguring import spread
from skyhold.store.register_recovery import RegisterOwner, RegisterPlan, RegisterReport, recover_one
from skyhold.store.settings import Settings
from skyhold.store.state import open_state
from skyhold.store.store_document import BUCKETS, SQLITE, Engine, StoreDocument
from skyhold.store.store_keys import key_encryption_keys
from skyhold.store.succession import EPOCH_LEAP_MAX, newest_engine, open_machine_registers
from skyhold.store.unreadable_registers import first_unreadable
from skyhold.store.unsafe_recovery import begin_with, refuse_minority, salvage_newest


@dataclass(frozen=True, slots=True)
class RecoverReport:
    """What a recovery found. `registers` counts them; buckets that failed may know later changes."""

    store: str
    epoch: int
    registers: int
    answered: tuple[str, ...]
    failed: dict[str, str]
    damaged: tuple[DamagedCheckpoint, ...]
    majority: bool


def recover_store(
    url: str, settings: Settings, *, minority: bool = False, consent: Callable[[str], None] = lambda _kind: None
) -> tuple[Connection, RecoverReport]:
    """Bring the registers of a store to this machine, from the checkpoints in its buckets; or, where they live in
    buckets most of which are lost, begin anew with those that answer. `consent` is given the engine of what is about to
    be recovered, `sqlite` or `buckets`, before anything is changed, and raises to leave everything as it is.

    The store's epoch is raised first, so that a machine that held the registers before finds out. Raises `Unavailable`
    code `minority` where less than a majority of the buckets answers, unless `minority` accepts that changes which only
    the others know are lost; `InvalidInput` code `nothing_to_recover` where a majority of the voters answers.
    """
    with ExitStack() as opened:
        connection = _opened(url, settings, opened)
        connection.features.refuse_unwritten()
        engine, places = newest_engine(connection)  # the bucket that was named may know an earlier epoch alone
        if not engine.shared:
            consent(SQLITE)
            report = _take_over(connection, engine, places or connection.known_places, minority)
        else:
            connection.adopt(engine, places)
            unread = _read(connection)
            if unread is not None and unread.code == error_codes.OTHER_MACHINE:
                consent(SQLITE)
                lost = _finish_move(connection, minority)
                report = _take_over(connection, lost.engine, lost.configuration.locations, minority)
            else:
                report = _begin_anew(connection, unread, minority, consent)
        opened.pop_all()
        return connection, report


def recover_register(
    url: str,
    name: str,
    settings: Settings,
    owner: RegisterOwner,
    *,
    empty: bool = False,
    consent: Callable[[RegisterPlan], None],
) -> tuple[Connection, RegisterReport]:
    """Bring back one register that is damaged or gone at a majority of its voters, as `recover_one` does."""
    with ExitStack() as opened:
        connection = _opened(url, settings, opened)
        engine, places = newest_engine(connection)
        connection.adopt(engine, places)
        report = recover_one(connection, name, owner, empty=empty, consent=consent)
        opened.pop_all()
        return connection, report


def _opened(url: str, settings: Settings, opened: ExitStack) -> Connection:
    """The store, by the `store.json` of the bucket that is named. It is closed with `opened`."""
    state_folder = open_state()
    sought = look_up(state_folder, url, by_user=url != settings.store or settings.store_is_users)
    location = sought.candidates()[0]
    consents = frozenset() if sought.state is None else sought.state.consents()
    with open_bucket(settings.locate(location, consents)) as first:
        document, keys = read_store_document(first, key_encryption_keys(settings))
    places = (replace(location, name=document.bucket), *document.hints)
    connection = Connection(document, keys, state_folder.store(document.store), settings, places)
    opened.callback(connection.close)
    connection.consents.agree_to_typed([location])
    return connection


def _read(connection: Connection) -> SkyholdError | None:
    """Why the registers cannot be read, if they cannot."""
    try:
        connection.registers.read(CONFIG)
    except SkyholdError as error:
        return error
    return None


def _finish_move(connection: Connection, minority: bool) -> Epoch:
    """Finish a move to a machine that was lost before any bucket reported it: its values are in checkpoints then, as if
    that machine had finished the move. Returns the epoch that it began."""
    epoch = connection.registers.current
    value = epoch.read(CONFIG)
    if value is None or value.next_configuration is None:
        raise AssertionError("registers that are not sealed have not moved")
    lost = decode_epoch(value.next_configuration)
    if any(_epoch_at(connection, place) >= lost.engine.epoch for place in lost.configuration.locations):
        return lost  # the machine had finished the move, and updated that bucket
    here = replace(lost.engine, machine=open_state().machine_id)
    following = open_machine_registers(connection, here, lost.configuration, needed=1 if minority else None)
    try:
        # Whatever that machine has changed since is in later checkpoints, of its own.
        carry_over(epoch, following, value.next_configuration, connection.succession)
    except OutcomeUnknown as error:
        raise Unavailable(
            f"The store was moving to a machine that is lost, and too few of its buckets answer to finish that: "
            f"{error.message}",
            code=error_codes.MINORITY,
            hint="Bring back another bucket; or, if the others are lost for good: skyhold recover --minority URL",
        ) from error
    finally:
        following.close()
    return lost


def _epoch_at(connection: Connection, place: BucketLocation) -> int:
    try:
        return inspect_store_document(connection.bucket_at(place), connection.store_keys).engine.epoch
    except SkyholdError:
        return 0


def _take_over(connection: Connection, lost: Engine, places: Sequence[BucketLocation], minority: bool) -> RecoverReport:
    """Bring the registers to this machine, from the checkpoints that the machine of `lost` has left."""
    keys, machine = connection.store_keys, open_state().machine_id
    buckets = [connection.bucket_at(place) for place in places]
    epoch = _raise_epoch(connection, buckets, lost, machine, minority)
    recovery = recover_registers(buckets, connection.keys, keys.name_key())
    if CONFIG not in recovery.checkpoints:
        raise NotFound(
            f"No bucket that answers holds an intact configuration of store {connection.document.store}",
            code=error_codes.NOTHING_TO_RECOVER,
            hint="Bring back another bucket of the store, then run `skyhold recover` again",
        )
    configuration = decode_configuration(recovery.checkpoints[CONFIG].value.data)
    configuration.features.refuse_unwritten()
    if not _has_moved_on(connection, recovery, epoch, minority):
        _restore(recovery, connection.state.registers(epoch), connection.keys)
        connection.adopt(Engine(machine, epoch), configuration.locations)
        remember(connection)
        with suppress(OutcomeUnknown) if minority else nullcontext():
            _record(connection)
            connection.checkpoints.flush()
    return RecoverReport(
        connection.document.store,
        epoch,
        len(recovery.checkpoints),
        tuple(recovery.answered),
        {name: error.message for name, error in recovery.failed.items()},
        tuple(recovery.damaged),
        majority=len(recovery.answered) > len(configuration.buckets) // 2,
    )


def _record(connection: Connection) -> None:
    """Record in the history of the configuration that the registers are on this machine now."""
    value = connection.registers.read(CONFIG)
    assert value is not None  # noqa: S101 (it was restored)
    before = decode_configuration(value.data)
    after = encode_configuration(_recovered(connection, before, Epoch(connection.document.engine, before)))
    try:
        connection.registers.compare_and_set(CONFIG, value.version, after, new_operation_id())
    except OutcomeUnknown as error:
        if error.code != error_codes.CHECKPOINT_PENDING:
            raise


def _recovered(connection: Connection, before: Configuration, epoch: Epoch) -> Configuration:
    """The configuration of an epoch that a recovery begins, with an event about it."""
    write = partial(connection.blobs_of(before).write, "records")
    return logged(before, epoch.configuration, epoch.engine, connection.origin(reason="recover"), write)


def _has_moved_on(connection: Connection, recovery: Recovery, epoch: int, minority: bool) -> bool:
    """Whether the registers were about to move from the lost machine to another engine, which is done then. Where that
    engine cannot be reached, and `minority` accepts that what it alone knows is lost, the move is abandoned."""
    sealed = recovery.checkpoints[CONFIG].value.next_configuration
    if sealed is None:
        return False
    try:
        _move_on(connection, recovery, sealed, epoch)
    except Unavailable:
        if not minority:
            raise
        for key, checkpoint in recovery.checkpoints.items():
            recovery.checkpoints[key] = replace(checkpoint, value=replace(checkpoint.value, next_configuration=None))
        return False
    return True


def _move_on(connection: Connection, recovery: Recovery, sealed: bytes, written: int) -> None:
    """Finish the move, and begin one epoch more, since the number that was written to the buckets last, `written`, may
    be that of the epoch that the move began."""
    epoch, registers = decode_epoch(sealed), MemoryRegisters()
    restore(recovery.checkpoints, registers)
    connection.adopt(epoch.engine, epoch.configuration.locations)
    if connection.registers.read(CONFIG) is None:
        carry_over(registers, connection.registers.current, sealed, connection.succession)

    def following(value: Versioned) -> bytes:
        engine, before = connection.document.engine, decode_configuration(value.data)
        epoch = next_epoch(replace(engine, epoch=max(engine.epoch, written)), before)
        return encode_epoch(replace(epoch, configuration=_recovered(connection, before, epoch)))

    connection.registers.advance(following)
    remember(connection)
    spread(connection)


def _begin_anew(
    connection: Connection, unread: SkyholdError | None, minority: bool, consent: Callable[[str], None]
) -> RecoverReport:
    """Begin anew with the voters that answer, if they are few. `unread` is why the registers cannot be read."""
    if not connection.document.engine.votes:
        raise unread or _nothing_to_recover(connection.document)
    before = connection.document.engine
    found = salvage_newest(connection)
    voters = connection.document.engine.voters
    if len(found.survivors) - len(found.undocumented) > len(voters) // 2:
        if connection.document.engine != before and _read(connection) is None:
            spread(connection)  # no bucket that answers had reported it
            unread = None
        raise unread or first_unreadable(connection) or _nothing_to_recover(connection.document)
    if not minority or not found.survivors:
        raise refuse_minority(found, voters)
    consent(BUCKETS)
    begin_with(connection, found)
    return RecoverReport(
        connection.document.store,
        connection.document.engine.epoch,
        len(found.accepted),
        tuple(found.survivors),
        {name: error.message for name, error in found.failed.items()},
        tuple(found.damaged),
        majority=len(found.survivors) > len(voters) // 2,
    )


def _raise_epoch(connection: Connection, buckets: Sequence[Bucket], lost: Engine, machine: str, minority: bool) -> int:
    """Write a new epoch into every bucket that answers, before anything is read from them: greater than that of the
    engine that is lost, and than any that they report."""
    keys, keks = connection.store_keys, key_encryption_keys(connection.settings)
    documents: list[tuple[Bucket, StoreDocument]] = []
    errors: dict[str, SkyholdError] = {}
    for bucket in buckets:
        try:
            document = read_store_document(bucket, keks, expected_store=connection.document.store)[0]
            if document.engine.epoch > lost.epoch + EPOCH_LEAP_MAX:
                raise Corrupt(
                    f"Bucket `{bucket.name}` reports epoch {document.engine.epoch}, which is impossibly high",
                    code=error_codes.STORE_DOCUMENT_MALFORMED,
                )
            documents.append((bucket, document))
        except SkyholdError as error:
            errors[bucket.name] = error
    if not documents or (len(documents) <= len(buckets) // 2 and not minority):
        reasons = "; ".join(f"`{name}`: {error.message}" for name, error in errors.items())
        raise Unavailable(
            f"Only {len(documents)} of the store's {len(buckets)} buckets answer ({reasons}); nothing was changed",
            code=error_codes.MINORITY,
            hint="Bring back another bucket; or, if the others are lost for good: skyhold recover --minority URL",
        )
    newest = max((document for _, document in documents), key=lambda document: document.engine.epoch)
    if newest.engine.epoch > lost.epoch and newest.engine.shared:
        raise InvalidInput(
            f"The registers of store {newest.store} have moved to engine {newest.engine.kind}, "
            "which the bucket that was named does not know",
            code=error_codes.NOTHING_TO_RECOVER,
            hint="Name another bucket of the store",
        )
    epoch = max(newest.engine.epoch, lost.epoch) + 1
    for bucket, document in documents:
        replace_store_document(bucket, replace(document, engine=Engine(machine, epoch)), keys, keks)
    return epoch


def _nothing_to_recover(document: StoreDocument) -> InvalidInput:
    return InvalidInput(
        f"The registers of store {document.store} are within reach: there is nothing to recover",
        code=error_codes.NOTHING_TO_RECOVER,
        hint="Connect to it: skyhold connect URL",
    )


def _restore(recovery: Recovery, path: Path, keys: FrameKeys) -> None:
    """Put what was recovered into the fresh registers of its epoch."""
    engine = SqliteRegisters(path)
    try:
        restore(recovery.checkpoints, FramedRegisters(engine, keys))
    except Conflict as error:
        raise AlreadyExists(
            f"The registers in {path} were changed meanwhile",
            code=error_codes.REGISTERS_EXIST,
            hint="Run recover again",
        ) from error
    finally:
        engine.close()
