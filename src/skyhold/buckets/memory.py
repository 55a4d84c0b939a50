"""Objects in this process's memory: the model that every other driver is compared with, and a store for tests.

All `MemoryBucket`s of one URL in one process share their objects.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from skyhold import error_codes
from skyhold.buckets.bounded import check_size
from skyhold.buckets.bucket import (
    OBJECT_BYTES_MAX,
    TAGGED_BYTES_MAX,
    WRITE_IF_DEADLINE_S,
    Bucket,
    ObjectInfo,
    Tagged,
    check_key,
    check_range,
)
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.retry import DEFAULT_POLICY, RetryPolicy
from skyhold.errors import Conflict, NotFound
from skyhold.units import Buffer


@dataclass(frozen=True, slots=True)
class _Stored:
    body: bytes
    tag: str
    modified_at: datetime


@dataclass(slots=True)
class _Objects:
    by_key: dict[str, _Stored] = field(default_factory=dict)
    writes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


_SHARED: Final[dict[str, _Objects]] = {}
_SHARED_LOCK: Final = threading.Lock()


class MemoryBucket(Bucket):
    """See the module. `policy` is accepted as every driver's is; nothing here ever needs a second attempt."""

    def __init__(self, location: BucketLocation, policy: RetryPolicy = DEFAULT_POLICY) -> None:  # noqa: ARG002
        self.name, self.url = location.name, location.url
        with _SHARED_LOCK:
            self._objects = _SHARED.setdefault(location.url, _Objects())

    def read(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        body = self._stored(key).body
        return body[start : self._end(key, body, start, length)]

    def read_stream(
        self, key: str, start: int = 0, length: int | None = None, part_bytes: int = 4 << 20
    ) -> Iterator[Buffer]:
        body = self._stored(key).body
        end = self._end(key, body, start, length)
        for offset in range(start, end, part_bytes):
            yield body[offset : min(end, offset + part_bytes)]

    def read_tagged(self, key: str, *, unless_tag: str | None = None) -> Tagged | None:
        stored = self._stored(key)
        check_size(self.name, key, len(stored.body), TAGGED_BYTES_MAX)
        return None if stored.tag == unless_tag else Tagged(stored.body, stored.tag)

    def write(self, key: str, body: Buffer, *, md5: Callable[[], bytes] | None = None) -> str:  # noqa: ARG002
        check_key(key)
        with self._objects.lock:
            return self._put(key, body)

    def write_if(
        self,
        key: str,
        body: Buffer,
        *,
        expected_tag: str | None,
        deadline_s: float = WRITE_IF_DEADLINE_S,  # noqa: ARG002
    ) -> str:
        check_key(key)
        with self._objects.lock:
            stored = self._objects.by_key.get(key)
            if (stored.tag if stored else None) != expected_tag:
                raise Conflict(
                    f"Object `{key}` in bucket `{self.name}` is not what was expected", bucket=self.name, key=key
                )
            return self._put(key, body)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        with self._objects.lock:
            found = sorted((k, v) for k, v in self._objects.by_key.items() if k.startswith(prefix) and k > after)
        return (_info(key, stored) for key, stored in found)

    def delete(self, key: str) -> None:
        check_key(key)
        with self._objects.lock:
            self._objects.by_key.pop(key, None)

    def _end(self, key: str, body: bytes, start: int, length: int | None) -> int:
        end = check_range(key, len(body), start, length)
        if length is None:
            check_size(self.name, key, end - start, OBJECT_BYTES_MAX)
        return end

    def _put(self, key: str, body: Buffer) -> str:
        self._objects.writes += 1
        tag = f"m{self._objects.writes}"
        self._objects.by_key[key] = _Stored(bytes(body), tag, datetime.now(UTC))
        return tag

    def _stored(self, key: str) -> _Stored:
        check_key(key)
        stored = self._objects.by_key.get(key)
        if stored is None:
            raise NotFound(
                f"Bucket `{self.name}` has no object `{key}`",
                code=error_codes.OBJECT_NOT_FOUND,
                bucket=self.name,
                key=key,
            )
        return stored


def _info(key: str, stored: _Stored) -> ObjectInfo:
    return ObjectInfo(key, len(stored.body), stored.tag, stored.modified_at, stored.tag)
