"""The packs that a verification has read: which bytes each bucket holds, by their digests, and one copy of each pack.

Versions are restored from the copies, so that no pack is fetched twice from one bucket; packs that do not fit are
fetched again, by ranges. The copies are in one file without a name, so nothing is left of it, however the process ends.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import IO

from blake3 import blake3

from skyhold.storage.cache import CacheFolder, PackCache
from skyhold.storage.chunk_record import Place
from skyhold.storage.pack import read_header
from skyhold.units import Buffer


@dataclass(frozen=True, slots=True)
class PackCopy:
    """An intact pack as one bucket holds it: the BLAKE3 of its bytes, and the session in its header."""

    digest: bytes
    placement_class: bytes
    salt: bytes


@dataclass(frozen=True, slots=True)
class _Kept:
    digest: bytes
    start: int
    length: int


class PackCopies:
    """Thread-safe. At most `limit_bytes` are kept in `folder`; where it cannot be written, nothing is."""

    def __init__(self, store_id: bytes, folder: Path, limit_bytes: int) -> None:
        self._store_id = store_id
        self._copies: dict[str, dict[bytes, PackCopy]] = {}
        self._kept: dict[bytes, _Kept] = {}
        self._lock = Lock()
        self._end, self._limit_bytes = 0, limit_bytes
        self._file: IO[bytes] | None = None
        if limit_bytes:
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `close`

    def note(self, bucket: str, pack_id: bytes, body: Buffer) -> None:
        """Take note of a pack that was read from a bucket and found intact."""
        session = read_header(body, pack_id, self._store_id)
        copy = PackCopy(blake3(body).digest(), session.placement_class, session.salt)
        with self._lock:
            self._copies.setdefault(bucket, {})[pack_id] = copy
            if self._file is None or pack_id in self._kept or self._end + len(body) > self._limit_bytes:
                return
            start, self._end = self._end, self._end + len(body)
        try:
            written = os.pwrite(self._file.fileno(), body, start)
        except OSError:  # no space: the pack will be fetched again
            return
        if written == len(body):
            with self._lock:
                self._kept[pack_id] = _Kept(copy.digest, start, written)

    def of(self, bucket: str, pack_id: bytes) -> PackCopy | None:
        """What a bucket holds of a pack, or None where it lacks it or has it damaged."""
        return self._copies.get(bucket, {}).get(pack_id)

    def differing(self) -> frozenset[bytes]:
        """The packs that two buckets hold intact, with different bytes: a holder of the store's keys wrote one of
        them."""
        first: dict[bytes, PackCopy] = {}
        found = set()
        for held in self._copies.values():
            for pack_id, copy in held.items():
                if first.setdefault(pack_id, copy) != copy:
                    found.add(pack_id)
        return frozenset(found)

    def kept(self, bucket: str) -> PackCache:
        """The packs that are kept, as far as they are the same in that bucket, as a cache."""
        return _KeptPacks(self, bucket)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> PackCopies:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def read(self, bucket: str, pack_id: bytes, start: int, length: int) -> bytes | None:
        """Bytes of a pack as that bucket holds it, or None where they are not kept."""
        kept, copy = self._kept.get(pack_id), self.of(bucket, pack_id)
        if self._file is None or kept is None or copy is None or copy.digest != kept.digest:
            return None
        if start + length > kept.length:
            return None
        data = os.pread(self._file.fileno(), length, kept.start + start)
        return data if len(data) == length else None


class _KeptPacks(PackCache):
    """What `PackCopies` keeps, as chunks are read from a cache."""

    def __init__(self, copies: PackCopies, bucket: str) -> None:
        super().__init__(CacheFolder(Path(), 0))
        self._copies = copies
        self._bucket = bucket

    def get(self, pack_id: bytes, places: Sequence[Place]) -> Buffer | None:
        start = places[0].offset
        length = places[-1].offset + places[-1].record_length - start
        return self._copies.read(self._bucket, pack_id, start, length)

    def put(self, pack_id: bytes, start: int, data: Buffer) -> None:
        """Only whole packs are kept, when they are read."""
