"""The shared local cache of pack bytes: sparse copies of packs, evicted by age of use.

A cached pack is a file with holes; a range that was fetched or built is written at its own offset. Nothing in it is
trusted: a record's header and its chunk's id are checked like those of a record from a bucket, and a hole reads as
zeros, which no record is. Any number of processes may share the folder.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from skyhold.storage.chunk_record import RECORD_HEADER_BYTES, Place
from skyhold.storage.own_files import open_own
from skyhold.units import Buffer

_EVICT_EVERY_BYTES: Final = 256 << 20
_TOUCH_AFTER_S: Final = 3600.0


class CacheFolder:
    """The folder of one store's cache, kept within `limit_bytes` on disk (0: no cache) by deleting what is oldest."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self.path = path
        self.limit_bytes = limit_bytes
        self._evict_every_bytes = max(min(_EVICT_EVERY_BYTES, limit_bytes // 4), 1)
        # A random start, since an eviction reads the status of every file: too much for each short command.
        self._since_eviction_bytes = random.randrange(self._evict_every_bytes)  # noqa: S311 - it spreads work
        if limit_bytes:
            with contextlib.suppress(OSError):  # a cache that cannot be written is no error, see `PackCache.put`
                path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def has_grown(self, count_bytes: int) -> None:
        """Count bytes that were added to the folder; from time to time this starts an eviction."""
        self._since_eviction_bytes += count_bytes
        if self._since_eviction_bytes >= self._evict_every_bytes:
            self._since_eviction_bytes = 0
            self._evict()

    def _evict(self) -> None:
        entries = []
        for entry in os.scandir(self.path):
            with contextlib.suppress(FileNotFoundError):  # another process evicts, too
                status = entry.stat(follow_symlinks=False)
                if status.st_nlink == 1:  # a file with a second hard link takes no space of its own
                    entries.append((status.st_mtime, status.st_blocks * 512, entry.path))
        used = sum(entry[1] for entry in entries)
        for _, size, path in sorted(entries):
            if used <= self.limit_bytes:
                return
            with contextlib.suppress(OSError):  # another process evicts, too; a folder is none of ours
                Path(path).unlink()
            used -= size


class PackCache:
    """Cached packs of one store."""

    def __init__(self, folder: CacheFolder) -> None:
        self._folder = folder

    def get(self, pack_id: bytes, places: Sequence[Place]) -> Buffer | None:
        """The bytes from the first to the last of `places` (of one pack), or None where not all are cached."""
        if not self._folder.limit_bytes:
            return None
        start = places[0].offset
        length = places[-1].offset + places[-1].record_length - start
        try:
            descriptor = open_own(self._path(pack_id), os.O_RDONLY)
        except OSError:
            return None
        try:
            data = os.pread(descriptor, length, start)
            self._touch(descriptor)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        complete = len(data) == length and all(_holds(data, place, start) for place in places)
        return data if complete else None

    def put(self, pack_id: bytes, start: int, data: Buffer) -> None:
        """Keep bytes of a pack. A cache that cannot be written is no error: it is only a cache."""
        if len(data) > self._folder.limit_bytes:
            return
        with contextlib.suppress(OSError):
            descriptor = open_own(self._path(pack_id), os.O_WRONLY | os.O_CREAT)
            try:
                os.pwrite(descriptor, data, start)
            finally:
                os.close(descriptor)
            self._folder.has_grown(len(data))

    def _touch(self, descriptor: int) -> None:
        if time.time() - os.fstat(descriptor).st_mtime > _TOUCH_AFTER_S:
            os.utime(descriptor)

    def _path(self, pack_id: bytes) -> Path:
        return self._folder.path / pack_id.hex()


def _holds(data: bytes, place: Place, start: int) -> bool:
    at = place.offset - start
    header = data[at : at + RECORD_HEADER_BYTES]
    return header[:4] == b"SKYC" and header[16:48] == place.chunk_id and data[at + place.record_length - 1 :] != b""
