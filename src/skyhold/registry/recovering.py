"""Recovering a store: from checkpoints, where its machine is lost; from a minority, where most voters are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import parse_location
from skyhold.buckets.open import open_bucket
from skyhold.consensus.carrying import CONFIG
from skyhold.consensus.framed import FramedRegisters
from skyhold.consensus.recovery import DamagedCheckpoint, Recovery, recover_registers, restore
from skyhold.consensus.sqlite import SqliteRegisters
from skyhold.errors import (
    AlreadyExists,
    Conflict,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    SkyholdError,
    Unavailable,
)
from skyhold.registry.connection import Connection, frame_keys, key_encryption_keys
from skyhold.registry.opening import acquaintance, candidates, remember
from skyhold.registry.reconfiguring import spread
from skyhold.registry.salvage import begin_with, refuse_minority, salvage
from skyhold.security.keys import KeyEncryptionKey, StoreKeys
from skyhold.storage.bootstrap import read_store_document, replace_store_document
from skyhold.storage.configuration import decode_configuration
from skyhold.storage.settings import Settings
from skyhold.storage.state import open_state
from skyhold.storage.store_document import BUCKETS, SQLITE, Engine, StoreDocument


@dataclass(frozen=True, slots=True)
class RecoverReport:
    """What a recovery found. `registers` counts them; buckets that failed may know later changes."""

    store: str
    term: int
    registers: int
    answered: tuple[str, ...]
    failed: dict[str, str]
    damaged: tuple[DamagedCheckpoint, ...]
    majority: bool

    def to_json(self) -> dict[str, object]:
        return {
            "store": self.store,
            "term": self.term,
            "registers": self.registers,
            "answered": list(self.answered),
            "failed": self.failed,
            "damaged": [{"bucket": d.bucket, "key": d.key, "reason": d.reason} for d in self.damaged],
            "majority": self.majority,
        }


def recover_store(url: str, settings: Settings, *, minority: bool = False) -> tuple[Connection, RecoverReport]:
    """Bring the registers of a store to this machine, from the checkpoints in its buckets; or, where they live in
    buckets most of which are lost, begin anew with those that answer.

    The store's term is raised first, so that a machine that held the registers before finds out. Raises `Unavailable`
    code `minority` where less than a majority of the buckets answers, unless `minority` accepts that changes which only
    the others know are lost; `InvalidInput` code `nothing_to_recover` where a majority of the voters answers.
    """
    state_folder = open_state()
    keks = key_encryption_keys(settings)
    location = parse_location(url)
    _, met = acquaintance(state_folder, location)
    location = candidates(location, met)[0]
    with open_bucket(settings.locate(location)) as first:
        document, keys = read_store_document(first, keks)
    locations = (replace(location, name=document.bucket), *document.hints)
    if document.engine.kind == BUCKETS:
        state = state_folder.store(document.store)
        return _begin_anew(Connection(document, keys, state, settings, locations), minority=minority)
    buckets = [open_bucket(settings.locate(location)) for location in locations]
    term = _raise_term(buckets, keys, keks, state_folder.machine_id, minority=minority)
    recovery = recover_registers(buckets, frame_keys(keys), keys.name_key())
    if CONFIG not in recovery.checkpoints:
        raise NotFound(
            f"No bucket that answers holds an intact configuration of store {document.store}",
            code="nothing_to_recover",
            hint="Bring back another bucket of the store, then run `skyhold recover` again",
        )
    state = state_folder.store(document.store)
    engine = Engine(machine=state_folder.machine_id, term=term)
    _restore(recovery, state.registers(term), keys)
    configuration = decode_configuration(recovery.checkpoints[CONFIG].value.data)
    connection = Connection(replace(document, engine=engine), keys, state, settings)
    for bucket in buckets:
        bucket.close()
    remember(connection)
    majority = len(recovery.answered) > len(configuration.buckets) // 2
    if connection.shared:  # it was about to move to another engine, which is done by now
        spread(connection)
    else:
        with suppress(OutcomeUnknown) if minority else nullcontext():
            connection.checkpoints.flush()
    failed = {name: error.message for name, error in recovery.failed.items()}
    return connection, RecoverReport(
        document.store,
        term,
        len(recovery.checkpoints),
        tuple(recovery.answered),
        failed,
        tuple(recovery.damaged),
        majority,
    )


def _begin_anew(connection: Connection, *, minority: bool) -> tuple[Connection, RecoverReport]:
    connection.catch_up()  # the bucket that was named may know an earlier epoch alone
    _refuse_other(connection.document)
    voters = connection.document.engine.voters
    found = salvage(connection)
    if len(found.survivors) > len(voters) // 2:
        _refuse_shared(connection.document)
    if not minority or not found.survivors:
        raise refuse_minority(found, voters)
    begin_with(connection, found)
    return connection, RecoverReport(
        connection.document.store,
        connection.document.engine.term,
        len(found.accepted),
        tuple(found.survivors),
        {name: error.message for name, error in found.failed.items()},
        tuple(found.damaged),
        majority=False,
    )


def _raise_term(
    buckets: Sequence[Bucket], keys: StoreKeys, keks: Sequence[KeyEncryptionKey], machine: str, *, minority: bool
) -> int:
    """Write a new term into every bucket that answers, before anything is read from them."""
    documents: list[tuple[Bucket, StoreDocument]] = []
    errors: dict[str, SkyholdError] = {}
    for bucket in buckets:
        try:
            documents.append((bucket, read_store_document(bucket, keks, expected_store=keys.store_id)[0]))
        except SkyholdError as error:
            errors[bucket.name] = error
    if len(documents) <= len(buckets) // 2 and not minority:
        reasons = "; ".join(f"`{name}`: {error.message}" for name, error in errors.items())
        raise Unavailable(
            f"Only {len(documents)} of the store's {len(buckets)} buckets answer ({reasons}); nothing was changed",
            code="minority",
            hint="Bring back another bucket; or, if the others are lost for good: skyhold recover --minority URL",
        )
    newest = max((document for _, document in documents), key=lambda document: document.engine.term)
    _refuse_shared(newest)
    term = newest.engine.term + 1
    for bucket, document in documents:
        raised = replace(document, engine=replace(document.engine, machine=machine, term=term))
        replace_store_document(bucket, raised, keys, keks)
    return term


def _refuse_shared(document: StoreDocument) -> None:
    if document.engine.kind != SQLITE:
        raise InvalidInput(
            f"The registers of store {document.store} live on no machine: there is nothing to recover",
            code="nothing_to_recover",
            hint="Connect to it: skyhold connect URL",
        )


def _refuse_other(document: StoreDocument) -> None:
    if document.engine.kind != BUCKETS:
        raise InvalidInput(
            f"The registers of store {document.store} have moved to engine {document.engine.kind}: this bucket did not "
            "know it",
            code="nothing_to_recover",
            hint="Name another bucket of the store",
        )


def _restore(recovery: Recovery, path: Path, keys: StoreKeys) -> None:
    """Put what was recovered into the fresh registers of its term."""
    engine = SqliteRegisters(path)
    try:
        restore(recovery.checkpoints, FramedRegisters(engine, frame_keys(keys)))
    except Conflict as error:
        raise AlreadyExists(
            f"The registers in {path} were changed meanwhile", code="registers_exist", hint="Run recover again"
        ) from error
    finally:
        engine.close()
