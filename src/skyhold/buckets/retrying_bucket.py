"""`RetryingBucket`: a driver makes one attempt, and this repeats it, in one way for all of them.

What may be repeated: everything but `write_if`, since objects written by `write` are immutable or idempotent. A driver
raises `Unavailable` where an attempt had no effect or may be made again, and `OutcomeUnknown` where the effect of a
conditional put is not known; the latter is always raised to the caller, which reads the object back
(`docs/decisions/032-requests.md`). Each attempt is reported to `telemetry`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import TypeVar

from skyhold.buckets.bounded import Listings
from skyhold.buckets.bucket import WRITE_IF_DEADLINE_S, Bucket, ObjectInfo, Tagged
from skyhold.buckets.listing import Listing
from skyhold.buckets.retry import RetryPolicy, resuming, retrying
from skyhold.buckets.rules import BucketRules
from skyhold.buckets.telemetry import Telemetry
from skyhold.buckets.transfer import Transfer, end
from skyhold.units import Buffer

T = TypeVar("T")


class RetryingBucket(Bucket):
    """See the module. `driver` is closed with it."""

    def __init__(self, driver: Bucket, policy: RetryPolicy, telemetry: Telemetry) -> None:
        self.name, self.url = driver.name, driver.url
        self._driver, self._policy, self._telemetry = driver, policy, telemetry
        self._listings = Listings(driver.name)

    def __repr__(self) -> str:
        return repr(self._driver)

    def read(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        if length == 0:  # nothing is asked for
            return self._driver.read(key, start, length)
        return self._repeated("read", key, lambda: self._driver.read(key, start, length), len)

    def read_stream(
        self, key: str, start: int = 0, length: int | None = None, part_bytes: int = 4 << 20
    ) -> Iterator[Buffer]:
        parts = self._driver.read_stream(key, start, length, part_bytes)
        if length == 0:
            return parts
        if not isinstance(parts, Transfer):
            return self._iterated("read_stream", key, 1, lambda: parts, len)
        begin = parts.begin

        def attempt(number: int, done_bytes: int) -> Iterator[Buffer]:
            return self._iterated("read_stream", key, number, partial(begin, done_bytes), len)

        return resuming(self._policy, attempt)

    def read_tagged(self, key: str, *, unless_tag: str | None = None) -> Tagged | None:
        return self._repeated(
            "read_tagged",
            key,
            lambda: self._driver.read_tagged(key, unless_tag=unless_tag),
            lambda tagged: 0 if tagged is None else len(tagged.body),
        )

    def write(self, key: str, body: Buffer, *, md5: Callable[[], bytes] | None = None) -> str:
        sent_bytes = memoryview(body).nbytes
        return self._repeated("write", key, lambda: self._driver.write(key, body, md5=md5), lambda _: sent_bytes)

    def write_if(
        self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = WRITE_IF_DEADLINE_S
    ) -> str:
        sent_bytes = memoryview(body).nbytes

        def put() -> str:
            return self._driver.write_if(key, body, expected_tag=expected_tag, deadline_s=deadline_s)

        return self._attempted("write_if", key, 1, put, lambda _: sent_bytes)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        return self._listings.checked(prefix, after, self._listed(prefix, after))

    def _listed(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        found = self._driver.list(prefix, after=after)
        if isinstance(found, Listing):
            return found.fetched_by(lambda ask: self._repeated("list", prefix, ask, _nothing))
        return self._iterated("list", prefix, 1, lambda: found, _nothing)  # the walk through a folder

    def delete(self, key: str) -> None:
        self._repeated("delete", key, lambda: self._driver.delete(key), _nothing)

    def rules(self) -> BucketRules:
        return self._repeated("rules", "", self._driver.rules, _nothing)

    def server_time(self) -> datetime | None:
        return self._repeated("server_time", "", self._driver.server_time, _nothing)

    def close(self) -> None:
        self._driver.close()

    # Attempts

    def _repeated(self, verb: str, key: str, ask: Callable[[], T], body_bytes: Callable[[T], int]) -> T:
        return retrying(self._policy, lambda attempt: self._attempted(verb, key, attempt, ask, body_bytes))

    def _attempted(self, verb: str, key: str, attempt: int, ask: Callable[[], T], body_bytes: Callable[[T], int]) -> T:
        """The result of one attempt; `body_bytes` is how many bytes of an object it has moved."""
        request = self._telemetry.begin(verb, key, attempt)
        try:
            result = request.wait(ask)
        except BaseException as error:
            request.fail(error)
            raise
        request.succeed(body_bytes(result))
        return result

    def _iterated(
        self, verb: str, key: str, attempt: int, begin: Callable[[], Iterator[T]], body_bytes: Callable[[T], int]
    ) -> Iterator[T]:
        """What one attempt yields. The time of the caller between two items does not count."""
        request, moved_bytes = self._telemetry.begin(verb, key, attempt), 0
        items = begin()
        try:
            while (item := request.wait(partial(next, items, None))) is not None:
                moved_bytes += body_bytes(item)
                yield item
        except GeneratorExit:  # its caller has what it wanted
            request.succeed(moved_bytes)
            raise
        except BaseException as error:
            request.fail(error, moved_bytes)
            raise
        finally:
            end(items)
        request.succeed(moved_bytes)


def _nothing(_result: object) -> int:
    return 0
