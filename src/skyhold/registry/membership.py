"""Which buckets belong to a store: examined, added, removed, and admitted again after they were emptied."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.open import create_bucket, open_bucket
from skyhold.consensus.checkpoint import open_checkpoint, read_checkpoint
from skyhold.errors import Conflict, Corrupt, NotFound, OutcomeUnknown, PermissionDenied, SkyholdError
from skyhold.registry.catalogue import Catalogue
from skyhold.registry.connection import CONFIG, Connection, key_encryption_keys, new_operation_id
from skyhold.registry.opening import document_for, remember
from skyhold.registry.voters import refuse_fixed_voters
from skyhold.storage.bootstrap import create_store_document, inspect_store_document, replace_store_document
from skyhold.storage.configuration import (
    Configuration,
    ConfiguredBucket,
    add_bucket,
    decode_configuration,
    encode_configuration,
    remove_buckets,
    replace_bucket,
)
from skyhold.storage.names import CHECKPOINTS, STORE_DOCUMENT
from skyhold.storage.policy import Policy
from skyhold.storage.store_document import DOCUMENT_BYTES_MAX, encode_store_document


@dataclass(frozen=True, slots=True)
class Membership:
    """How a bucket stands to the store. `readmissible`: it is empty, or it is ours with a `store.json` that is damaged
    or gone, so that a repair admits it again."""

    reachable: bool
    readmissible: bool
    error: SkyholdError | None


def examine(connection: Connection) -> dict[str, Membership]:
    """Look at every bucket's `store.json`. Never raises for what a bucket does."""
    return {
        configured.location.name: _examine(connection, configured) for configured in connection.configuration.buckets
    }


def _examine(connection: Connection, configured: ConfiguredBucket) -> Membership:
    name = configured.location.name
    bucket = connection.bucket(name)
    try:
        document = inspect_store_document(bucket, connection.store_keys)
    except NotFound as error:
        vacant = _is_empty(bucket, connection.settings.locate(configured.location), error)
        ours = not vacant and error.code == "store_not_found" and _is_ours(connection, bucket)
        lost = _undocumented(name, error) if ours else _lost(name, error)
        again = (vacant or ours) and not connection.shared
        return Membership(vacant or error.code != "bucket_not_found", again, lost)
    except Corrupt as error:
        ours = _names_store(bucket) in {None, connection.document.store} and _is_ours(connection, bucket)
        return Membership(True, ours and not connection.shared, _undocumented(name, error) if ours else error)
    except SkyholdError as error:
        return Membership(not error.retryable, False, error)
    if document.incarnation != configured.incarnation or document.store != connection.document.store:
        return Membership(True, False, _restored(name))
    if document.engine.term > connection.document.engine.term:
        return Membership(True, False, _recovered_elsewhere(name))
    return Membership(True, False, None)


def admit_again(connection: Connection, name: str) -> None:
    """Make a bucket a member again that was emptied or lost its `store.json`, under a fresh incarnation; what else it
    lacks is then brought by a repair."""
    configured = replace(connection.configuration.bucket(name), incarnation=secrets.token_hex(16))

    def change(known: Configuration) -> Configuration:
        return replace_bucket(known, configured)

    bucket = connection.bucket(name)
    if not _is_ours(connection, bucket):
        _admit(connection, configured, change)
        return
    document = document_for(connection.document, change(connection.configuration), configured)
    body = encode_store_document(document, connection.store_keys)
    bucket.delete(STORE_DOCUMENT)
    if bucket.capabilities.conditional_create:
        bucket.write_if(STORE_DOCUMENT, body, expected_tag=None)
    else:
        bucket.write(STORE_DOCUMENT, body)
    _reconfigure(connection, change)
    _spread(connection)


def join_bucket(connection: Connection, location: BucketLocation) -> None:
    """Add a bucket to the store. Raises `AlreadyExists` where its name is taken or it is not empty."""
    refuse_fixed_voters(connection.document)
    configured = ConfiguredBucket(location, secrets.token_hex(16))
    add_bucket(connection.configuration, configured)  # refuses before anything is written
    _admit(connection, configured, lambda known: add_bucket(known, configured))


def leave_buckets(connection: Connection, names: Collection[str]) -> None:
    """Take buckets out of the store, as one change; what lies in them stays there.

    The buckets that stay have to take the change: where too few of them answer it is `OutcomeUnknown` code
    `checkpoint_pending`. So lost buckets leave together, since none of them could take the change that another leaves.
    """
    refuse_fixed_voters(connection.document)
    with connection.session(Policy()) as session:
        catalogue = Catalogue(connection.registers, session.blobs)
        policies = [
            Policy.from_json(catalogue.repository(repository_id).read().root.policy)
            for _, repository_id in catalogue.read().repositories()
        ]
    try:
        _reconfigure(connection, lambda known: remove_buckets(known, names, policies))
    except OutcomeUnknown as error:
        if error.code == "checkpoint_pending":
            left = ", ".join(location.name for location in connection.configuration.locations)
            error.hint = (
                f"The store has {left} now, as far as this machine knows. If some of these are lost for good too, take "
                "them out together: skyhold bucket remove NAME… --force"
            )
        raise
    _spread(connection)


