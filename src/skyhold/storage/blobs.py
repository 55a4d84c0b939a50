"""Blobs: small immutable objects in frames, named by the keyed hash of their bytes (format.md, 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from skyhold import error_codes
from skyhold.buckets.bounded import read_bounded
from skyhold.buckets.bucket import Bucket
from skyhold.codec.frame import FRAME_BYTES_MAX, FrameKeys, decode_frame, encode_frame
from skyhold.errors import Corrupt, NotFound, PermissionDenied
from skyhold.storage.blob_cache import KEPT_FOLDERS, BlobCache
from skyhold.storage.body_cache import BodyCache
from skyhold.storage.object_keys import blob_key, blob_name, kind_of_folder
from skyhold.storage.replicas import Replicas
from skyhold.units import Buffer


class Batch(Protocol):
    """Blobs that are written together. They may name each other: what a crash leaves of them is garbage."""

    def add(self, folder: str, body: bytes) -> str:
        """Take a blob into the batch; returns its name."""

    def write(self) -> None:
        """Write all of them; they are durable when it returns."""


class Blobs(Protocol):
    """Small immutable objects, durable to the policy when a write returns."""

    def write(self, folder: str, body: bytes) -> str:
        """Store a body; returns its name, 64 hex characters. `folder` is that of its kind (`nodes`, `versions`, …)."""

    def batch(self) -> Batch:
        """An empty batch."""

    def read(self, folder: str, name: str) -> bytes:
        """The body of a blob. Raises `Corrupt` where it is damaged or lost (`MemoryBlobs`: `NotFound`)."""


class MemoryBlobs:
    """Blobs in a dictionary: the reference model that tests compare the real ones with."""

    def __init__(self) -> None:
        self.bodies: dict[tuple[str, str], bytes] = {}

    def write(self, folder: str, body: bytes) -> str:
        name = f"{len(self.bodies):064x}"
        self.bodies[folder, name] = bytes(body)
        return name

    def batch(self) -> Batch:
        return _MemoryBatch(self)

    def read(self, folder: str, name: str) -> bytes:
        try:
            return self.bodies[folder, name]
        except KeyError:
            raise NotFound(f"There is no blob {folder}/{name}", code=error_codes.BLOB_NOT_FOUND) from None


class _MemoryBatch:
    def __init__(self, blobs: MemoryBlobs) -> None:
        self._blobs = blobs

    def add(self, folder: str, body: bytes) -> str:
        return self._blobs.write(folder, body)

    def write(self) -> None:
        """They are there already."""


class BucketBlobs:
    """Blobs in the buckets of a store. `bodies` caches those that were read or written recently; by default it is not
    shared.

    What is read and written of versions goes into `cache`, where there is one. It is read before any bucket only with
    `cached_first`: maintenance must see what the buckets contain.
    """

    def __init__(
        self,
        replicas: Replicas,
        keys: FrameKeys,
        name_key: bytes,
        cache: BlobCache | None = None,
        *,
        cached_first: bool = False,
        bodies: BodyCache | None = None,
    ) -> None:
        self._cache = cache
        self._cached_first = cached_first
        self._replicas = replicas
        self._keys = keys
        self._name_key = name_key
        self._bodies = bodies or BodyCache()

    def write(self, folder: str, body: bytes) -> str:
        batch = self.batch()
        name = batch.add(folder, body)
        batch.write()
        return name

    def batch(self) -> Batch:
        return _BucketBatch(self)

    def frame(self, folder: str, body: bytes) -> tuple[str, Buffer]:
        """The name of a blob, and its stored bytes."""
        frame = encode_frame(kind_of_folder(folder), body, context=_context(folder), keys=self._keys)
        return blob_name(frame, self._name_key), frame

    def write_frames(self, written: Sequence[tuple[str, str, bytes, Buffer]]) -> None:
        """Write blobs together: of each its folder, its name, its body and its stored bytes."""
        self._replicas.write([(blob_key(folder, name), frame) for folder, name, _, frame in written])
        for folder, name, body, frame in written:
            self._cache_blob(folder, name, frame)
            self._bodies.put(blob_key(folder, name), bytes(body))

    def read(self, folder: str, name: str) -> bytes:
        return self._bodies.get(blob_key(folder, name), lambda: self._fetch(folder, name))

    def _fetch(self, folder: str, name: str) -> bytes:
        body = self._cached(folder, name)
        if body is None:
            what = f"object {blob_key(folder, name)}"
            stored, body = self._replicas.first(what, lambda bucket: self._found_in(bucket, folder, name))
            self._cache_blob(folder, name, stored)
        return body

    def forget(self, folder: str, names: Sequence[str]) -> None:
        """Delete blobs that nothing needs any more, from the buckets that took all that was written in this session. A
        bucket that refuses the deletion keeps them."""
        self._replicas.delete([blob_key(folder, name) for name in names])

    def _found_in(self, bucket: Bucket, folder: str, name: str) -> tuple[Buffer, bytes]:
        """The stored bytes and the body of a blob as one bucket holds it. Raises `Corrupt` where the bytes do not match
        the name."""
        key = blob_key(folder, name)
        stored = read_bounded(bucket, key, FRAME_BYTES_MAX)
        check_blob(stored, key, name, self._name_key, bucket.name)
        return stored, self._opened(folder, stored)

    def _opened(self, folder: str, stored: Buffer) -> bytes:
        return decode_frame(stored, kind=kind_of_folder(folder), context=_context(folder), keys=self._keys)

    def _cached(self, folder: str, name: str) -> bytes | None:
        if self._cache is None or not self._cached_first or folder not in KEPT_FOLDERS:
            return None
        stored = self._cache.get(name)
        if stored is None or blob_name(stored, self._name_key) != name:
            return None
        try:
            return self._opened(folder, stored)
        except (Corrupt, PermissionDenied):
            return None

    def _cache_blob(self, folder: str, name: str, stored: Buffer) -> None:
        if self._cache is not None and folder in KEPT_FOLDERS:
            self._cache.put(name, stored)


class _BucketBatch:
    def __init__(self, blobs: BucketBlobs) -> None:
        self._blobs = blobs
        self._added: list[tuple[str, str, bytes, Buffer]] = []

    def add(self, folder: str, body: bytes) -> str:
        name, frame = self._blobs.frame(folder, body)
        self._added.append((folder, name, body, frame))
        return name

    def write(self) -> None:
        self._blobs.write_frames(self._added)


def check_blob(stored: bytes | bytearray | memoryview, key: str, name: str, name_key: bytes, bucket: str) -> None:
    """Raise `Corrupt` unless the stored bytes are those of the name; opens nothing."""
    if blob_name(stored, name_key) != name:
        raise Corrupt(
            f"Object {key} in bucket `{bucket}` is damaged: its bytes do not match its name",
            code=error_codes.BLOB_DAMAGED,
            hint="Run `skyhold repair`",
            bucket=bucket,
            key=key,
        )


def _context(folder: str) -> str:
    return folder.split("/", 1)[0]
