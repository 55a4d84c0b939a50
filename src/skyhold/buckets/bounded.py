"""What one reply of a store may cost in bytes and in time, for every driver.

A store is not trusted until its bytes are checked: it may announce any size, send bytes without end, or one a second.
So a size is compared with what an object can have before memory is taken, bytes are counted as they come, and a reply
or a listing that makes too little progress is cancelled. What a store does wrong here is `bucket_misbehaves`, which is
not retried: the other buckets are used instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from skyhold import error_codes
from skyhold.buckets.bucket import Bucket, ObjectInfo, is_key
from skyhold.buckets.retry import RetryPolicy
from skyhold.errors import Corrupt, Unavailable

T = TypeVar("T")

LISTED_KEYS_MAX: Final = 1 << 21
"""The most objects of one listing: 128 TiB of full packs."""
LISTED_KEYS_PER_S_MIN: Final = 200
"""A page of a thousand takes a store well below a second; so many a second are owed once the time for one is over."""
GIVEN_UP_S: Final = 60.0
"""How long a bucket is not listed again after a listing that went past its bounds: a command makes several."""
EMPTY_PAGES_MAX: Final = 1000
"""The most pages in a row that bring no new key: stores return pages of deleted objects only, which are empty."""
OBJECT_SIZE_MAX: Final = 1 << 60
"""The largest size that a listing may report: no cloud has larger objects, and no sum of them overflows."""


def read_bounded(bucket: Bucket, key: str, limit_bytes: int) -> bytearray:
    """A whole object. Raises `Corrupt` where it is longer than such an object can be, before it is taken in."""
    body = bytearray()
    for part in bucket.read_stream(key):
        check_size(bucket.name, key, len(body) + len(part), limit_bytes)
        body += part
    return body


def check_size(bucket: str, key: str, size_bytes: int, limit_bytes: int) -> None:
    """Raise `Corrupt` code `object_too_large` where an object has more than `limit_bytes`."""
    if size_bytes > limit_bytes:
        raise too_large(bucket, key, limit_bytes)


def too_large(bucket: str, key: str, limit_bytes: int) -> Corrupt:
    return Corrupt(
        f"Object {key} in bucket `{bucket}` is longer than {limit_bytes} bytes, the most that it can have",
        code=error_codes.OBJECT_TOO_LARGE,
        hint="Run `skyhold repair`",
        bucket=bucket,
        key=key,
    )


def misbehaves(bucket: str, what: str) -> Unavailable:
    """The error of a store that violates the protocol or a bound: its bucket counts as failed."""
    return Unavailable(
        f"Bucket `{bucket}` {what}",
        code=error_codes.BUCKET_MISBEHAVES,
        hint=f"Use the other buckets; ask the operator of this one, and check it: skyhold bucket check {bucket}",
        bucket=bucket,
    )


class Pace:
    """How fast a reply has to come: it may stay silent for the policy's stall limit, and then owes its rate since the
    beginning. A limit on silence alone would let a byte a second pass."""

    def __init__(self, policy: RetryPolicy, bucket: str, key: str) -> None:
        self._policy, self._bucket, self._key = policy, bucket, key
        self._waited_s = 0.0
        self._done_bytes = 0

    def take(self, read: Callable[[], bytes]) -> bytes:
        """The result of `read`, which waits for bytes; the time that the caller takes between two reads does not count.
        Raises `Unavailable` code `bucket_misbehaves` where too few have come by now."""
        began_s = time.monotonic()
        part = read()
        self._waited_s += time.monotonic() - began_s
        self._done_bytes += len(part)
        if self._waited_s > self._policy.download_timeout_s(self._done_bytes):
            what = f"the object `{self._key}`" if self._key else "a reply"
            raise misbehaves(
                self._bucket,
                f"sends {what} at less than {self._policy.download_bytes_per_s_min} bytes a second",
            )
        return part


def below(bucket: str, prefix: str, name: str) -> str:
    """The key of what a store lists by its own name, below the bucket's prefix. Raises code `bucket_misbehaves`."""
    if not name.startswith(prefix):
        raise misbehaves(bucket, f"lists {name[:80]!a}, which is not below {prefix[:80]!a}")
    return name[len(prefix) :]