def _admit(
    connection: Connection, configured: ConfiguredBucket, change: Callable[[Configuration], Configuration]
) -> None:
    location = connection.settings.locate(configured.location)
    create_bucket(location)
    bucket = open_bucket(location)
    after = change(connection.configuration)
    create_store_document(bucket, document_for(connection.document, after, configured), connection.store_keys)
    _reconfigure(connection, change)
    _spread(connection)


def _reconfigure(connection: Connection, change: Callable[[Configuration], Configuration]) -> None:
    value = connection.registers.read(CONFIG)
    if value is None:
        raise Corrupt("The store has no configuration", code="registers_missing")
    after = change(decode_configuration(value.data))
    try:
        connection.registers.compare_and_set(CONFIG, value.version, encode_configuration(after), new_operation_id())
    except OutcomeUnknown as error:
        if error.code != "checkpoint_pending":
            raise
    connection.reconfigured()
    remember(connection)
    connection.checkpoints.flush()  # where buckets leave that are lost for good, a majority of those that stay suffices


def _spread(connection: Connection) -> None:
    """Tell the other buckets' `store.json` where all buckets are. One that is away is told by a later repair."""
    keks = key_encryption_keys(connection.settings)
    configuration = connection.configuration
    for configured in configuration.buckets:
        document = document_for(connection.document, configuration, configured)
        try:
            replace_store_document(connection.bucket(configured.location.name), document, connection.store_keys, keks)
        except SkyholdError:
            continue


def _is_empty(bucket: Bucket, location: BucketLocation, error: NotFound) -> bool:
    """Whether the bucket is there with nothing in it; a folder that is missing altogether is away, not empty."""
    if location.scheme == "file" and error.code == "bucket_not_found":
        try:
            return not any(os.scandir(location.path))
        except OSError:
            return False
    try:
        return next(iter(bucket.list()), None) is None
    except SkyholdError:
        return False


def _is_ours(connection: Connection, bucket: Bucket) -> bool:
    """Whether a bucket holds a checkpoint that opens under the store's keys: nobody else could have put it there."""
    try:
        for info in bucket.list(f"{CHECKPOINTS}/"):
            try:
                stored = read_checkpoint(bucket, info.key)
                open_checkpoint(stored, info.key, connection.keys, connection.store_keys.name_key())
            except (Corrupt, PermissionDenied):
                continue
            return True
    except SkyholdError:
        return False
    return False


def _names_store(bucket: Bucket) -> str | None:
    """The store that a `store.json` names which cannot be trusted, or None where it names none."""
    try:
        sizes = {info.key: info.size_bytes for info in bucket.list(STORE_DOCUMENT)}
        if sizes.get(STORE_DOCUMENT, 0) > DOCUMENT_BYTES_MAX:
            return None
        named = json.loads(bytes(bucket.read(STORE_DOCUMENT))).get("store")
    except (SkyholdError, ValueError, AttributeError):
        return None
    return named if isinstance(named, str) else None


def _lost(name: str, error: NotFound) -> SkyholdError:
    return NotFound(
        f"Bucket `{name}` is empty or away: {error.message}",
        code="bucket_lost",
        hint="Bring it back, empty or as it was, then run `skyhold repair`",
        bucket=name,
    )


def _undocumented(name: str, error: SkyholdError) -> SkyholdError:
    return Corrupt(
        f"Bucket `{name}` holds objects of the store, but its store.json is damaged or gone: {error.message}",
        code="store_document_damaged",
        hint="Run `skyhold repair`",
        bucket=name,
    )


def _restored(name: str) -> SkyholdError:
    return Conflict(
        f"Bucket `{name}` is not the one that was admitted: it was restored, or belongs to another store",
        code="bucket_restored",
        hint=f"Empty it, then run `skyhold repair`; or take it out: skyhold bucket remove {name}",
        bucket=name,
    )


def _recovered_elsewhere(name: str) -> SkyholdError:
    return Conflict(
        f"Bucket `{name}` says that the store was recovered on another machine; changes made here no longer count",
        code="store_recovered_elsewhere",
        hint="Work on that machine, or run `skyhold recover` here",
        bucket=name,
    )
