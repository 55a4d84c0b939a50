"""Bounded repetition of ordinary requests: one rule for every driver, instead of each SDK's own, which are off.

`RetryingBucket` gives the attempts of a driver to `retrying` or `resuming`. `write_if` never comes here.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

from skyhold import error_codes
from skyhold.buckets.refusals import parsed_date
from skyhold.buckets.transfer import end
from skyhold.errors import Corrupt, SkyholdError, Unavailable
from skyhold.units import Buffer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long one operation is tried.

    A delay is drawn evenly from the upper half of `first_delay_s * 2**n`, at most `delay_s_max`, so that many clients
    which failed together do not return together; a store that names a time (`Retry-After`) is given at least that, but
    not more than `stall_timeout_s`: naming a time costs no more than silence. No attempt begins later than `total_s`
    after the first. One attempt fails when no connection is made after `connect_timeout_s`, or when no byte arrives for
    `stall_timeout_s`; a transfer also fails when it takes longer than that plus its size at `upload_bytes_per_s_min` or
    `download_bytes_per_s_min` (many may share a slow link).
    """

    attempts_max: int = 6
    total_s: float = 90.0
    first_delay_s: float = 0.2
    delay_s_max: float = 8.0
    connect_timeout_s: float = 5.0
    stall_timeout_s: float = 20.0
    upload_bytes_per_s_min: int = 64 << 10
    download_bytes_per_s_min: int = 20 << 10

    @property
    def listing_timeout_s(self) -> float:
        """How long a listing may bring nothing new."""
        return 1.5 * self.stall_timeout_s

    @property
    def whole_listing_timeout_s(self) -> float:
        """How long all pages of a listing may be waited for: five minutes. A thousand names take a cloud that is far
        away a quarter of a second."""
        return 15 * self.stall_timeout_s

    def download_timeout_s(self, size_bytes: int) -> float:
        """By when `size_bytes` of a reply must have come."""
        return self.stall_timeout_s + size_bytes / self.download_bytes_per_s_min

    def upload_timeout_s(self, size_bytes: int) -> float:
        """How long one attempt to send `size_bytes` may take."""
        return self.stall_timeout_s + size_bytes / self.upload_bytes_per_s_min


DEFAULT_POLICY: Final = RetryPolicy()
SECONDS_DIGITS_MAX: Final = 9
"""Of a `Retry-After`: thirty years."""


class _Attempts:
    """The budget of one operation: `spend` sleeps before the next attempt, or raises the error that ended the last."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._started_s = time.monotonic()
        self._failures = 0
        self.number = 1
        """Of the attempt that is next, among all of the operation."""

    def spend(self, error: SkyholdError) -> None:
        policy = self._policy
        self.number += 1
        self._failures += 1
        if not may_repeat(error) or self._failures >= policy.attempts_max:
            raise error
        delay_s = min(policy.delay_s_max, policy.first_delay_s * 2 ** (self._failures - 1))
        delay_s *= random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        asked_s = error.fields.get("retry_after_s")
        if isinstance(asked_s, int | float):
            delay_s = max(delay_s, min(asked_s, policy.stall_timeout_s))
        if time.monotonic() - self._started_s + delay_s > policy.total_s:
            raise error
        time.sleep(delay_s)

    def renew(self) -> None:
        """Progress was made: the next failure is a first one again."""
        self._started_s = time.monotonic()
        self._failures = 0


def retry_after_s(text: str, date: str = "") -> int | None:
    """The seconds that a `Retry-After` names, or None where it cannot be read. A time is compared with the `Date` of
    the same reply where there is one: the clock of the store, not this machine's."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return int(text) if len(text) <= SECONDS_DIGITS_MAX else None
    until = parsed_date(text)
    if until is None:
        return None
    left = until - (parsed_date(date) or datetime.now(UTC))
    return max(0, math.ceil(left.total_seconds()))


def may_repeat(error: SkyholdError) -> bool:
    """Whether the same request may succeed if it is sent again: the store was unavailable, or bytes were cut short or
    damaged on the way."""
    if isinstance(error, Unavailable):
        return error.code not in {error_codes.BUCKET_MISBEHAVES, error_codes.BUCKET_CLOSED}
    return isinstance(error, Corrupt) and error.code == error_codes.CHECKSUM_REFUSED


def retrying(policy: RetryPolicy, attempt: Callable[[int], T]) -> T:
    """The result of `attempt`, which is given its number, from 1 on, makes one request and raises our errors only; the
    last error when all failed."""
    attempts = _Attempts(policy)
    while True:  # bounded: `spend` raises after `attempts_max` failures
        try:
            return attempt(attempts.number)
        except SkyholdError as error:
            attempts.spend(error)


def resuming(policy: RetryPolicy, attempt: Callable[[int, int], Iterator[Buffer]]) -> Iterator[Buffer]:
    """The parts of a transfer. `attempt(number, done_bytes)` begins one at that offset; a transfer that breaks is taken
    up where it broke, so no byte is repeated or missed. Each part received renews the budget: the bound is on time
    without progress."""
    attempts = _Attempts(policy)
    done_bytes = 0
    while True:  # bounded: as above
        parts = attempt(attempts.number, done_bytes)
        try:
            for part in parts:
                done_bytes += len(part)
                attempts.renew()
                yield part
        except SkyholdError as error:
            attempts.spend(error)
        else:
            return
        finally:
            end(parts)