class Listings:
    """The listings of one bucket as the port promises them."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket
        self._given_up: tuple[float, Unavailable] | None = None

    def checked(self, prefix: str, after: str, found: Iterable[ObjectInfo]) -> Iterator[ObjectInfo]:
        """What a driver found: keys with the prefix, past `after`, ascending, none twice, and not without end. Names
        that are no keys are skipped: other programs may keep objects in the bucket.

        Raises `Unavailable` code `bucket_misbehaves`, and again for `GIVEN_UP_S`.
        """
        given_up = self._given_up
        if given_up is not None and time.monotonic() < given_up[0]:
            error = given_up[1]
            raise Unavailable(error.message, code=error.code, hint=error.hint, bucket=self._bucket)
        try:
            yield from listed(self._bucket, prefix, after, found)
        except Unavailable as error:
            if error.code == error_codes.BUCKET_MISBEHAVES:
                self._given_up = time.monotonic() + GIVEN_UP_S, error
            raise


def listed(bucket: str, prefix: str, after: str, found: Iterable[ObjectInfo]) -> Iterator[ObjectInfo]:
    """One listing as `Listings` has it."""
    last = after
    for count, info in enumerate(found, 1):
        if count > LISTED_KEYS_MAX:
            raise misbehaves(bucket, f"lists more than {LISTED_KEYS_MAX} objects")
        if not info.key.startswith(prefix) or info.key <= last:
            raise misbehaves(bucket, f"lists {info.key[:80]!a}, which does not follow {last[:80]!a}")
        if not 0 <= info.size_bytes <= OBJECT_SIZE_MAX:
            raise misbehaves(bucket, f"lists {info.key[:80]!a} with a size of {info.size_bytes} bytes")
        last = info.key
        if is_key(info.key):
            yield info


def at_most(bucket: Bucket, prefix: str, keys_max: int) -> Iterator[ObjectInfo]:
    """A listing that has no more than `keys_max` objects in any store. Raises code `bucket_misbehaves` past them."""
    for count, info in enumerate(bucket.list(prefix), 1):
        if count > keys_max:
            raise misbehaves(bucket.name, f"lists more than {keys_max} objects below {prefix}")
        yield info


class Pages:
    """The progress of a listing over its pages: a token must be a new one, and keys must come, at a rate. Time counts
    only while the store is waited for."""

    def __init__(self, bucket: str, policy: RetryPolicy) -> None:
        self._bucket, self._limit_s, self._whole_s = bucket, policy.listing_timeout_s, policy.whole_listing_timeout_s
        self._token: str | None = None
        self._empty = 0
        self._empty_s = 0.0
        self._keys = 0
        self._waited_s = 0.0

    def fetch(self, page: Callable[[], T]) -> T:
        """The result of `page`, which asks the store for the next one."""
        began_s = time.monotonic()
        try:
            return page()
        finally:
            waited_s = time.monotonic() - began_s
            self._waited_s += waited_s
            self._empty_s += waited_s

    def turn(self, token: str, keys: int) -> None:
        """Count a page of so many keys which names `token` for the next. Raises code `bucket_misbehaves`."""
        if token == self._token:
            raise misbehaves(self._bucket, "lists the same page again and again")
        self._token = token
        self._keys += keys
        if self._waited_s > min(self._limit_s + self._keys / LISTED_KEYS_PER_S_MIN, self._whole_s):
            raise misbehaves(self._bucket, f"has listed {self._keys} objects in {self._waited_s:.0f} s, and no end")
        if keys:
            self._empty, self._empty_s = 0, 0.0
            return
        self._empty += 1
        if self._empty > EMPTY_PAGES_MAX or self._empty_s > self._limit_s:
            raise misbehaves(self._bucket, f"lists {self._empty} pages in a row without an object")
