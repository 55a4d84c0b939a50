"""Reading and writing `store.json`, so that a bucket's URL and a key suffice to find the rest (format.md, 3).

A bucket that another store owns, or that holds other objects, is never written to.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NoReturn

from skyhold import error_codes
from skyhold.buckets.admission import PROBE_PREFIX
from skyhold.buckets.bounded import read_bounded
from skyhold.buckets.bucket import Bucket, Tagged
from skyhold.errors import (
    AlreadyExists,
    Conflict,
    Corrupt,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    SkyholdError,
)
from skyhold.security.keys import KeyEncryptionKey, StoreKeys
from skyhold.storage.object_keys import PACKS, REGISTERS, STORE_DOCUMENT, STORE_DOCUMENT_BYTES_MAX
from skyhold.store.bell import BELL, holds_bell
from skyhold.store.state import RememberedStore
from skyhold.store.store_document import (
    BY_ANOTHER,
    SQLITE,
    Engine,
    StoreDocument,
    decode_store_document,
    encode_store_document,
)


def read_store_document(
    bucket: Bucket,
    keks: Sequence[KeyEncryptionKey],
    *,
    expected_store: str | None = None,
    known: RememberedStore | None = None,
) -> tuple[StoreDocument, StoreKeys]:
    """Read and check a bucket's `store.json`; `known` is what this machine remembers of the store.

    Raises what `decode_store_document` raises, `NotFound` code `store_not_found`, and `InvalidInput` code `other_store`
    or `PermissionDenied` code `store_changed` where it is not the store that this machine opened before.
    """
    document, keys = decode_store_document(_read_tagged(bucket).body, keks, bucket.url)
    if expected_store is not None and document.store != expected_store:
        raise InvalidInput(
            f"{bucket.url} belongs to store {document.store}, not to {expected_store}",
            code=error_codes.OTHER_STORE,
            hint="Check the URL; `skyhold connect URL` connects to another store",
        )
    if known is not None and (known.sealed, known.key_check) != (document.sealed, keys.check):
        raise PermissionDenied(
            f"{bucket.url} names store {document.store}, but its key or its sealing is not what this machine knows",
            code=error_codes.STORE_CHANGED,
            hint="Another party may have replaced store.json: compare it with the other buckets before you go on",
        )
    return document, keys


def inspect_store_document(bucket: Bucket, keys: StoreKeys) -> StoreDocument:
    """A bucket's `store.json`, checked under keys that are open already. Raises as `read_store_document`."""
    return decode_store_document(_read_tagged(bucket).body, (), bucket.url, opened=keys)[0]


def create_store_document(bucket: Bucket, document: StoreDocument, keys: StoreKeys) -> None:
    """Make a bucket part of a store. The bucket must be empty; finding this very document there is no error.

    Raises `AlreadyExists` code `store_exists` (a store's document is there) or `bucket_not_empty` (other objects).
    """
    body = encode_store_document(document, keys)
    if not _is_vacant(bucket, body):
        return
    try:
        bucket.write_if(STORE_DOCUMENT, body, expected_tag=None)
    except (Conflict, OutcomeUnknown) as error:
        if not _holds(bucket, body):
            if isinstance(error, OutcomeUnknown):
                raise
            _refuse_taken(bucket)


def replace_store_document(
    bucket: Bucket, document: StoreDocument, keys: StoreKeys, keks: Sequence[KeyEncryptionKey]
) -> None:
    """Replace the `store.json` of the same store in a bucket.

    Raises `AlreadyExists` code `store_exists` where another store's is there, `Conflict` where another client replaced
    it at the same time, where it has another incarnation (which only an admission may give it), already a greater epoch
    or this one of another machine, and what `read_store_document` raises.
    """
    body = encode_store_document(document, keys)
    found = _read_tagged(bucket)
    current, _ = decode_store_document(found.body, keks, bucket.url)
    if current.store != document.store:
        _refuse_taken(bucket)
    if current.incarnation != document.incarnation:
        raise Conflict(
            f"{bucket.url} is not the bucket that was admitted: it was emptied, restored or exchanged",
            code=error_codes.BUCKET_RESTORED,
            hint=f"Admit it again: skyhold store voters replace {bucket.name}",
        )
    if _is_passed(document.engine, current.engine):
        raise Conflict(
            f"{bucket.url} is already at epoch {current.engine.epoch} of another machine, and this would be epoch "
            f"{document.engine.epoch}: the store was recovered elsewhere",
            code=error_codes.TERM_PASSED,
        )
    try:
        bucket.write_if(STORE_DOCUMENT, body, expected_tag=found.tag)
    except OutcomeUnknown:
        if not _holds(bucket, body):
            raise


