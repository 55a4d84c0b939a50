"""What `open_bucket` puts around a driver: each attempt is the driver's, and repeating it is not."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skyhold import error_codes
from skyhold.buckets import bounded, retry
from skyhold.buckets.bucket import ObjectInfo
from skyhold.buckets.listing import Listing, Page
from skyhold.buckets.location import parse_location
from skyhold.buckets.memory import MemoryBucket
from skyhold.buckets.open import create_bucket, open_bucket
from skyhold.buckets.retry import RetryPolicy
from skyhold.buckets.retrying_bucket import RetryingBucket
from skyhold.buckets.telemetry import Telemetry
from skyhold.buckets.transfer import Transfer
from skyhold.errors import Corrupt, OutcomeUnknown, SkyholdError, Unavailable
from skyhold.units import Buffer
from tests.buckets.conformance import QUICK, every_call
from tests.buckets.test_retry import Clock

EVERY_CALL = ("read", "read_stream", "read_tagged", "write", "write_if", "list", "delete")


class Failing(MemoryBucket):
    """A driver that fails as often as requested. Its streams can be taken up, and its listings come page by page."""

    def __init__(self, *errors: SkyholdError) -> None:
        super().__init__(parse_location(f"memory://{secrets.token_hex(8)}", name="lab"))
        super().write("k", b"12345678")
        self.errors, self.attempts = list(errors), 0

    def _attempt(self) -> None:
        self.attempts += 1
        if self.errors:
            raise self.errors.pop(0)

    def read(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        self._attempt()
        return super().read(key, start, length)

    def read_stream(
        self, key: str, start: int = 0, length: int | None = None, part_bytes: int = 4 << 20
    ) -> Iterator[Buffer]:
        def begin(done_bytes: int) -> Iterator[Buffer]:
            self._attempt()
            yield from super(Failing, self).read_stream(key, start + done_bytes, length, part_bytes)

        return Transfer(begin)

    def read_tagged(self, key: str, **options: str | None) -> object:  # type: ignore[override]
        self._attempt()
        return super().read_tagged(key, **options)

    def write(self, key: str, body: Buffer, *, md5: Callable[[], bytes] | None = None) -> str:
        self._attempt()
        return super().write(key, body)

    def write_if(self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = 1) -> str:
        self._attempt()
        return super().write_if(key, body, expected_tag=expected_tag)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        def fetch(token: str) -> Page:
            self._attempt()
            return Page([*super(Failing, self).list(prefix, after=after)], "")

        return Listing(self.name, QUICK, fetch, after)

    def delete(self, key: str) -> None:
        self._attempt()
        super().delete(key)


def around(driver: MemoryBucket, policy: RetryPolicy = QUICK) -> RetryingBucket:
    return RetryingBucket(driver, policy, Telemetry(driver.name, {}))


@pytest.mark.parametrize("number", [n for n, name in enumerate(EVERY_CALL) if name != "write_if"])
@pytest.mark.parametrize("error", [Unavailable("down"), Corrupt("other bytes", code="checksum_refused")])
def test_call_is_repeated(number: int, error: SkyholdError) -> None:
    driver = Failing(error, error)
    every_call(around(driver))[number]()
    assert driver.attempts == 3


@pytest.mark.parametrize(
    "error", [Unavailable("never sent"), OutcomeUnknown("the reply was lost"), Corrupt("x", code="checksum_refused")]
)
def test_conditional_put_is_never_repeated(error: SkyholdError) -> None:
    driver = Failing(error)
    with pytest.raises(type(error)):
        around(driver).write_if("new", b"x", expected_tag=None)
    assert driver.attempts == 1


@pytest.mark.parametrize("number", range(len(EVERY_CALL)))
@pytest.mark.parametrize("code", [error_codes.BUCKET_MISBEHAVES, error_codes.BUCKET_CLOSED])
def test_what_a_store_does_for_ever_is_not_repeated(number: int, code: str) -> None:
    driver = Failing(Unavailable("it misbehaves", code=code))
    with pytest.raises(Unavailable):
        every_call(around(driver))[number]()
    assert driver.attempts == 1


def test_waits_between_attempts_count_in_the_time_of_a_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a store could keep a command for as long as it likes, by failing before each page."""
    clock = Clock()
    monkeypatch.setattr(retry, "time", clock)
    monkeypatch.setattr(bounded, "time", clock)
    policy = RetryPolicy(first_delay_s=20.0, delay_s_max=20.0, stall_timeout_s=20.0)

    class Sluggish(MemoryBucket):
        pages = 0
        failing = True

        def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
            def fetch(token: str) -> Page:
                self.failing = not self.failing
                if not self.failing:
                    raise Unavailable("try again")
                self.pages += 1
                return Page([ObjectInfo(f"k{self.pages:06d}", 1, "", None)], f"page {self.pages}")

            return Listing(self.name, policy, fetch, after)

    driver = Sluggish(parse_location(f"memory://{secrets.token_hex(8)}", name="lab"))
    with pytest.raises(Unavailable) as caught:
        list(around(driver, policy).list())
    assert caught.value.code == error_codes.BUCKET_MISBEHAVES
    assert clock.now_s <= policy.listing_timeout_s + 20.0


def test_read_of_a_folder_is_repeated_where_its_mount_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location = parse_location(str(tmp_path / "bucket"))
    create_bucket(location)
    bucket = open_bucket(location, QUICK)
    bucket.write("k", b"body")
    preadv, failures = os.preadv, [OSError(errno.EIO, "Input/output error")]

    def failing(*arguments: object) -> int:
        if failures:
            raise failures.pop()
        return preadv(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "preadv", failing)
    assert bytes(bucket.read("k")) == b"body"
    assert failures == []
