"""The membership of the buckets of a store: members, emptied, restored, or of another store."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

from skyhold import error_codes
from skyhold.buckets.bounded import read_bounded
from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import BucketLocation
from skyhold.consensus.acceptor_object import ACCEPTOR_BYTES_MAX, decode_acceptor, parse_object_key
from skyhold.consensus.checkpoint import open_checkpoint, read_checkpoint
from skyhold.consensus.migration import CONFIG
from skyhold.consensus.parallel import at_once
from skyhold.errors import Conflict, Corrupt, NotFound, PermissionDenied, SkyholdError
from skyhold.storage.object_keys import CHECKPOINTS, REGISTERS, STORE_DOCUMENT, STORE_DOCUMENT_BYTES_MAX
from skyhold.store.bootstrap import content_of, inspect_store_document
from skyhold.store.configuration import ConfiguredBucket, decode_configuration
from skyhold.store.connection import Connection


@dataclass(frozen=True, slots=True)
class Membership:
    """The membership of a bucket in the store. `readmissible`: it is empty, or it is ours with a `store.json` that is
    damaged or gone, so that a repair admits it again. `outdated`: its `store.json` contains an epoch that is over."""

    reachable: bool
    readmissible: bool
    error: SkyholdError | None
    outdated: bool = False


def examine(connection: Connection) -> dict[str, Membership]:
    """Look at every bucket's `store.json`, all at once. Never raises for what a bucket does."""
    buckets = connection.configuration.buckets
    found = at_once(lambda configured: examine_bucket(connection, configured), buckets, "examine")
    return {configured.location.name: member for configured, member in zip(buckets, found, strict=True)}


def examine_bucket(connection: Connection, configured: ConfiguredBucket) -> Membership:
    """As `examine`, of one bucket: one request where it is a member."""
    name = configured.location.name
    bucket = connection.bucket(name)
    try:
        document = inspect_store_document(bucket, connection.store_keys)
    except NotFound as error:
        vacant = _is_empty(bucket, connection.reach(configured.location), error)
        ours = not vacant and error.code == error_codes.STORE_NOT_FOUND and _is_ours(connection, configured, bucket)
        lost = _undocumented(name, error) if ours else _lost(name, error, vacant=vacant)
        return Membership(vacant or error.code != error_codes.BUCKET_NOT_FOUND, vacant or ours, lost)
    except Corrupt as error:
        return _of_damaged_document(connection, configured, bucket, error)
    except SkyholdError as error:
        return Membership(not error.retryable, False, error)
    if document.incarnation != configured.incarnation or document.store != connection.document.store:
        return Membership(True, False, _restored(name))
    if document.engine.epoch > connection.document.engine.epoch and not connection.shared:
        return Membership(True, False, _recovered_elsewhere(name))
    return Membership(True, False, None, document.engine != connection.document.engine)


def _of_damaged_document(
    connection: Connection, configured: ConfiguredBucket, bucket: Bucket, error: Corrupt
) -> Membership:
    """A bucket that holds an object that only a holder of the store's keys could have written is ours, unless its
    `store.json` names another store. For any other one the user decides."""
    name, named, store = bucket.name, names_store(bucket), connection.document.store
    try:
        proven = _shows_membership(connection, configured, bucket)
    except SkyholdError as failure:  # no advice to empty a bucket that could not be read
        return Membership(not failure.retryable, False, failure)
    if proven and named in {None, store}:
        return Membership(True, True, _undocumented(name, error))
    return Membership(True, False, _doubtful(name, error, admissible=proven or named == store))


def is_member(connection: Connection, configured: ConfiguredBucket, bucket: Bucket) -> bool:
    """Whether the bucket is one of this store, whatever has become of its `store.json`."""
    return names_store(bucket) == connection.document.store or _is_ours(connection, configured, bucket)


def _is_empty(bucket: Bucket, location: BucketLocation, error: NotFound) -> bool:
    """Whether the bucket is there with no content; a folder that is missing altogether is away, not empty."""
    if location.scheme == "file" and error.code == error_codes.BUCKET_NOT_FOUND:
        try:
            return not any(os.scandir(location.path))
        except OSError:
            return False
    try:
        return content_of(bucket) is None
    except SkyholdError:
        return False


