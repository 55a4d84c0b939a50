"""Checking stored objects as they are, and bringing them from one bucket to another."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from skyhold.buckets.bucket import Bucket
from skyhold.codec.frame import FRAME_BYTES_MAX, FrameKeys
from skyhold.consensus.checkpoint import open_checkpoint, parse_checkpoint_key
from skyhold.errors import Corrupt, InvalidInput, PermissionDenied, SkyholdError, Unavailable
from skyhold.storage.blobs import check_blob
from skyhold.storage.bounded import read_bounded
from skyhold.storage.names import blob_name_of, pack_id_of
from skyhold.storage.pack import PACK_BYTES_MAX, check_pack, merge_packs
from skyhold.storage.replicas import Replicas, write_verified

Buffer = bytes | bytearray | memoryview

_LISTED_SINGLY_MAX = 32


@dataclass(frozen=True, slots=True)
class ObjectChecker:
    """Tells whether an object's bytes are those that were written, without opening what is sealed in it for good."""

    store_id: bytes
    keys: FrameKeys
    name_key: bytes

    def check(self, key: str, body: Buffer, bucket: str) -> None:
        """Raise `Corrupt` naming key and bucket unless the object is intact in every byte that a reader may need."""
        try:
            self._check(key, body, bucket)
        except PermissionDenied as error:  # the store's keys are all open: a number that is none of them was flipped
            raise Corrupt(
                f"Object {key} in bucket `{bucket}` is damaged: {error.message}",
                code="key_number_damaged",
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
                    code="pack_damaged",
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
            raise InvalidInput(f"{key} is neither a pack nor a blob nor a checkpoint", code="invalid_key", key=key)
        check_blob(body, key, name, self.name_key, bucket)

    def read_checked(self, bucket: Bucket, key: str) -> Buffer:
        """The whole object, checked. Raises `Corrupt`, `NotFound`, and what a driver raises."""
        body = self.read(bucket, key)
        self.check(key, body, bucket.name)
        return body

    def read(self, bucket: Bucket, key: str) -> Buffer:
        """The whole object, unchecked but for its length."""
        return read_bounded(bucket, key, PACK_BYTES_MAX if pack_id_of(key) is not None else FRAME_BYTES_MAX)

    def merged(self, key: str, copies: Iterable[Buffer]) -> Buffer | None:
        """An intact pack put together from damaged copies, or None where a chunk is intact in none of them."""
        pack_id = pack_id_of(key)
        return None if pack_id is None else merge_packs(list(copies), pack_id, self.store_id, self.keys)


def holders(replicas: Replicas, sizes: Mapping[str, int | None]) -> dict[str, set[str]]:
    """Which buckets hold each object (of the size given, where one is): asked of every bucket that answers.

    A bucket that cannot be asked holds nothing for this purpose, and lags from now on.
    """
    found: dict[str, set[str]] = {key: set() for key in sizes}

    def ask(name: str) -> None:
        if name in replicas.lagging:
            return
        try:
            for key, size_bytes in sizes_in(replicas.buckets[name], sizes):
                if sizes[key] in (None, size_bytes):
                    found[key].add(name)
        except SkyholdError as error:
            replicas.pass_over(name, error)

    if replicas.buckets:
        with ThreadPoolExecutor(len(replicas.buckets), thread_name_prefix="stat") as pool:
            list(pool.map(ask, replicas.buckets))
    return found


def sizes_in(bucket: Bucket, keys: Collection[str]) -> Iterator[tuple[str, int]]:
    """Keys and sizes of those of `keys` that a bucket holds, by listings: one for each of a few keys, one per folder
    for many. (A `stat` also gives the tag, for which a folder bucket reads the whole object.)"""
    wanted = set(keys)
    prefixes = wanted if len(wanted) <= _LISTED_SINGLY_MAX else {key.split("/", 1)[0] + "/" for key in wanted}
    for prefix in sorted(prefixes):
        for info in bucket.list(prefix):
            if info.key in wanted:
                yield info.key, info.size_bytes


def ensure_durable(replicas: Replicas, checker: ObjectChecker, sizes: Mapping[str, int | None]) -> list[str]:
    """Make objects that were written earlier durable to the policy, copying them where they are missing.

    Returns the keys that no bucket holds any more. Raises `Unavailable` where a copy that the policy needs fails.
    """
    vanished = []
    for key, holding in holders(replicas, sizes).items():
        if not holding:
            vanished.append(key)
            continue
        for name in sorted(set(replicas.buckets) - holding - set(replicas.lagging)):
            try:
                copy_object(
                    key, [replicas.buckets[source] for source in sorted(holding)], replicas.buckets[name], checker
                )
            except SkyholdError as error:
                replicas.pass_over(name, error)
            else:
                holding.add(name)
        if not replicas.enough(frozenset(holding)):
            raise Unavailable(
                f"Too few buckets hold {key}, which this version needs too; nothing was changed",
                code="not_durable",
                hint="Bring a bucket back, then run the same command again: it continues",
                key=key,
                buckets=sorted(holding),
            )
    return vanished


def copy_object(key: str, sources: Collection[Bucket], target: Bucket, checker: ObjectChecker) -> int:
    """Write an object, intact, to `target` from the first of `sources` that has it so; returns its bytes.

    Where none has it whole, a pack is put together from what is intact in each. Raises `Corrupt` where that fails, and
    what the drivers raise.
    """
    damaged: list[Buffer] = []
    errors: list[SkyholdError] = []
    for source in sources:
        try:
            body = checker.read_checked(source, key)
        except Corrupt as error:
            errors.append(error)
            try:
                damaged.append(checker.read(source, key))
            except SkyholdError as failure:
                errors.append(failure)
        except SkyholdError as error:
            errors.append(error)
        else:
            write_verified(target, key, body)
            return len(body)
    merged = checker.merged(key, damaged) if damaged else None
    if merged is not None:
        write_verified(target, key, merged)
        return len(merged)
    reasons = "; ".join(error.message for error in errors)
    kind = Corrupt if any(isinstance(error, Corrupt) for error in errors) else Unavailable
    raise kind(
        f"No bucket gives an intact {key} ({reasons})",
        code="no_intact_replica",
        hint="Bring back the buckets that are away, then run `skyhold repair` again",
        key=key,
    )
