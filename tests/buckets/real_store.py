"""What a driver must show against its real server beyond the conformance suite: one shared class."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor

import pytest

from skyhold.buckets.admission import admit
from skyhold.buckets.bucket import Bucket
from skyhold.buckets.check import check_bucket
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.open import open_bucket
from skyhold.errors import Conflict, InvalidInput, NotFound

BODY = bytes(range(256)) * 64


class RealStore(ABC):
    @pytest.fixture
    @abstractmethod
    def location(self) -> BucketLocation:
        """An existing, empty prefix of a real server's bucket."""

    @pytest.fixture
    @abstractmethod
    def missing(self) -> BucketLocation:
        """A bucket that the same server does not have."""

    @pytest.fixture
    def bucket(self, location: BucketLocation) -> Bucket:
        return open_bucket(location)

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_what_was_written_is_read(self, bucket: Bucket, kind: type) -> None:
        bucket.write("a/b=c.d", kind(BODY))
        assert bytes(bucket.read("a/b=c.d")) == BODY
        assert bytes(bucket.read("a/b=c.d", 1000, 24)) == BODY[1000:1024]
        assert bytes(bucket.read("a/b=c.d", 1000)) == BODY[1000:]
        assert b"".join(bytes(part) for part in bucket.read_stream("a/b=c.d", 7, part_bytes=1000)) == BODY[7:]
        assert bucket.stat("a/b=c.d").size_bytes == len(BODY)

    def test_empty_object_is_an_object(self, bucket: Bucket) -> None:
        bucket.write("empty", b"")
        assert bytes(bucket.read("empty")) == b""
        assert list(bucket.read_stream("empty")) == []
        assert bucket.read_tagged("empty") is not None

    @pytest.mark.parametrize(("start", "length"), [(len(BODY), 1), (len(BODY) - 1, 2), (len(BODY), None), (99999, 1)])
    def test_range_outside_is_refused(self, bucket: Bucket, start: int, length: int | None) -> None:
        bucket.write("key", BODY)
        with pytest.raises(InvalidInput) as caught:
            bucket.read("key", start, length)
        assert caught.value.code == "range_not_satisfiable"
        with pytest.raises(InvalidInput):
            b"".join(bytes(part) for part in bucket.read_stream("key", start, length))

    def test_tags_follow_the_bytes(self, bucket: Bucket) -> None:
        first = bucket.write_if("key", b"1", expected_tag=None)
        assert bucket.read_tagged("key", unless_tag=first) is None
        second = bucket.write_if("key", b"2", expected_tag=first)
        tagged = bucket.read_tagged("key", unless_tag=first)
        assert tagged is not None
        assert (bytes(tagged.body), tagged.tag) == (b"2", second)
        assert bucket.stat("key").tag == second == next(iter(bucket.list("key"))).tag
        for expected in (None, first):
            with pytest.raises(Conflict):
                bucket.write_if("key", b"3", expected_tag=expected)
        bucket.delete("key")
        with pytest.raises(Conflict):
            bucket.write_if("key", b"3", expected_tag=second)

    def test_listing_is_sorted_over_pages(self, bucket: Bucket) -> None:
        keys = sorted([f"many/{number:04d}" for number in range(1100)] + ["many.x", "many=y"])
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda key: bucket.write(key, b"x"), keys))
        assert [info.key for info in bucket.list("many")] == keys
        last = [f"many/{number:04d}" for number in range(1051, 1100)]
        assert [info.key for info in bucket.list("many/", after="many/1050")] == last

    def test_missing_bucket_is_told_from_a_missing_object(self, bucket: Bucket, missing: BucketLocation) -> None:
        bucket.delete("absent")
        with pytest.raises(NotFound) as caught:
            bucket.read("absent")
        assert caught.value.code == "object_not_found"
        for act in (lambda b: b.read("key"), lambda b: b.write("key", b""), lambda b: b.delete("key"),
                    lambda b: list(b.list()), lambda b: b.stat("key"),
                    lambda b: b.write_if("key", b"", expected_tag=None)):  # fmt: skip
            with pytest.raises(NotFound) as caught:
                act(open_bucket(missing))
            assert caught.value.code == "bucket_not_found"

    def test_bucket_serves_both_sides_of_a_fork(self, bucket: Bucket) -> None:
        bucket.write("key", BODY)
        child = os.fork()
        if child == 0:
            os._exit(0 if bytes(bucket.read("key")) == BODY else 1)
        for _ in range(5):
            assert bytes(bucket.read("key")) == BODY
        assert os.waitpid(child, 0)[1] == 0

    def test_many_threads_share_one_bucket(self, bucket: Bucket) -> None:
        gate = threading.Barrier(8)

        def act(number: int) -> bool:
            gate.wait(timeout=10)
            body = bytes([number]) * 1000
            bucket.write(f"thread/{number}", body)
            return bytes(bucket.read(f"thread/{number}")) == body

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(act, range(8)))

    def test_real_server_is_admitted_as_voter(self, bucket: Bucket) -> None:
        verdict = admit(bucket, rounds=20, clients=16, seed=3)
        assert verdict.admitted, verdict
        assert verdict.wins == 20

    def test_check_finds_a_sound_bucket(self, bucket: Bucket, location: BucketLocation) -> None:
        report = check_bucket(bucket, location, contend=False, throughput_bytes=1 << 16)
        assert report.problems == ()
        assert report.clock_skew_s is not None
        assert abs(report.clock_skew_s) < 5
        assert report.rules.retention.verdict == "absent"
        assert list(bucket.list(".skyhold-check/")) == []
