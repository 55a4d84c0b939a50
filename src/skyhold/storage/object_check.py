"""Checking stored objects as they are, and copying them from one bucket to another."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass

from skyhold import error_codes
from skyhold.buckets.bounded import read_bounded
from skyhold.buckets.bucket import Bucket
from skyhold.codec.frame import FRAME_BYTES_MAX, FrameKeys
from skyhold.consensus.checkpoint import open_checkpoint, parse_checkpoint_key, read_checkpoint
from skyhold.errors import Corrupt, InvalidInput, NotFound, PermissionDenied, SkyholdError, Unavailable, reasons_of
from skyhold.storage.blobs import check_blob
from skyhold.storage.chunk_index import KnownPack
from skyhold.storage.chunk_record import PackRef, Place
from skyhold.storage.object_keys import blob_name_of, pack_id_of
from skyhold.storage.pack import (
    PACK_BYTES_MAX,
    PACK_HEADER_BYTES,
    TRAILER_BYTES,
    check_pack,
    footer_span,
    merge_packs,
    pack_contents,
    read_footer,
    read_header,
)
from skyhold.units import Buffer


@dataclass(frozen=True, slots=True)
class ObjectChecker:
    """Checks that an object's bytes are those that were written, without decoding its chunks."""

    store_id: bytes
    keys: FrameKeys
    name_key: bytes

    def check(self, key: str, body: Buffer, bucket: str) -> None:
        """Raise `Corrupt` naming key and bucket unless the object is intact in every byte that a reader may need."""
        try:
            self._check(key, body, bucket)
        except PermissionDenied as error:  # all keys of the store are open: an unknown key number is a flipped bit
            raise Corrupt(
                f"Object {key} in bucket `{bucket}` is damaged: {error.message}",
                code=error_codes.KEY_NUMBER_DAMAGED,
                hint="Run `skyhold repair`",
                bucket=bucket,
                key=key,
            ) from error

    def _check(self, key: str, body: Buffer, bucket: str) -> None:
        pack_id = pack_id_of(key)
        if pack_id is not None:
            damaged = [place for place, intact in check_pack(body, pack_id, self.store_id, self.keys) if not intact]
            if damaged:
                raise Corrupt(
                    f"Pack {key} in bucket `{bucket}` has damaged chunks: {len(damaged)}",
                    code=error_codes.PACK_DAMAGED,
                    hint="Run `skyhold repair`",
                    bucket=bucket,
                    key=key,
                    chunks=len(damaged),
                )
            return
        if parse_checkpoint_key(key) is not None:
            open_checkpoint(body, key, self.keys, self.name_key)
            return
        name = blob_name_of(key)
        if name is None:
            raise InvalidInput(
                f"{key} is neither a pack nor a blob nor a checkpoint", code=error_codes.INVALID_KEY, key=key
            )
        check_blob(body, key, name, self.name_key, bucket)

    def read_checked(self, bucket: Bucket, key: str) -> Buffer:
        """The whole object, checked. Raises `Corrupt`, `NotFound`, and what a driver raises."""
        body = self.read(bucket, key)
        self.check(key, body, bucket.name)
        return body

    def read(self, bucket: Bucket, key: str) -> Buffer:
        """The whole object, unchecked but for its length."""
        if parse_checkpoint_key(key) is not None:
            return read_checkpoint(bucket, key)
        return read_bounded(bucket, key, PACK_BYTES_MAX if pack_id_of(key) is not None else FRAME_BYTES_MAX)

    def contents(self, key: str, pack: Buffer) -> tuple[KnownPack, list[Place]]:
        """What an intact pack is, and the places that its footer lists. Raises `Corrupt`."""
        pack_id = pack_id_of(key)
        if pack_id is None:
            raise InvalidInput(f"{key} is no pack", code=error_codes.INVALID_KEY, key=key)
        session, places = pack_contents(pack, pack_id, self.store_id, self.keys)
        known = KnownPack(PackRef(pack_id, session.salt), session.placement_class.hex(), len(pack))
        return known, places

    def listed(self, bucket: Bucket, key: str, size_bytes: int) -> tuple[PackRef, bytes, list[Place]]:
        """A pack, its placement class and the places that its footer lists, by short ranges: its records, which are not
        read, may be damaged. Raises `Corrupt`, `NotFound`, and what a driver raises."""
        pack_id = pack_id_of(key)
        if pack_id is None or size_bytes > PACK_BYTES_MAX:
            raise Corrupt(
                f"{key} in bucket `{bucket.name}` is no pack", code=error_codes.PACK_DAMAGED, bucket=bucket.name
            )
        session = read_header(bucket.read(key, 0, PACK_HEADER_BYTES), pack_id, self.store_id)
        trailer = bucket.read(key, max(size_bytes - TRAILER_BYTES, 0), TRAILER_BYTES)
        start, length = footer_span(trailer, size_bytes, pack_id)
        pack = PackRef(pack_id, session.salt)
        return pack, session.placement_class, read_footer(bucket.read(key, start, length), pack, self.keys)

    def merged(self, key: str, copies: Iterable[Buffer]) -> Buffer | None:
        """An intact pack assembled from damaged copies, or None where a chunk is intact in none of them."""
        pack_id = pack_id_of(key)
        return None if pack_id is None else merge_packs(list(copies), pack_id, self.store_id, self.keys)


def copy_object(key: str, sources: Collection[Bucket], target: Bucket, checker: ObjectChecker) -> int:
    """Write an object, intact, to `target`; returns its bytes. Raises as `read_intact`, and what the drivers raise."""
    body = read_intact(key, sources, checker)
    target.write(key, body)
    return len(body)


def read_intact(key: str, sources: Collection[Bucket], checker: ObjectChecker) -> Buffer:
    """An object from the first of `sources` that has it whole.

    If none has, a pack is assembled from the intact parts of each. Raises `Corrupt` where all sources were read, and
    `Unavailable` where one did not answer, since that one may have it.
    """
    damaged: list[Buffer] = []
    errors: dict[str, SkyholdError] = {}
    for source in sources:
        try:
            return checker.read_checked(source, key)
        except Corrupt as error:
            errors[source.name] = error
            with suppress(SkyholdError):
                damaged.append(checker.read(source, key))
        except SkyholdError as error:
            errors[source.name] = error
    merged = checker.merged(key, damaged) if damaged else None
    if merged is not None:
        return merged
    message = f"No bucket returns an intact {key} ({reasons_of(errors)})"
    if all(isinstance(error, Corrupt | NotFound) for error in errors.values()):
        hint = "See which versions are lost with it, and what brings them back: skyhold verify --deep"
        raise Corrupt(message, code=error_codes.NO_INTACT_REPLICA, hint=hint, key=key)
    hint = "Bring back the buckets that do not answer, then run it again: skyhold repair"
    raise Unavailable(message, code=error_codes.NO_INTACT_REPLICA, hint=hint, key=key)
