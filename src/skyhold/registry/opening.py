"""Opening a store, joining it, and recovering it from its buckets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import BucketLocation, parse_location
from skyhold.buckets.open import open_bucket
from skyhold.consensus.carrying import CONFIG
from skyhold.consensus.framed import FramedRegisters
from skyhold.consensus.recovery import DamagedCheckpoint, Recovery, recover_registers, restore
from skyhold.consensus.sqlite import SqliteRegisters
from skyhold.errors import (
    AlreadyExists,
    Conflict,
    Corrupt,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    SkyholdError,
    Unavailable,
)
from skyhold.registry.connection import (
    Connection,
    frame_keys,
    key_encryption_keys,
    unreachable,
)
from skyhold.security.keys import KeyEncryptionKey, StoreKeys
from skyhold.storage.bootstrap import read_store_document, replace_store_document
from skyhold.storage.configuration import Configuration, ConfiguredBucket, decode_configuration
from skyhold.storage.settings import Settings
from skyhold.storage.state import Acquaintance, StateFolder, StoreState, open_state
from skyhold.storage.store_document import SQLITE, Engine, StoreDocument, check_machine


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


def document_for(document: StoreDocument, configuration: Configuration, configured: ConfiguredBucket) -> StoreDocument:
    """The `store.json` of one bucket of a store."""
    hints = [other.location for other in configuration.buckets if other is not configured]
    return document.for_bucket(configured.location.name, configured.incarnation, hints)


def open_store(url: str, settings: Settings, *, meet: bool = False) -> Connection:
    """Open the store that a bucket's URL names. Where that bucket is away, damaged or closed to us, another one that
    this machine has met opens it as well. `meet` takes the bucket's own word for which store it is, as `connect` does.

    Raises `PermissionDenied` code `other_machine` where the registers live elsewhere.
    """
    state_folder = open_state()
    location = parse_location(url)
    state, met = (None, None) if meet else _acquaintance(state_folder, location)
    errors: dict[str, SkyholdError] = {}
    keks = key_encryption_keys(settings)
    for candidate in _candidates(location, met):
        try:
            with open_bucket(settings.locate(candidate)) as bucket:
                document, keys = read_store_document(
                    bucket, keks, expected_store=None if state is None else state.store_id, known=met
                )
                check_machine(document, state_folder.machine_id, url)
                if met is None:  # the bucket's own word is taken, but not against what is known of that store
                    known = state_folder.store(document.store).recall()
                    read_store_document(bucket, keks, known=known)
        except (Unavailable, NotFound, Corrupt, PermissionDenied) as error:
            errors[candidate.url] = error
            continue
        places = (replace(candidate, name=document.bucket), *(met.locations if met is not None else ()))
        connection = Connection(document, keys, state_folder.store(document.store), settings, places)
        if met is None:
            remember(connection)
        return connection
    raise next(iter(errors.values())) if len({error.code for error in errors.values()}) == 1 else unreachable(errors)


def recover_store(url: str, settings: Settings, *, minority: bool = False) -> tuple[Connection, RecoverReport]:
    """Bring the registers of a store to this machine, from the checkpoints in its buckets.

    The store's term is raised first, so that a machine that held the registers before finds out. Raises `Unavailable`
    code `minority` where less than a majority of the buckets answers, unless `minority` accepts that changes which only
    the others know are lost.
    """
    state_folder = open_state()
    keks = key_encryption_keys(settings)
    location = parse_location(url)
    _, met = _acquaintance(state_folder, location)
    location = _candidates(location, met)[0]
    with open_bucket(settings.locate(location)) as first:
        document, keys = read_store_document(first, keks)
    _refuse_shared(document)
    locations = (replace(location, name=document.bucket), *document.hints)
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
    if not connection.shared:  # it was about to move to another engine, which is done by now
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


def remember(connection: Connection) -> None:
    """Note on this machine where the store's buckets are, and what it is, so that no bucket can say otherwise.

    A place holds one store: another one that this machine met there before is not looked for there any more.
    """
    locations = connection.configuration.locations
    sealed, check = connection.store_keys.sealed, connection.store_keys.check
    places = {location.place for location in locations}
    for other in open_state().stores():
        met = other.recall()
        if other.store_id != connection.state.store_id and met is not None:
            left = tuple(location for location in met.locations if location.place not in places)
            if left != met.locations:
                other.remember(replace(met, locations=left))
    connection.state.remember(Acquaintance(locations, sealed, check))


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


def _acquaintance(folder: StateFolder, location: BucketLocation) -> tuple[StoreState | None, Acquaintance | None]:
    """The store that this machine met at a location; one written without an endpoint may mean a place that has one."""
    known = [(state, met) for state in folder.stores() if (met := state.recall()) is not None]
    for state, met in known:
        if location.place in {other.place for other in met.locations}:
            return state, met
    for state, met in known:
        if location.endpoint is None and location.url in {other.url for other in met.locations}:
            return state, met
    return None, None


def _candidates(location: BucketLocation, met: Acquaintance | None) -> list[BucketLocation]:
    """Where to look for the store: first at the location, as it is known in full, then at its other buckets."""
    known = sorted(
        () if met is None else met.locations,
        key=lambda other: (other.place != location.place, other.url != location.url),
    )
    if not known or known[0].url != location.url:
        return [location, *known]
    written = {name: value for name, value in location.to_json().items() if name not in {"name", "url", "provider"}}
    return [replace(known[0], **written), *known[1:]]  # type: ignore[arg-type]


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
