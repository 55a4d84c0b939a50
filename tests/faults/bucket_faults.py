"""What a driver does when the network or the store misbehaves: one suite for every driver that speaks HTTP.

A subclass gives the fixtures `proxy` (before a real server) and `location` (through that proxy).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from skyhold.buckets.bucket import Bucket, Tagged
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.open import open_bucket
from skyhold.buckets.retry import RetryPolicy
from skyhold.errors import Conflict, Corrupt, NotFound, OutcomeUnknown, PermissionDenied, SkyholdError, Unavailable
from tests.buckets.conformance import tag_of
from tests.faults.proxy import READS, WRITES, Fault, FaultProxy

POLICY = RetryPolicy(
    attempts_max=3,
    total_s=4.0,
    first_delay_s=0.01,
    delay_s_max=0.05,
    connect_timeout_s=1.0,
    stall_timeout_s=0.4,
    upload_bytes_per_s_min=16 << 20,
)
BOUND_S = 8.0
"""Attempts that stall, the delays between them, and room for a busy machine."""
BODY = bytes(range(256)) * 4096

FAILURES = {
    "503": Fault("answer", status=503),
    "500": Fault("answer", status=500),
    "429": Fault("answer", status=429),
    "dropped": Fault("drop"),
    "reply lost": Fault("lose_reply"),
    "stalled": Fault("stall"),
}


class BucketFaults(ABC):
    @pytest.fixture
    @abstractmethod
    def proxy(self) -> Iterator[FaultProxy]:
        """A proxy before the server, without faults yet."""

    @pytest.fixture
    @abstractmethod
    def location(self, *args: object) -> BucketLocation:
        """A place of its own for each test, reached through the proxy."""

    @pytest.fixture
    def bucket(self, location: BucketLocation, proxy: FaultProxy) -> Iterator[Bucket]:
        with open_bucket(location, POLICY) as bucket:
            bucket.write("k", BODY)
            yield bucket
            proxy.inject()

    def test_reply_that_reports_an_error_and_is_cut_short_becomes_an_error_of_ours(
        self, bucket: Bucket, proxy: FaultProxy
    ) -> None:
        proxy.inject(Fault("truncate"))
        with pytest.raises(SkyholdError):
            bucket.read("never-written")

    @pytest.mark.parametrize("failure", FAILURES)
    def test_ordinary_call_survives_a_failure_that_passes(
        self, bucket: Bucket, proxy: FaultProxy, failure: str
    ) -> None:
        for call in _calls_worth(bucket, failure):
            proxy.inject(replace(FAILURES[failure], times=1))
            call()
            assert any(request.fault for request in proxy.seen)
        assert bytes(bucket.read("k")) == BODY

    @pytest.mark.parametrize("failure", FAILURES)
    def test_ordinary_call_gives_up_within_bounds(self, bucket: Bucket, proxy: FaultProxy, failure: str) -> None:
        for call in _calls_worth(bucket, failure):
            proxy.inject(replace(FAILURES[failure]))
            started = time.monotonic()
            with pytest.raises(Unavailable):
                call()
            assert time.monotonic() - started < BOUND_S
            assert proxy.count() == POLICY.attempts_max

    @pytest.mark.parametrize("failure", FAILURES)
    @pytest.mark.parametrize("operation", ["create", "replace"])
    def test_conditional_put_is_sent_once(
        self, bucket: Bucket, proxy: FaultProxy, failure: str, operation: str
    ) -> None:
        tag = tag_of(bucket, "k") if operation == "replace" else None
        key = "k" if operation == "replace" else "new"
        proxy.inject(replace(FAILURES[failure]))
        with pytest.raises(Unavailable if failure == "429" else OutcomeUnknown):
            bucket.write_if(key, b"changed", expected_tag=tag, deadline_s=0.6)
        assert proxy.count() == 1
        proxy.inject()
        if failure == "reply lost":
            assert bytes(bucket.read(key)) == b"changed"
        elif operation == "replace":
            assert bytes(bucket.read(key)) == BODY

    def test_lost_race_is_one_request_and_a_conflict(self, bucket: Bucket, proxy: FaultProxy) -> None:
        proxy.inject()
        with pytest.raises(Conflict):
            bucket.write_if("k", b"x", expected_tag=None)
        assert proxy.count() == 1

    @pytest.mark.parametrize("status", [408, 409, 502, 504])
    def test_vague_answer_to_a_conditional_put_is_in_doubt(
        self, bucket: Bucket, proxy: FaultProxy, status: int
    ) -> None:
        for tag in (None, tag_of(bucket, "k")):
            proxy.inject(Fault("answer", status=status, methods=WRITES))
            with pytest.raises(OutcomeUnknown):
                bucket.write_if("k", b"x", expected_tag=tag)
            assert proxy.count(WRITES) == 1

    def test_conditional_put_waits_for_its_whole_deadline_and_no_longer(
        self, bucket: Bucket, proxy: FaultProxy
    ) -> None:
        """A reply that trickles keeps every limit on silence from passing; one that hangs must not end early."""
        for fault in (Fault("trickle", delay_s=0.05), Fault("stall")):
            proxy.inject(fault)
            started = time.monotonic()
            with pytest.raises(OutcomeUnknown):
                bucket.write_if("new", b"x", expected_tag=None, deadline_s=0.8)
            assert 0.6 < time.monotonic() - started < BOUND_S  # neither fault ends before the proxy does
            assert proxy.count() == 1

    def test_conditional_put_that_landed_behind_an_error_is_in_doubt(self, bucket: Bucket, proxy: FaultProxy) -> None:
        proxy.inject(Fault("answer_after", times=1, methods=WRITES))
        with pytest.raises(OutcomeUnknown):
            bucket.write_if("landed", BODY, expected_tag=None)
        assert bytes(bucket.read("landed")) == BODY

    def test_conditional_put_that_arrives_after_its_sender_gave_up_is_in_doubt(
        self, bucket: Bucket, proxy: FaultProxy
    ) -> None:
        proxy.inject(Fault("arrive_late", times=1, methods=WRITES, delay_s=0.2))
        with pytest.raises(OutcomeUnknown):
            bucket.write_if("late", BODY, expected_tag=None)
        give_up_s = time.monotonic() + BOUND_S
        while not _is_there(bucket, "late"):
            assert time.monotonic() < give_up_s
        assert bytes(bucket.read("late")) == BODY

    def test_late_duplicate_of_a_conditional_put_undoes_nothing(self, bucket: Bucket, proxy: FaultProxy) -> None:
        proxy.inject(Fault("repeat_late", times=1, methods=WRITES, delay_s=0.3))
        tag = bucket.write_if("twice", b"first", expected_tag=None)
        newer = bucket.write_if("twice", b"second", expected_tag=tag)
        time.sleep(0.6)
        assert bucket.read_tagged("twice") == Tagged(b"second", newer)

    def test_conditional_put_reuses_no_dead_connection_twice(self, bucket: Bucket, proxy: FaultProxy) -> None:
        """A client library that repeats a request on a fresh connection, because the kept one was closed, would turn
        its own success into a lost race."""
        tag = bucket.write_if("c", b"one", expected_tag=None)
        proxy.inject(Fault("lose_reply", times=1, methods=WRITES))
        with pytest.raises(OutcomeUnknown):
            bucket.write_if("c", b"two", expected_tag=tag)
        assert proxy.count(WRITES) == 1
        assert bytes(bucket.read("c")) == b"two"

    @pytest.mark.parametrize("kind", ["truncate", "stall_body"])
    @pytest.mark.parametrize("call", ["read", "range", "read_stream", "read_tagged"])
    def test_cut_reply_never_gives_short_data(self, bucket: Bucket, proxy: FaultProxy, kind: str, call: str) -> None:
        proxy.inject(Fault(kind, times=1, methods=READS))  # type: ignore[arg-type]
        assert _read(bucket, call) == BODY
        if call == "read":  # one of those alike; a stream takes up where it was cut, so it ends
            proxy.inject(Fault(kind, methods=READS))  # type: ignore[arg-type]
            started = time.monotonic()
            with pytest.raises((Corrupt, Unavailable)):
                _read(bucket, call)
            assert time.monotonic() - started < BOUND_S
            assert proxy.count() == POLICY.attempts_max

    def test_reply_that_trickles_is_given_up(self, bucket: Bucket, proxy: FaultProxy) -> None:
        """A byte now and then keeps every limit on silence from passing."""
        for call in (lambda: list(bucket.list()), lambda: bucket.read_tagged("k")):
            proxy.inject(Fault("trickle", methods=READS, delay_s=0.05))
            started = time.monotonic()
            with pytest.raises(Unavailable):
                call()
            assert time.monotonic() - started < BOUND_S

    def test_refused_connection_is_unavailable_at_once(self, location: BucketLocation, proxy: FaultProxy) -> None:
        proxy.close()
        bucket = open_bucket(location, POLICY)
        started = time.monotonic()
        for call in [*_ordinary_calls(bucket), lambda: bucket.write_if("k", b"x", expected_tag=None)]:
            with pytest.raises(Unavailable):
                call()
        assert time.monotonic() - started < BOUND_S

    @pytest.mark.parametrize("status", [401, 403])
    def test_forbidden_is_permission_denied_without_a_second_try(
        self, bucket: Bucket, proxy: FaultProxy, status: int
    ) -> None:
        for call in [*_ordinary_calls(bucket), lambda: bucket.write_if("k", b"x", expected_tag=None)]:
            proxy.inject(Fault("answer", status=status))
            with pytest.raises(PermissionDenied):
                call()
            assert proxy.count() == 1

    def test_bytes_damaged_on_the_way_are_refused_by_the_store(self, bucket: Bucket, proxy: FaultProxy) -> None:
        proxy.inject(Fault("corrupt_request", times=1, methods=WRITES))
        bucket.write("k", BODY[::-1])
        assert bytes(bucket.read("k")) == BODY[::-1]
        proxy.inject(Fault("corrupt_request", methods=WRITES))
        with pytest.raises(SkyholdError) as caught:
            bucket.write("fresh", BODY)
        assert caught.value.code == "checksum_refused"

    def test_closed_stream_ends_the_transfer(self, bucket: Bucket, proxy: FaultProxy) -> None:
        bucket.write("large", bytes(32 << 20))
        proxy.sent_bytes = 0
        stream = bucket.read_stream("large", part_bytes=256 << 10)
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        time.sleep(0.3)
        settled_bytes = proxy.sent_bytes
        assert settled_bytes < 28 << 20
        time.sleep(0.2)
        assert proxy.sent_bytes == settled_bytes


def _ordinary_calls(bucket: Bucket) -> list[Callable[[], object]]:
    return [
        lambda: bucket.read("k", 3, 5),
        lambda: list(bucket.read_stream("k")),
        lambda: bucket.read_tagged("k"),
        lambda: bucket.write("k", BODY),
        lambda: list(bucket.list()),
        lambda: bucket.delete("absent"),
    ]


def _is_there(bucket: Bucket, key: str) -> bool:
    try:
        return bucket.read_tagged(key) is not None
    except NotFound:
        return False


def _calls_worth(bucket: Bucket, failure: str) -> list[Callable[[], object]]:
    """All calls; of a stall, which costs its time limit, one of each kind: a read, a write and a listing."""
    calls = _ordinary_calls(bucket)
    return [calls[0], calls[3], calls[4]] if failure == "stalled" else calls


def _read(bucket: Bucket, call: str) -> bytes:
    if call == "read_stream":
        return b"".join(bucket.read_stream("k", part_bytes=64 << 10))
    if call == "range":
        return BODY[:1] + bytes(bucket.read("k", 1, len(BODY) - 1))
    if call == "read_tagged":
        tagged = bucket.read_tagged("k")
        assert tagged is not None
        return bytes(tagged.body)
    return bytes(bucket.read("k"))