def _is_ours(connection: Connection, configured: ConfiguredBucket, bucket: Bucket) -> bool:
    """As `_shows_membership`; False also where that cannot be found out."""
    try:
        return _shows_membership(connection, configured, bucket)
    except SkyholdError:
        return False


def _shows_membership(connection: Connection, configured: ConfiguredBucket, bucket: Bucket) -> bool:
    """Whether a bucket holds an object that only a holder of the store's keys could have written: a checkpoint, or an
    acceptor of a register. Raises what the bucket raises."""
    for info in bucket.list(f"{CHECKPOINTS}/"):
        try:
            stored = read_checkpoint(bucket, info.key)
            open_checkpoint(stored, info.key, connection.keys, connection.store_keys.name_key())
        except (Corrupt, NotFound, PermissionDenied):
            continue
        return True
    for info in bucket.list(f"{REGISTERS}/"):
        place = parse_object_key(info.key)
        if place is None or info.size_bytes > ACCEPTOR_BYTES_MAX:
            continue
        try:
            decode_acceptor(
                read_bounded(bucket, info.key, ACCEPTOR_BYTES_MAX), *place, configured.incarnation, connection.keys
            )
        except (Corrupt, NotFound, PermissionDenied):
            continue
        return True
    return False


def recorded_incarnations(connection: Connection) -> Iterator[tuple[str, str]]:
    """The incarnations that the kept changes of the configuration name, each with the name of its bucket."""
    for change in connection.registers.changes(CONFIG):
        for configured in decode_configuration(change.value.data).buckets:
            yield configured.location.name, configured.incarnation


def names_store(bucket: Bucket) -> str | None:
    """The store that a bucket's `store.json` names, whether it can be trusted or not; None where it names none."""
    try:
        named = json.loads(read_bounded(bucket, STORE_DOCUMENT, STORE_DOCUMENT_BYTES_MAX)).get("store")
    except (SkyholdError, ValueError, AttributeError, RecursionError):
        return None
    return named if isinstance(named, str) else None


def _lost(name: str, error: NotFound, *, vacant: bool) -> SkyholdError:
    away = f"Bring it back. If it is gone for good, take it out of the store: skyhold bucket remove {name}"
    return NotFound(
        f"Bucket `{name}` is {'empty' if vacant else 'away'}: {error.message}",
        code=error_codes.BUCKET_LOST,
        hint="Admit it again, and fill it from the others: skyhold repair" if vacant else away,
        bucket=name,
    )


def _undocumented(name: str, error: SkyholdError) -> SkyholdError:
    return Corrupt(
        f"Bucket `{name}` holds objects of the store, but its store.json is damaged or gone: {error.message}",
        code=error_codes.STORE_DOCUMENT_DAMAGED,
        hint="Run `skyhold repair`",
        bucket=name,
    )


def _doubtful(name: str, error: Corrupt, *, admissible: bool) -> SkyholdError:
    again = f"`skyhold store voters replace {name}`" if admissible else "empty it, then run `skyhold repair`"
    return Corrupt(
        f"The store.json of bucket `{name}` is damaged, and nothing else shows that it is the one that was admitted: "
        f"{error.message}",
        code=error_codes.STORE_DOCUMENT_DAMAGED,
        hint=f"If it is the right bucket, admit it again: {again}. Else take it out: skyhold bucket remove {name}",
        bucket=name,
    )


def _restored(name: str) -> SkyholdError:
    return Conflict(
        f"Bucket `{name}` is not the one that was admitted: it was restored, or belongs to another store",
        code=error_codes.BUCKET_RESTORED,
        hint=f"Admit it again: `skyhold store voters replace {name}`. Or take it out: skyhold bucket remove {name}",
        bucket=name,
    )


def _recovered_elsewhere(name: str) -> SkyholdError:
    return Conflict(
        f"Bucket `{name}` reports that the store was recovered on another machine; changes made here no longer count",
        code=error_codes.STORE_RECOVERED_ELSEWHERE,
        hint="Work on that machine: `skyhold recover` here would shut it out",
        bucket=name,
    )