def _is_passed(engine: Engine, by: Engine) -> bool:
    """Whether one engine's epoch is over by another's: greater, or taken at the same time by another machine."""
    machines = engine.kind == by.kind == SQLITE and engine.machine != by.machine
    return by.epoch > engine.epoch or (by.epoch == engine.epoch and machines)


def overwrite_store_document(bucket: Bucket, document: StoreDocument, keys: StoreKeys) -> None:
    """Put a `store.json` in the place of whatever is there, in one step: an admission, which ends the incarnation that
    was. Raises `Conflict` where another client replaced it at the same time. If the old object is too large to have a
    tag, that cannot be detected: of two admissions the last one wins then."""
    body = encode_store_document(document, keys)
    try:
        tagged = bucket.read_tagged(STORE_DOCUMENT)
    except Corrupt:  # longer than any object that has a tag
        bucket.write(STORE_DOCUMENT, body)
        return
    except NotFound as error:
        if error.code == error_codes.BUCKET_NOT_FOUND:
            raise
        tagged = None
    try:
        bucket.write_if(STORE_DOCUMENT, body, expected_tag=None if tagged is None else tagged.tag)
    except OutcomeUnknown:
        if not _holds(bucket, body):
            raise


def _read_tagged(bucket: Bucket) -> Tagged:
    """The document with its tag."""
    try:
        tagged = bucket.read_tagged(STORE_DOCUMENT)
    except Corrupt as error:  # longer than any object that has a tag
        raise Corrupt(
            f"The {STORE_DOCUMENT} of {bucket.url} is malformed: it is larger than 1 MiB",
            code=error_codes.STORE_DOCUMENT_MALFORMED,
            hint=BY_ANOTHER,
        ) from error
    except NotFound as error:
        if error.code == error_codes.BUCKET_NOT_FOUND:
            raise
        if _holds_packs(bucket):
            raise NotFound(
                f"There is no store.json at {bucket.url}, and objects of a store are",
                code=error_codes.STORE_NOT_FOUND,
                hint=BY_ANOTHER,
            ) from error
        raise NotFound(
            f"There is no Skyhold store at {bucket.url}",
            code=error_codes.STORE_NOT_FOUND,
            hint=f"Check the URL, or make a store: skyhold init {bucket.url}",
        ) from error
    assert tagged is not None, "a read without a condition returns the object"  # noqa: S101 - our own mistake
    return tagged


def _holds_packs(bucket: Bucket) -> bool:
    """Whether there is what a store keeps, so that one was there. False also where that cannot be found out."""
    try:
        return any(True for folder in (PACKS, REGISTERS) for _ in islice(bucket.list(f"{folder}/"), 1))
    except SkyholdError:
        return False


def _is_vacant(bucket: Bucket, body: bytes) -> bool:
    """True for an empty bucket, False where our own document is there already; all else is refused."""
    if _holds(bucket, body):
        return False
    refuse_occupied(bucket)
    return True


def refuse_occupied(bucket: Bucket) -> None:
    """Raise `AlreadyExists` code `store_exists` or `bucket_not_empty` unless the bucket is empty."""
    if any(info.key == STORE_DOCUMENT for info in islice(bucket.list(STORE_DOCUMENT), 1)):
        _refuse_taken(bucket)
    key = content_of(bucket)
    if key is not None:
        raise AlreadyExists(
            f"{bucket.url} holds other objects, such as `{key}`; nothing was written",
            code=error_codes.BUCKET_NOT_EMPTY,
            hint=f"Use an empty bucket or a prefix of its own, such as {bucket.url.rstrip('/')}/skyhold",
            bucket=bucket.name,
            key=key,
        )


def content_of(bucket: Bucket) -> str | None:
    """The key of an object that a bucket holds, or None where it is empty. What any client may write into a bucket that
    was emptied, and without which nothing is lost, does not count: the bell, the scratch of `bucket check`."""
    for info in bucket.list():
        if not info.key.startswith(f"{PROBE_PREFIX}/") and not (info.key == BELL and holds_bell(bucket)):
            return info.key
    return None


def _holds(bucket: Bucket, body: bytes) -> bool:
    try:
        return read_bounded(bucket, STORE_DOCUMENT, STORE_DOCUMENT_BYTES_MAX) == body
    except Corrupt:  # longer than any
        return False
    except NotFound as error:
        if error.code == error_codes.BUCKET_NOT_FOUND:
            raise
        return False


def _refuse_taken(bucket: Bucket) -> NoReturn:
    raise AlreadyExists(
        f"{bucket.url} belongs to another Skyhold store; nothing was written",
        code=error_codes.STORE_EXISTS,
        hint=f"Join that store with `skyhold connect {bucket.url}`, or use another bucket or prefix",
        bucket=bucket.name,
    )
