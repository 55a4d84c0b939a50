"""Making a store, opening it, joining it, and recovering it from its buckets."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import BucketLocation, parse_location
from skyhold.buckets.open import create_bucket, open_bucket
from skyhold.consensus.framed import FramedRegisters
from skyhold.consensus.recovery import DamagedCheckpoint, Recovery, recover_registers
from skyhold.consensus.sqlite import SqliteRegisters
from skyhold.errors import AlreadyExists, Conflict, InvalidInput, NotFound, SkyholdError, Unavailable
from skyhold.registry.connection import (
    CONFIG,
    Connection,
    frame_keys,
    key_encryption_keys,
    new_operation_id,
    unreachable,
)
from skyhold.security.keys import KeyEncryptionKey, StoreKeys, new_keys
from skyhold.storage.bootstrap import create_store_document, read_store_document, replace_store_document
from skyhold.storage.configuration import Configuration, ConfiguredBucket, decode_configuration, encode_configuration
from skyhold.storage.names import STORE_DOCUMENT
from skyhold.storage.policy import Policy
from skyhold.storage.settings import Settings
from skyhold.storage.state import Acquaintance, StateFolder, StoreState, open_state
from skyhold.storage.store_document import Engine, StoreDocument, check_machine


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


def found_store(
    locations: Sequence[BucketLocation],
    settings: Settings,
    *,
    encrypt_with: Sequence[KeyEncryptionKey] = (),
    policy: Policy | None = None,
) -> Connection:
    """Make a store of these buckets, its registers on this machine.

    Every bucket must be reachable and empty; where one is not, those that were written are left as they were before.
    """
    state_folder = open_state()
    store_id = secrets.token_hex(16)
    buckets = tuple(ConfiguredBucket(location, secrets.token_hex(16)) for location in locations)
    configuration = Configuration(buckets, policy or Policy())
    keys, wrapped = new_keys(store_id, encrypt_with)
    document = StoreDocument(
        store=store_id,
        bucket=buckets[0].location.name,
        incarnation=buckets[0].incarnation,
        sealed=keys.sealed,
        engine=Engine(machine=state_folder.machine_id, term=1),
        hints=(),
        keys=tuple(wrapped),
    )
    written: list[Bucket] = []
    try:
        for configured in buckets:
            create_bucket(settings.locate(configured.location))
            bucket = open_bucket(settings.locate(configured.location))
            create_store_document(bucket, document_for(document, configuration, configured), keys)
            written.append(bucket)
    except BaseException:
        for bucket in written:
            with contextlib.suppress(SkyholdError):
                bucket.delete(STORE_DOCUMENT)
        raise
    connection = Connection(document, keys, state_folder.store(store_id), settings)
    connection._framed.compare_and_set(CONFIG, 0, encode_configuration(configuration), new_operation_id())
    connection.registers.flush()
    remember(connection)
    return connection


def document_for(document: StoreDocument, configuration: Configuration, configured: ConfiguredBucket) -> StoreDocument:
    """The `store.json` of one bucket of a store."""
    hints = [other.location for other in configuration.buckets if other is not configured]
    return document.for_bucket(configured.location.name, configured.incarnation, hints)


def open_store(url: str, settings: Settings) -> Connection:
    """Open the store that a bucket's URL names. Where that bucket is away, another one that this machine has met opens
    it as well. Raises `PermissionDenied` code `other_machine` where the registers live elsewhere."""
    state_folder = open_state()
    location = parse_location(url)
    state, met = _acquaintance(state_folder, location.url)
    errors: dict[str, SkyholdError] = {}
    keks = key_encryption_keys(settings)
    for candidate in _candidates(location, met):
        bucket = open_bucket(settings.locate(candidate))
        try:
            document, keys = read_store_document(
                bucket, keks, expected_store=state.store_id if state is not None else None, known=met
            )
        except (Unavailable, NotFound) as error:
            if isinstance(error, NotFound) and met is None:
                raise
            errors[candidate.url] = error
        else:
            check_machine(document, state_folder.machine_id, url)
            connection = Connection(document, keys, state_folder.store(document.store), settings)
            if met is None:
                remember(connection)
            return connection
        finally:
            bucket.close()
    raise unreachable(errors)


def recover_store(url: str, settings: Settings, *, minority: bool = False) -> tuple[Connection, RecoverReport]:
    """Bring the registers of a store to this machine, from the checkpoints in its buckets.

    The store's term is raised first, so that a machine that held the registers before finds out. Raises `Unavailable`
    code `minority` where less than a majority of the buckets answers, unless `minority` accepts that changes which only
    the others know are lost.
    """
    state_folder = open_state()
    keks = key_encryption_keys(settings)
    first = open_bucket(settings.locate(parse_location(url)))
    document, keys = read_store_document(first, keks)
    locations = (
        settings.locate(replace_name(parse_location(url), document.bucket)),
        *map(settings.locate, document.hints),
    )
    buckets = [open_bucket(location) for location in locations]
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
    _restore(recovery, state, keys)
    configuration = decode_configuration(recovery.checkpoints[CONFIG].value.data)
    connection = Connection(replace(document, engine=engine), keys, state, settings)
    for bucket in buckets:
        bucket.close()
    connection.registers.flush()
    remember(connection)
    majority = len(recovery.answered) > len(configuration.buckets) // 2
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


def remember(connection: Connection) -> None:
    """Note on this machine where the store's buckets are, and what it is, so that no bucket can say otherwise."""
    urls = tuple(location.url for location in connection.configuration.locations)
    sealed, check = connection.store_keys.sealed, connection.store_keys.check
    connection.state.remember(Acquaintance(urls, sealed, check))


