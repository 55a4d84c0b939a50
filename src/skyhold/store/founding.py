"""Making a store. An `init` that dies half-way is undone by the next one that names one of its buckets.

What it is about to write is noted in the state folder first, under a lock that lasts as long as its process: a note
whose lock is free was left by an `init` that died, so what it describes is not a store in use.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shlex
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from skyhold import error_codes
from skyhold.buckets.bounded import read_bounded
from skyhold.buckets.bucket import Bucket
from skyhold.buckets.consent import destination_of, is_allowed, refused
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.open import create_bucket, open_bucket
from skyhold.buckets.overlap import refuse_overlap
from skyhold.consensus.acceptor import VOTERS_MAX
from skyhold.consensus.migration import CONFIG
from skyhold.errors import Corrupt, InvalidInput, NotFound, SkyholdError
from skyhold.security.keys import KeyEncryptionKey, StoreKeys, new_keys
from skyhold.storage.object_keys import CHECKPOINTS, REGISTERS, STORE_DOCUMENT, STORE_DOCUMENT_BYTES_MAX
from skyhold.storage.policy import Policy
from skyhold.store.bootstrap import create_store_document, refuse_occupied
from skyhold.store.configuration import Configuration, ConfiguredBucket, encode_configuration
from skyhold.store.configuration_log import logged
from skyhold.store.connection import Connection, new_operation_id
from skyhold.store.epoch import new_engine
from skyhold.store.features import FOUNDED_WITH
from skyhold.store.inside_bucket import refuse_inside_bucket
from skyhold.store.opening import document_for, remember
from skyhold.store.settings import Settings
from skyhold.store.state import StateFolder, clear_errors, open_state
from skyhold.store.store_document import BUCKETS, SQLITE, StoreDocument, encode_store_document
from skyhold.store.voters import refuse_unfit_voter

UNFIT = "Leave it out, and add it afterwards: skyhold bucket add NAME URL --role packs"


def found_store(
    locations: Sequence[BucketLocation],
    settings: Settings,
    *,
    encrypt_with: Sequence[KeyEncryptionKey] = (),
    policy: Policy | None = None,
    engine: str | None = None,
) -> Connection:
    """Make a store of these buckets. Its registers live in the buckets themselves (`buckets`, the default), of which
    the first `VOTERS_MAX` vote, on this machine (`sqlite`, the default of a single bucket that cannot vote), or in the
    etcd cluster of a URL.

    Every bucket must be reachable and empty; where one is not, or cannot vote, those that were written are left as they
    were before.
    """
    _refuse_settings_of_others(locations, settings)
    reached = [settings.locate(location) for location in locations]
    refuse_overlap(reached)
    for location in reached:
        refuse_inside_bucket(location)
    state_folder = open_state()
    store_id = secrets.token_hex(16)
    configured = tuple(
        ConfiguredBucket(location, secrets.token_hex(16), "packs" if n >= VOTERS_MAX else "voter")
        for n, location in enumerate(locations)
    )
    configuration = Configuration(configured, policy or Policy(), FOUNDED_WITH)
    keys, wrapped = new_keys(store_id, encrypt_with)
    _undo_dead(state_folder, locations, settings)
    tried = engine is None and len(locations) == 1
    engine = engine or (_engine_of_one(locations[0], settings) if tried else BUCKETS)
    first = StoreDocument(
        store=store_id,
        bucket=configured[0].location.name,
        incarnation=configured[0].incarnation,
        sealed=keys.sealed,
        engine=new_engine(engine, 1, state_folder.machine_id, configuration),
        hints=(),
        keys=tuple(wrapped),
    )
    documents = [document_for(first, configuration, bucket) for bucket in configured]
    written: list[Bucket] = []
    with (
        _noted(state_folder, store_id, _marks(locations, documents, keys)) as undo,
        ExitStack() as opened,
        ExitStack() as made,
    ):
        for location, document in zip(locations, documents, strict=True):
            create_bucket(settings.locate(location))
            bucket = opened.enter_context(open_bucket(settings.locate(location)))
            made.callback(undo, bucket, _digest(document, keys))  # first: what fails may have written it all the same
            create_store_document(bucket, document, keys)
            written.append(bucket)
        if engine == BUCKETS and not tried:
            _refuse_unfit_voters(written, configuration)
        connection = Connection(first, keys, state_folder.store(store_id), settings)
        made.callback(connection.close)
        connection.consents.agree_to_typed(locations, first.engine.cluster)
        configuration = logged(None, configuration, first.engine, connection.origin(reason="init"))
        connection.begin(configuration)
        connection.registers.compare_and_set(CONFIG, 0, encode_configuration(configuration), new_operation_id())
        remember(connection)
        state_folder.store(store_id).keep_document(encode_store_document(first, keys))
        made.pop_all()
        return connection


def _refuse_settings_of_others(locations: Sequence[BucketLocation], settings: Settings) -> None:
    """Raise where a settings file that was found changes where credentials go. There is no store yet to consent for."""
    reached = [settings.locate(location) for location in locations]
    wanted = [(location.name, destination_of(location)) for location in reached if not is_allowed(location)]
    if wanted:
        error = refused(wanted, "URL")
        error.hint = f"If {settings.file} is yours, name it: --config {shlex.quote(str(settings.file))}"
        raise error


def _engine_of_one(location: BucketLocation, settings: Settings) -> str:
    """The engine of a store of one bucket: in the bucket where it can vote, so that it serves every machine; else on
    this machine."""
    reached = settings.locate(location)
    create_bucket(reached)
    with open_bucket(reached) as bucket:
        refuse_occupied(bucket)
        try:
            refuse_unfit_voter(bucket, reached, UNFIT)
        except InvalidInput as error:
            if error.code != error_codes.VOTER_REFUSED:
                raise
            return SQLITE
    return BUCKETS


def _refuse_unfit_voters(buckets: Sequence[Bucket], configuration: Configuration) -> None:
    """Try all voters at once."""
    voters = {bucket.location.name: bucket.location for bucket in configuration.buckets if bucket.role == "voter"}
    with ThreadPoolExecutor(len(buckets), thread_name_prefix="admission") as threads:
        for _ in threads.map(
            lambda bucket: refuse_unfit_voter(bucket, voters[bucket.name], UNFIT),
            [bucket for bucket in buckets if bucket.name in voters],
        ):
            pass


@dataclass(frozen=True, slots=True)
class _Mark:
    """A bucket that an `init` is about to write: its place, and the SHA-256 of its `store.json`."""

    place: str
    digest: str


def _marks(
    locations: Sequence[BucketLocation], documents: Sequence[StoreDocument], keys: StoreKeys
) -> tuple[_Mark, ...]:
    return tuple(
        _Mark(location.place, _digest(document, keys)) for location, document in zip(locations, documents, strict=True)
    )


def _digest(document: StoreDocument, keys: StoreKeys) -> str:
    return hashlib.sha256(encode_store_document(document, keys)).hexdigest()


@contextmanager
def _noted(state_folder: StateFolder, store_id: str, marks: Sequence[_Mark]) -> Iterator[Callable[[Bucket, str], None]]:
    """Keep the note of an `init` while the block runs; its lock ends with the block. The block gets what undoes one
    bucket of it, as `_undo` does; where that fails, the note stays, and a later `init` tries again."""
    path = _notes(state_folder) / store_id
    draft = path.with_suffix(".part")  # locked and complete before any process can find it
    with clear_errors(path):
        file = draft.open("x")
    left = []

    def undo(bucket: Bucket, digest: str) -> None:
        try:
            _undo(bucket, digest)
        except SkyholdError:
            left.append(bucket.name)

    with file:
        try:
            with clear_errors(path):
                fcntl.flock(file, fcntl.LOCK_EX)
                json.dump([[mark.place, mark.digest] for mark in marks], file)
                file.flush()
                os.fsync(file.fileno())
                draft.rename(path)
            yield undo
        finally:
            draft.unlink(missing_ok=True)
            if not left:
                path.unlink(missing_ok=True)


def _undo_dead(state_folder: StateFolder, locations: Sequence[BucketLocation], settings: Settings) -> None:
    """Take out of these buckets what an `init` that died left in them."""
    by_place = {location.place: location for location in locations}
    for path in sorted(_notes(state_folder).glob("?" * 32)):
        marks = _dead(path)
        for mark in marks:
            if mark.place in by_place:
                with open_bucket(settings.locate(by_place[mark.place])) as bucket:
                    _undo(bucket, mark.digest)
        if marks and all(mark.place in by_place for mark in marks):
            path.unlink(missing_ok=True)


def _dead(path: Path) -> list[_Mark]:
    """The buckets in the note of an `init` that died; none while it runs, or once it has ended."""
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return [_Mark(place, digest) for place, digest in json.load(file)]
    except (FileNotFoundError, BlockingIOError):
        return []


def _undo(bucket: Bucket, digest: str) -> None:
    """Take the store out of a bucket that holds this very `store.json`, which goes last."""
    try:
        if hashlib.sha256(read_bounded(bucket, STORE_DOCUMENT, STORE_DOCUMENT_BYTES_MAX)).hexdigest() != digest:
            return
    except (NotFound, InvalidInput, Corrupt):  # it is not there, or another, or the place is no bucket
        return
    for folder in (CHECKPOINTS, REGISTERS):
        for info in list(bucket.list(f"{folder}/")):
            bucket.delete(info.key)
    bucket.delete(STORE_DOCUMENT)


def _notes(state_folder: StateFolder) -> Path:
    folder = state_folder.folder / "founding"
    with clear_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder
