"""The conformance suite of the `Bucket` port: every driver passes it, against a real server where there is one.

A driver's tests are a subclass with the fixture `location`. What a store or its emulator cannot show is declared by
name in `exemptions.py`, and nothing else may skip.
"""

from __future__ import annotations

import gc
import hashlib
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

from skyhold.buckets.admission import admit
from skyhold.buckets.bounded import read_bounded
from skyhold.buckets.bucket import OBJECT_BYTES_MAX, TAGGED_BYTES_MAX, Bucket
from skyhold.buckets.check import check_bucket
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.open import open_bucket
from skyhold.buckets.retry import RetryPolicy
from skyhold.errors import Conflict, Corrupt, InvalidInput, NotFound, OutcomeUnknown, PermissionDenied, Unavailable

QUICK = RetryPolicy(attempts_max=4, total_s=5.0, first_delay_s=0.02, delay_s_max=0.1, stall_timeout_s=10.0)
LARGE_BYTES = 32 << 20
PAGE_KEYS = 1000
"""The page size of every cloud's listing."""
CHILD_S_MAX = 20
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._=-"


class BucketConformance(ABC):
    list_keys: ClassVar[int] = PAGE_KEYS + 7
    contenders: ClassVar[int] = 8

    @pytest.fixture
    @abstractmethod
    def location(self, *args: object) -> BucketLocation:
        """A place of its own for each test, without objects."""

    @pytest.fixture
    def gone(self, location: BucketLocation) -> BucketLocation:
        """A location like `location` whose bucket or folder is not there."""
        raise NotImplementedError

    @pytest.fixture
    def denied(self, location: BucketLocation) -> BucketLocation:
        """`location` under credentials that are wrong."""
        raise NotImplementedError

    @pytest.fixture
    def bucket(self, location: BucketLocation) -> Iterator[Bucket]:
        with open_bucket(location, QUICK) as bucket:
            yield bucket

    # -- reading -------------------------------------------------------------------------------------------------

    def test_object_is_read_back_whole(self, bucket: Bucket) -> None:
        bucket.write("a/b.bin", b"hello")
        assert bytes(bucket.read("a/b.bin")) == b"hello"

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_any_buffer_may_be_written(self, bucket: Bucket, kind: Callable[[bytes], bytes]) -> None:
        bucket.write("k", kind(b"buffer"))
        assert bytes(bucket.read("k")) == b"buffer"

    @pytest.mark.parametrize(("start", "length"), [(0, 1), (0, 10), (9, 1), (3, 4), (4, None), (9, None), (0, None)])
    def test_range_is_read_exactly(self, bucket: Bucket, start: int, length: int | None) -> None:
        bucket.write("k", b"0123456789")
        expected = b"0123456789"[start : None if length is None else start + length]
        assert bytes(bucket.read("k", start, length)) == expected
        assert b"".join(bucket.read_stream("k", start, length, part_bytes=3)) == expected

    @pytest.mark.parametrize(("start", "length"), [(0, 11), (9, 2), (10, 1), (10, None), (99, 1), (99, None), (-1, 2)])
    def test_range_outside_the_object_is_refused(self, bucket: Bucket, start: int, length: int | None) -> None:
        bucket.write("k", b"0123456789")
        with pytest.raises(InvalidInput) as caught:
            bucket.read("k", start, length)
        assert caught.value.code == "range_not_satisfiable"
        with pytest.raises(InvalidInput) as caught:
            list(bucket.read_stream("k", start, length))
        assert caught.value.code == "range_not_satisfiable"

    def test_empty_range_has_no_bytes(self, bucket: Bucket) -> None:
        bucket.write("k", b"0123456789")
        assert bytes(bucket.read("k", 4, 0)) == b""
        assert list(bucket.read_stream("k", 4, 0)) == []

    def test_object_of_zero_bytes(self, bucket: Bucket) -> None:
        bucket.write("empty", b"")
        assert bytes(bucket.read("empty")) == b""
        assert b"".join(bucket.read_stream("empty")) == b""
        assert [info.size_bytes for info in bucket.list("empty")] == [0]
        tagged = bucket.read_tagged("empty")
        assert tagged is not None
        assert bytes(tagged.body) == b""
        with pytest.raises(InvalidInput) as caught:
            bucket.read("empty", 0, 1)
        assert caught.value.code == "range_not_satisfiable"

    def test_large_object_streams_in_parts(self, bucket: Bucket) -> None:
        body = os.urandom(1 << 20) * (LARGE_BYTES >> 20)
        bucket.write("large", body)
        offset = 0
        for part in bucket.read_stream("large", part_bytes=4 << 20):
            assert len(part) <= 16 << 20
            assert body[offset : offset + len(part)] == bytes(part)
            offset += len(part)
        assert offset == len(body)
        assert bytes(bucket.read("large", len(body) - 5, 5)) == body[-5:]

    def test_closed_stream_leaves_the_bucket_usable(self, bucket: Bucket) -> None:
        bucket.write("k", bytes(8 << 20))
        for _ in range(20):
            stream = bucket.read_stream("k", part_bytes=64 << 10)
            assert len(next(stream)) > 0
            stream.close()  # type: ignore[attr-defined]
        assert bytes(bucket.read("k", (8 << 20) - 1)) == b"\0"

    @pytest.mark.parametrize("call", ["read", "read_stream", "read_tagged"])
    def test_missing_object_is_not_found(self, bucket: Bucket, call: str) -> None:
        bucket.write("there", b"x")
        with pytest.raises(NotFound) as caught:
            _consume(getattr(bucket, call)("not/there"))
        assert caught.value.code == "object_not_found"

    # -- writing -------------------------------------------------------------------------------------------------

    def test_write_replaces_the_object(self, bucket: Bucket) -> None:
        bucket.write("k", b"first, and longer")
        bucket.write("k", b"second")
        assert bytes(bucket.read("k")) == b"second"
        assert [info.size_bytes for info in bucket.list()] == [6]

    def test_deleted_object_is_gone_and_may_be_deleted_again(self, bucket: Bucket) -> None:
        bucket.write("k/a", b"x")
        bucket.delete("k/a")
        bucket.delete("k/a")
        bucket.delete("never/was")
        with pytest.raises(NotFound):
            bucket.read("k/a")
        assert list(bucket.list()) == []
        bucket.write("k/a", b"y")
        assert bytes(bucket.read("k/a")) == b"y"

    @pytest.mark.parametrize(
        "key",
        [ALPHABET, "a" * 255, "/".join(["d" * 63] * 8), "a/b/c/d/e/f/g", "...", ".hidden", "-", "=", "a..b/c..", "A/a"],
    )
    def test_odd_key_holds_an_object(self, bucket: Bucket, key: str) -> None:
        bucket.write(key, key.encode())
        assert bytes(bucket.read(key)) == key.encode()
        assert [info.key for info in bucket.list()] == [key]
        bucket.delete(key)
        assert list(bucket.list()) == []

    @pytest.mark.parametrize(
        "key",
        ["", "/a", "a/", "a//b", ".", "a/../b", "..", "a b", "ä", "a\\b", "a%2e", "a\0", "x" * 256, "a/" * 256 + "a",
         ".skyhold/x"],
    )  # fmt: skip
    def test_key_outside_the_grammar_is_refused_before_anything_happens(self, bucket: Bucket, key: str) -> None:
        calls: list[Callable[[], object]] = [
            lambda: bucket.read(key),
            lambda: list(bucket.read_stream(key)),
            lambda: bucket.read_tagged(key),
            lambda: bucket.write(key, b"x"),
            lambda: bucket.write_if(key, b"x", expected_tag=None),
            lambda: bucket.delete(key),
        ]
        for call in calls:
            with pytest.raises(InvalidInput) as caught:
                call()
            assert caught.value.code == "invalid_key"
        assert list(bucket.list()) == []

    # -- listing -------------------------------------------------------------------------------------------------

    def test_listing_is_complete_and_ordered_over_page_ends(self, bucket: Bucket) -> None:
        keys = [f"p/{index * 7919 % 9973:04d}" for index in range(self.list_keys)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda key: bucket.write(key, key.encode()), keys))
        keys.sort()
        middle = len(keys) // 2
        listed = list(bucket.list())
        assert [info.key for info in listed] == keys
        assert {info.size_bytes for info in listed} == {6}
        assert [info.key for info in bucket.list("p/", after=keys[middle])] == keys[middle + 1 :]
        assert [info.key for info in bucket.list(keys[3][:4])] == [key for key in keys if key.startswith(keys[3][:4])]

    def test_listing_order_is_that_of_the_bytes(self, bucket: Bucket) -> None:
        keys = ["a-b", "a.b", "a/b", "a/c/d", "a0", "a=b", "aB", "a_b", "ab", "b"]
        for key in keys:
            bucket.write(key, b"x")
        assert [info.key for info in bucket.list()] == sorted(keys)
        for after in [*keys, "a", "a/", "a/c", "zz", ""]:
            assert [info.key for info in bucket.list(after=after)] == sorted(key for key in keys if key > after)

    @pytest.mark.parametrize("prefix", ["", "a", "a/", "a/b", "a/b/", "a/bc", "b/", "c", "a/b/c", "ab", "A", "zz"])
    def test_prefix_is_one_of_strings(self, bucket: Bucket, prefix: str) -> None:
        keys = ["a/b/c", "a/bc", "a/c", "ab", "b/a"]
        for key in keys:
            bucket.write(key, b"x")
        assert [info.key for info in bucket.list(prefix)] == [key for key in keys if key.startswith(prefix)]
        assert [info.key for info in bucket.list(prefix, after="a/bc")] == [
            key for key in keys if key.startswith(prefix) and key > "a/bc"
        ]

    def test_listing_of_nothing_is_empty(self, bucket: Bucket) -> None:
        assert list(bucket.list()) == []
        assert list(bucket.list("no/such/")) == []

    def test_listed_objects_show_when_they_were_written(self, bucket: Bucket) -> None:
        bucket.write("k", b"x")
        (info,) = bucket.list()
        assert info.tag in {"", tag_of(bucket, "k")}
        assert info.modified_at is not None
        assert abs(info.modified_at.timestamp() - time.time()) < 60

    def test_listing_gives_the_stamp_of_the_last_write(self, bucket: Bucket) -> None:
        first = bucket.write("k", b"one")
        (info,) = bucket.list()
        assert info.stamp == first != ""
        assert info.md5 in {b"", hashlib.md5(b"one").digest()}
        second = bucket.write("k", b"two")
        (info,) = bucket.list()
        assert info.stamp == second != first
        third = bucket.write_if("k", b"six", expected_tag=tag_of(bucket, "k"))
        (info,) = bucket.list()
        assert info.stamp not in {first, second}
        assert third == tag_of(bucket, "k")

    # -- tags and conditional puts -------------------------------------------------------------------------------

    def test_tag_changes_with_the_bytes_and_is_the_same_everywhere(self, bucket: Bucket) -> None:
        bucket.write("k", b"one")
        first = tag_of(bucket, "k")
        assert bucket.read_tagged("k", unless_tag=first) is None
        bucket.write("k", b"two")
        second = bucket.read_tagged("k", unless_tag=first)
        assert second is not None
        assert bytes(second.body) == b"two"
        assert second.tag == tag_of(bucket, "k") != first

    def test_conditional_create_makes_an_object_once(self, bucket: Bucket) -> None:
        tag = bucket.write_if("k", b"one", expected_tag=None)
        assert tag == tag_of(bucket, "k")
        with pytest.raises(Conflict):
            bucket.write_if("k", b"two", expected_tag=None)
        assert bytes(bucket.read("k")) == b"one"

    def test_conditional_replace_needs_the_current_tag(self, bucket: Bucket) -> None:
        first = bucket.write_if("k", b"one", expected_tag=None)
        second = bucket.write_if("k", b"two", expected_tag=first)
        assert second != first
        with pytest.raises(Conflict):
            bucket.write_if("k", b"three", expected_tag=first)
        assert bytes(bucket.read("k")) == b"two"
        bucket.write("k", b"written by write")
        with pytest.raises(Conflict):
            bucket.write_if("k", b"three", expected_tag=second)

    def test_conditional_replace_of_a_missing_object_is_a_conflict(self, bucket: Bucket) -> None:
        tag = bucket.write_if("k", b"one", expected_tag=None)
        bucket.delete("k")
        with pytest.raises(Conflict):
            bucket.write_if("k", b"two", expected_tag=tag)
        with pytest.raises(NotFound):
            bucket.read("k")

    @pytest.mark.parametrize("operation", ["create", "replace"])
    def test_contended_conditional_put_has_exactly_one_winner(self, bucket: Bucket, operation: str) -> None:
        for round_ in range(2):
            key = f"contended/{round_}"
            tag = None if operation == "create" else bucket.write_if(key, b"start", expected_tag=None)
            start = threading.Barrier(self.contenders)

            def contend(name: int, key: str = key, tag: str | None = tag, start: threading.Barrier = start) -> str:
                start.wait()
                try:
                    return bucket.write_if(key, f"winner {name}".encode(), expected_tag=tag, deadline_s=1)
                except (Conflict, OutcomeUnknown, Unavailable) as error:
                    return type(error).__name__

            with ThreadPoolExecutor(self.contenders) as pool:
                outcomes = list(pool.map(contend, range(self.contenders)))
            winners = [n for n, outcome in enumerate(outcomes) if outcome not in _LOST]
            doubtful = [n for n, outcome in enumerate(outcomes) if outcome == "OutcomeUnknown"]
            stored = int(bytes(bucket.read(key)).split()[1])
            assert len(winners) <= 1, outcomes
            assert stored in (winners or doubtful), (stored, outcomes)

    # -- bounds -----------------------------------------------------------------------------------------------------

    def test_object_larger_than_one_can_be_is_read_in_ranges_only(self, bucket: Bucket) -> None:
        bucket.write("r", bytes(TAGGED_BYTES_MAX + 1))
        assert len(bucket.read("r")) == TAGGED_BYTES_MAX + 1
        with pytest.raises(Corrupt) as caught:
            bucket.read_tagged("r")
        assert caught.value.code == "object_too_large"
        bucket.write("huge", bytes(OBJECT_BYTES_MAX + 1))
        for call in (lambda: bucket.read("huge"), lambda: list(bucket.read_stream("huge"))):
            with pytest.raises(Corrupt) as caught:
                call()
            assert caught.value.code == "object_too_large"
        assert bytes(bucket.read("huge", OBJECT_BYTES_MAX, 1)) == b"\0"
        with pytest.raises(Corrupt):
            read_bounded(bucket, "r", TAGGED_BYTES_MAX)
        assert len(read_bounded(bucket, "r", TAGGED_BYTES_MAX + 1)) == TAGGED_BYTES_MAX + 1

    # -- failures ------------------------------------------------------------------------------------------------

    def test_gone_bucket_is_named_by_every_call(self, bucket: Bucket, request: pytest.FixtureRequest) -> None:
        with open_bucket(request.getfixturevalue("gone"), QUICK) as gone:
            for call in every_call(gone):
                with pytest.raises(NotFound) as caught:
                    call()
                assert caught.value.code == "bucket_not_found"

    def test_wrong_credentials_are_permission_denied(self, bucket: Bucket, request: pytest.FixtureRequest) -> None:
        bucket.write("k", b"x")
        with open_bucket(request.getfixturevalue("denied"), QUICK) as denied:
            for call in every_call(denied):
                with pytest.raises(PermissionDenied):
                    call()
        assert bytes(bucket.read("k")) == b"x"

    # -- threads and processes -----------------------------------------------------------------------------------

    def test_many_threads_share_one_bucket(self, bucket: Bucket) -> None:
        def work(index: int) -> None:
            body = f"{index}".encode() * 1000
            bucket.write(f"t/{index}", body)
            assert bytes(bucket.read(f"t/{index}")) == body
            assert b"".join(bucket.read_stream(f"t/{index}", part_bytes=500)) == body
            bucket.delete(f"t/{index}")

        with ThreadPoolExecutor(32) as pool:
            list(pool.map(work, range(64)))
        assert list(bucket.list()) == []

    def test_child_that_ends_leaves_the_connections_of_its_parent(self, bucket: Bucket) -> None:
        bucket.write("k", b"one")
        stream = bucket.read_stream("k", part_bytes=1)
        parts = [bytes(next(stream))]
        assert run_in_child(drop_buckets) == 0
        assert b"".join([*parts, *map(bytes, stream)]) == b"one"
        bucket.write("k", b"two")
        assert bytes(bucket.read("k")) == b"two"

    # -- what a voter and an owner must know ---------------------------------------------------------------------

    def test_bucket_is_admitted_as_voter(self, bucket: Bucket) -> None:
        verdict = admit(bucket, rounds=10, clients=16, seed=3)
        assert verdict.admitted, verdict
        assert verdict.wins == 10

    def test_check_finds_a_sound_bucket(self, bucket: Bucket, location: BucketLocation) -> None:
        report = check_bucket(bucket, location, contend=False, throughput_bytes=1 << 16)
        assert report.problems == ()
        assert (report.clock_skew_s is not None) == location.is_cloud
        assert abs(report.clock_skew_s or 0.0) < 5
        assert list(bucket.list(".skyhold-check/")) == []

    def test_rules_of_the_bucket_are_reported_where_there_are_any(self, bucket: Bucket) -> None:
        in_memory = bucket.url.startswith("memory:")
        assert bucket.rules().retention.verdict == ("unknown" if in_memory else "absent")

    def test_name_and_url_are_reported(self, bucket: Bucket, location: BucketLocation) -> None:
        assert bucket.name == location.name
        assert bucket.url == location.url


_LOST = {"Conflict", "OutcomeUnknown", "Unavailable"}


def _consume(result: object) -> object:
    return list(result) if isinstance(result, Iterator) else result


def every_call(bucket: Bucket) -> list[Callable[[], object]]:
    return [
        lambda: bucket.read("k"),
        lambda: list(bucket.read_stream("k")),
        lambda: bucket.read_tagged("k"),
        lambda: bucket.write("k", b"y"),
        lambda: bucket.write_if("new", b"y", expected_tag=None),
        lambda: list(bucket.list()),
        lambda: bucket.delete("k"),
    ]


def tag_of(bucket: Bucket, key: str) -> str:
    tagged = bucket.read_tagged(key)
    assert tagged is not None, "only a read under `unless_tag` may answer None"
    return tagged.tag


def run_in_child(work: Callable[[], None]) -> int:
    """The exit status of a forked child that ran `work`: 0 when it succeeded, 1 when it raised, 2 when it hung."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - a child must not return into pytest
            os.write(2, f"child: {type(error).__name__}: {error}\n".encode())
            os._exit(1)
    give_up_s = time.monotonic() + CHILD_S_MAX
    while time.monotonic() < give_up_s:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return 2


def drop_buckets() -> None:
    """What the end of an interpreter does to its buckets, and to the connections in them."""
    for held in gc.get_objects():
        if isinstance(held, Bucket):
            vars(held).clear()
    gc.collect()
