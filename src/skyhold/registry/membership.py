"""Which buckets belong to a store: examined, added, removed, and admitted again after they were emptied."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.open import create_bucket, open_bucket
from skyhold.consensus.checkpoint import open_checkpoint, parse_checkpoint_key
from skyhold.errors import Conflict, Corrupt, NotFound, PermissionDenied, SkyholdError
from skyhold.registry.catalogue import Catalogue
from skyhold.registry.connection import CONFIG, Connection, key_encryption_keys, new_operation_id
from skyhold.registry.opening import document_for, remember
from skyhold.storage.bootstrap import create_store_document, inspect_store_document, replace_store_document
from skyhold.storage.configuration import (
    Configuration,
    ConfiguredBucket,
    add_bucket,
    decode_configuration,
    encode_configuration,
    remove_bucket,
    replace_bucket,
)
from skyhold.storage.names import CHECKPOINTS
from skyhold.storage.policy import Policy


@dataclass(frozen=True, slots=True)
class Membership:
    """How a bucket stands to the store. `vacant`: it can be reached and is empty, so that it may be admitted again."""

    reachable: bool
    vacant: bool
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
        return Membership(vacant or error.code != "bucket_not_found", vacant, _lost(name, error))
    except SkyholdError as error:
        return Membership(not error.retryable, False, error)
    if document.incarnation != configured.incarnation or document.store != connection.document.store:
        return Membership(True, False, _restored(name))
    if document.engine.term > connection.document.engine.term:
        return Membership(True, False, _recovered_elsewhere(name))
    return Membership(True, False, None)


def admit_again(connection: Connection, name: str) -> None:
    """Make an emptied bucket a member again, under a fresh incarnation; its objects are then brought by a repair."""
    configured = replace(connection.configuration.bucket(name), incarnation=secrets.token_hex(16))
    _admit(connection, configured, lambda known: replace_bucket(known, configured))


def join_bucket(connection: Connection, location: BucketLocation) -> None:
    """Add a bucket to the store. Raises `AlreadyExists` where its name is taken or it is not empty."""
    configured = ConfiguredBucket(location, secrets.token_hex(16))
    add_bucket(connection.configuration, configured)  # refuses before anything is written
    _admit(connection, configured, lambda known: add_bucket(known, configured))


def leave_bucket(connection: Connection, name: str) -> None:
    """Take a bucket out of the store; what lies in it stays there."""
    with connection.session(Policy()) as session:
        catalogue = Catalogue(connection.registers, session.blobs)
        policies = [
            Policy.from_json(catalogue.repository(repository_id).read().root.policy)
            for _, repository_id in catalogue.read().repositories()
        ]
    _reconfigure(connection, lambda known: remove_bucket(known, name, policies))
    _spread(connection)


def copy_checkpoints(connection: Connection, names: Sequence[str]) -> int:
    """Bring the newest checkpoint of each register to the buckets that lack it; returns how many were copied."""
    buckets = [connection.bucket(name) for name in names]
    newest: dict[str, tuple[tuple[int, int], str]] = {}
    holding: dict[str, set[str]] = {}
    for bucket in buckets:
        for info in bucket.list(f"{CHECKPOINTS}/"):
            parsed = parse_checkpoint_key(info.key)
            if parsed is not None:
                folder, place = parsed[0], parsed[1:]
                holding.setdefault(info.key, set()).add(bucket.name)
                if folder not in newest or (place, info.key) > newest[folder]:
                    newest[folder] = (place, info.key)
    copied = 0
    for _, key in newest.values():
        lacking = [bucket for bucket in buckets if bucket.name not in holding[key]]
        sources = [bucket for bucket in buckets if bucket.name in holding[key]]
        if lacking:
            stored = _intact_checkpoint(connection, key, sources)
            for bucket in lacking:
                bucket.write(key, stored)
                copied += 1
    return copied


def _intact_checkpoint(connection: Connection, key: str, sources: Sequence[Bucket]) -> bytes:
    for bucket in sources:
        stored = bytes(bucket.read(key))
        try:
            open_checkpoint(stored, key, connection.keys, connection.store_keys.name_key())
        except (Corrupt, PermissionDenied):
            continue
        return stored
    raise Corrupt(f"No bucket has an intact checkpoint {key}", code="checkpoint_damaged", key=key)


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
    connection.registers.compare_and_set(CONFIG, value.version, encode_configuration(after), new_operation_id())
    connection.reconfigured()
    remember(connection)


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


def _lost(name: str, error: NotFound) -> SkyholdError:
    return NotFound(
        f"Bucket `{name}` is empty or away: {error.message}",
        code="bucket_lost",
        hint="Bring it back, empty or as it was, then run `skyhold repair`",
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