def replace_name(location: BucketLocation, name: str) -> BucketLocation:
    """The location under the name that the store gives it."""
    return replace(location, name=name)


def named_locations(urls: Iterable[str | BucketLocation], names: Sequence[str] | None) -> list[BucketLocation]:
    """Locations of URLs. Raises `InvalidInput` where the names are not as many, or where two are alike."""
    given = list(urls)
    if names is not None and len(names) != len(given):
        raise InvalidInput(f"Expected {len(given)} names but got {len(names)}", code="names_count")
    locations = []
    for index, url in enumerate(given):
        name = names[index] if names is not None else None
        if isinstance(url, str):
            locations.append(parse_location(url, name=name))
        else:
            locations.append(url if name is None else replace_name(url, name))
    return locations


def _acquaintance(folder: StateFolder, url: str) -> tuple[StoreState | None, Acquaintance | None]:
    for state in folder.stores():
        met = state.recall()
        if met is not None and url in met.urls:
            return state, met
    return None, None


def _candidates(location: BucketLocation, met: Acquaintance | None) -> list[BucketLocation]:
    others = [parse_location(url) for url in (met.urls if met is not None else ()) if url != location.url]
    return [location, *others]


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
    term = max(document.engine.term for _, document in documents) + 1
    for bucket, document in documents:
        raised = replace(document, engine=replace(document.engine, machine=machine, term=term))
        replace_store_document(bucket, raised, keys, keks)
    return term


def _restore(recovery: Recovery, state: StoreState, keys: StoreKeys) -> None:
    """Put what was recovered into fresh registers; a database that this machine had is kept beside them."""
    path = state.registers
    for suffix in ("", "-wal", "-shm"):
        old = path.with_name(path.name + suffix)
        if old.exists():
            old.rename(old.with_name(f"{old.name}.before-term-{recovery.term + 1}"))
    engine = SqliteRegisters(path)
    try:
        framed = FramedRegisters(engine, frame_keys(keys))
        for key in sorted(recovery.checkpoints):
            framed.restore(key, recovery.checkpoints[key].value)
    except Conflict as error:
        raise AlreadyExists(
            f"The registers in {path} were changed meanwhile", code="registers_exist", hint="Run recover again"
        ) from error
    finally:
        engine.close()
