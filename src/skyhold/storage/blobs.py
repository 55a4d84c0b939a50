"""Blobs: small immutable objects in frames, named by the keyed hash of their bytes (format.md, 5)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Final, Protocol

from skyhold.buckets.bounded import read_bounded
from skyhold.buckets.bucket import Bucket
from skyhold.codec.frame import FRAME_BYTES_MAX, FrameKeys, decode_frame, encode_frame
from skyhold.errors import Corrupt, NotFound
from skyhold.storage.names import blob_key, blob_name, kind_of_folder
from skyhold.storage.replicas import Replicas

_KEPT_BODIES: Final = 256
_KEPT_BODY_BYTES_MAX: Final = 256 * 1024


class Blobs(Protocol):
    """Small immutable objects, durable to the policy when a write returns."""

    def write(self, folder: str, body: bytes) -> str:
        """Store a body; returns its name, 64 hex characters. `folder` is that of its kind (`nodes`, `versions`, …)."""

    def write_many(self, items: Sequence[tuple[str, bytes]]) -> list[str]:
        """Store several bodies at once; returns their names in order."""

    def read(self, folder: str, name: str) -> bytes:
        """The body of a blob. Raises `Corrupt` where it is damaged or lost (`MemoryBlobs`: `NotFound`)."""


class MemoryBlobs:
    """Blobs in a dictionary: the model that tests hold the real ones against."""

    def __init__(self) -> None:
        self.bodies: dict[tuple[str, str], bytes] = {}

    def write(self, folder: str, body: bytes) -> str:
        name = f"{len(self.bodies):064x}"
        self.bodies[folder, name] = bytes(body)
        return name

    def write_many(self, items: Sequence[tuple[str, bytes]]) -> list[str]:
        return [self.write(folder, body) for folder, body in items]

    def read(self, folder: str, name: str) -> bytes:
        try:
            return self.bodies[folder, name]
        except KeyError:
            raise NotFound(f"There is no blob {folder}/{name}", code="blob_not_found") from None


class BucketBlobs:
    """Blobs in the buckets of a store. Bodies read lately are kept, since an immutable name never changes meaning."""

    def __init__(self, replicas: Replicas, keys: FrameKeys, name_key: bytes) -> None:
        self._replicas = replicas
        self._keys = keys
        self._name_key = name_key
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._lock = Lock()

    def write(self, folder: str, body: bytes) -> str:
        return self.write_many([(folder, body)])[0]

    def write_many(self, items: Sequence[tuple[str, bytes]]) -> list[str]:
        names, objects = [], []
        for folder, body in items:
            frame = encode_frame(kind_of_folder(folder), body, context=_context(folder), keys=self._keys)
            name = blob_name(frame, self._name_key)
            names.append(name)
            objects.append((blob_key(folder, name), frame))
        self._replicas.write(objects)
        for (folder, body), name in zip(items, names, strict=True):
            self._keep(blob_key(folder, name), bytes(body))
        return names

    def read(self, folder: str, name: str) -> bytes:
        key = blob_key(folder, name)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        body = self._replicas.first(f"object {key}", lambda bucket: self.read_from(bucket, folder, name))
        self._keep(key, body)
        return body

    def read_from(self, bucket: Bucket, folder: str, name: str) -> bytes:
        """The body of a blob as one bucket holds it. Raises `Corrupt` where the bytes do not match the name."""
        key = blob_key(folder, name)
        stored = read_bounded(bucket, key, FRAME_BYTES_MAX)
        check_blob(stored, key, name, self._name_key, bucket.name)
        kind = kind_of_folder(folder)
        return decode_frame(stored, kind=kind, context=_context(folder), keys=self._keys)

    def _keep(self, key: str, body: bytes) -> None:
        if len(body) > _KEPT_BODY_BYTES_MAX:
            return
        with self._lock:
            self._kept[key] = body
            while len(self._kept) > _KEPT_BODIES:
                self._kept.popitem(last=False)


def check_blob(stored: bytes | bytearray | memoryview, key: str, name: str, name_key: bytes, bucket: str) -> None:
    """Raise `Corrupt` unless the stored bytes are those of the name; opens nothing."""
    if blob_name(stored, name_key) != name:
        raise Corrupt(
            f"Object {key} in bucket `{bucket}` is damaged: its bytes do not match its name",
            code="blob_damaged",
            hint="Run `skyhold repair`",
            bucket=bucket,
            key=key,
        )


def _context(folder: str) -> str:
    return folder.split("/", 1)[0]
