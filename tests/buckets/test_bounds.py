"""What a store may cost a reader in bytes and in time: each fault of an S3 server ends soon, in little memory, with an
error of ours; and the rules that every driver shares."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from skyhold.buckets.bounded import LISTED_KEYS_MAX, Pages, listed, read_bounded
from skyhold.buckets.bucket import OBJECT_BYTES_MAX, TAGGED_BYTES_MAX, Bucket, ObjectInfo
from skyhold.buckets.open import open_bucket
from skyhold.buckets.retry import RetryPolicy
from skyhold.codec.frame import FRAME_BYTES_MAX
from skyhold.consensus.acceptor_object import ACCEPTOR_BYTES_MAX
from skyhold.consensus.checkpoint import CHECKPOINT_BYTES_MAX
from skyhold.errors import Corrupt, SkyholdError, Unavailable
from skyhold.storage.object_keys import STORE_DOCUMENT_BYTES_MAX
from skyhold.storage.pack import PACK_BYTES_MAX
from tests.faults.faulty_s3 import CREDENTIALS, FaultyS3, faulty_s3
from tests.faults.s3_faults import LISTS, READS, WRITES, Kind, S3Fault

POLICY = RetryPolicy(attempts_max=2, total_s=3.0, first_delay_s=0.01, delay_s_max=0.05, stall_timeout_s=0.6)
BOUND_S = 8.0
"""Two attempts that stall, and room for a busy machine."""
MEMORY_BYTES_MAX = 160 << 20
BODY = b"0123456789" * 100
Read = Callable[[Bucket], object]

CALLS: dict[str, Read] = {
    "read": lambda bucket: bucket.read("k"),
    "range": lambda bucket: bucket.read("k", 10, 500),
    "rest": lambda bucket: bucket.read("k", 10),
    "stream": lambda bucket: list(bucket.read_stream("k")),
    "bounded": lambda bucket: read_bounded(bucket, "k", 2000),
    "tagged": lambda bucket: bucket.read_tagged("k"),
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with faulty_s3() as server:
        yield server


@pytest.fixture
def bucket(server: FaultyS3) -> Iterator[Bucket]:
    with open_bucket(server.location("a"), POLICY) as bucket:
        for number in range(3):
            bucket.write(f"l/{number}", b"x")
        bucket.write("k", BODY)
        yield bucket


@pytest.fixture
def cheap() -> Iterator[None]:
    """The test takes little memory and ends soon."""
    began_s, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.monotonic() - began_s < BOUND_S
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < MEMORY_BYTES_MAX


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("size_bytes", [3 << 30, 20 << 30], ids=["3 GiB", "20 GiB"])
@pytest.mark.parametrize("kind", ["oversize", "sparse", "excess"])
def test_object_that_is_far_too_large_is_refused_before_it_is_taken_in(
    server: FaultyS3, bucket: Bucket, cheap: None, kind: Kind, size_bytes: int, call: str
) -> None:
    server.inject(S3Fault(kind, key="k", size_bytes=size_bytes))
    try:
        CALLS[call](bucket)
    except SkyholdError as error:
        assert error.code in {"object_too_large", "truncated_reply", "bucket_misbehaves"}
    else:
        assert kind == "excess" or (call == "range" and kind in {"sparse", "oversize"})


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ["gzip_bomb", "wrong_range", "ignore_range", "short", "truncate"])
def test_reply_of_other_bytes_than_were_asked_for_is_an_error_or_the_bytes_that_it_declares(
    server: FaultyS3, bucket: Bucket, cheap: None, kind: Kind, call: str
) -> None:
    server.inject(S3Fault(kind, key="k", size_bytes=1 << 30))
    try:
        CALLS[call](bucket)
    except SkyholdError as error:
        assert error.exit_status in {2, 8, 10}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ["drip", "silent"])
def test_reply_that_drips_or_does_not_come_is_given_up(
    server: FaultyS3, bucket: Bucket, cheap: None, kind: Kind, call: str
) -> None:
    server.inject(S3Fault(kind, key="k", delay_s=0.2, calls=READS))
    with pytest.raises(Unavailable):
        CALLS[call](bucket)
    if kind == "drip" and call != "tagged":
        assert server.count() == 1, "what drips is not asked again"


@pytest.mark.parametrize(
    "kind",
    ["endless_empty", "repeating", "unordered", "outside_prefix", "negative_sizes", "wrong_sizes", "malformed",
     "entities", "drip", "silent", "error"],
)  # fmt: skip
def test_listing_that_breaks_its_promises_is_given_up(
    server: FaultyS3, bucket: Bucket, cheap: None, kind: Kind
) -> None:
    server.inject(S3Fault(kind, delay_s=0.05, calls=LISTS, size_bytes=1 << 62 if kind == "wrong_sizes" else 1000))
    with pytest.raises(SkyholdError) as caught:
        list(bucket.list("l/"))
    assert caught.value.code in {
        "bucket_misbehaves", "listing_out_of_order", "truncated_reply", "unavailable"
    }  # fmt: skip
    time.sleep(0.3)  # for what was under way
    sent = server.count()
    time.sleep(0.3)
    assert server.count() == sent, "nothing goes on behind our back"


@pytest.mark.parametrize("kind", ["huge_page", "error"])
def test_page_or_error_of_20_gib_is_not_taken_in(server: FaultyS3, bucket: Bucket, cheap: None, kind: Kind) -> None:
    server.inject(S3Fault(kind, calls=READS | WRITES | LISTS))
    calls: list[Read] = [lambda bucket: list(bucket.list("l/"))]
    if kind == "error":
        calls += [lambda bucket: bucket.read("k"), lambda bucket: bucket.write("k", BODY)]
    for call in calls:
        with pytest.raises(Unavailable):
            call(bucket)


def test_listing_that_is_slow_in_all_is_given_up(cheap: None) -> None:
    """Each page comes in time, and has keys."""
    pages = Pages("lab", POLICY)
    with pytest.raises(Unavailable) as caught:
        for number in range(1000):
            pages.fetch(lambda: time.sleep(0.1))
            pages.turn(str(number), 5)
    assert caught.value.code == "bucket_misbehaves"
    assert "has listed" in str(caught.value)


def test_bucket_whose_listing_was_given_up_is_not_listed_again_by_the_same_command(
    server: FaultyS3, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.inject(S3Fault("endless"))
    monkeypatch.setattr("skyhold.buckets.bounded.LISTED_KEYS_MAX", 3000)
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            list(bucket.list("l/"))
        assert caught.value.code == "bucket_misbehaves"
    assert server.count("LIST") <= 5
    server.inject()
    with open_bucket(server.location("a"), POLICY) as of_the_next_command:
        assert len(list(of_the_next_command.list("l/"))) == 3


def test_listing_without_end_is_given_up_by_a_clock(server: FaultyS3, bucket: Bucket, cheap: None) -> None:
    server.inject(S3Fault("endless"))
    with open_bucket(server.location("a"), replace(POLICY, stall_timeout_s=0.1)) as hurried, pytest.raises(Unavailable):
        list(hurried.list("l/"))


def test_rate_of_a_listing_leaves_out_the_time_of_who_takes_it() -> None:
    pages = Pages("lab", replace(POLICY, stall_timeout_s=0.02))
    for number in range(4):
        pages.fetch(lambda: None)
        time.sleep(0.05)
        pages.turn(str(number), 1)


@pytest.mark.parametrize("kind", ["silent", "drip", "endless"])
def test_closing_a_bucket_ends_the_calls_that_are_under_way(server: FaultyS3, kind: Kind) -> None:
    patient = open_bucket(server.location("a"))  # it waits for 20 s and longer
    server.inject(S3Fault(kind, delay_s=0.5))
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(lambda: list(patient.list())), threads.submit(lambda: patient.read("k"))]
        time.sleep(0.5)
        patient.close()
        errors = [call.exception(timeout=15) for call in calls]  # less than what they wait for
    assert isinstance(errors[0], Unavailable)
    assert errors[0].code == "bucket_closed"


def test_listing_without_end_is_given_up_after_as_many_objects_as_there_can_be(
    server: FaultyS3, bucket: Bucket, cheap: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyhold.buckets.bounded.LISTED_KEYS_MAX", 5000)
    server.inject(S3Fault("endless"))
    with pytest.raises(Unavailable) as caught:
        list(bucket.list("l/"))
    assert caught.value.code == "bucket_misbehaves"
    assert server.count("LIST") < 10


def test_names_that_are_no_keys_do_not_leave_a_listing(server: FaultyS3, bucket: Bucket) -> None:
    for name in ("l/white space", "l/" + "k" * 600):
        server.buckets["a"].put(name, b"x")
    assert [info.key for info in bucket.list("l/")] == ["l/0", "l/1", "l/2"]
    server.inject(S3Fault("foreign_keys"))
    with pytest.raises(Unavailable) as caught:
        list(bucket.list("l/"))
    assert caught.value.code == "bucket_misbehaves"


@pytest.mark.parametrize("kind", ["silent", "drip_head", "drop", "redirect"])
def test_any_call_ends_when_the_store_does_not_answer_it(server: FaultyS3, bucket: Bucket, kind: Kind) -> None:
    server.inject(S3Fault(kind, delay_s=0.2, calls=READS | WRITES | LISTS))
    began_s = time.monotonic()
    for call in (lambda: bucket.delete("k"), lambda: bucket.write_if("k", b"x", expected_tag=None, deadline_s=1.0)):
        with pytest.raises(SkyholdError):
            call()
    assert time.monotonic() - began_s < BOUND_S


def test_bounds_of_the_port_hold_every_object_of_the_format() -> None:
    assert max(PACK_BYTES_MAX, FRAME_BYTES_MAX, CHECKPOINT_BYTES_MAX) <= OBJECT_BYTES_MAX
    assert max(ACCEPTOR_BYTES_MAX, STORE_DOCUMENT_BYTES_MAX) <= TAGGED_BYTES_MAX


# -- the shared rules ------------------------------------------------------------------------------------------------


def infos(*keys: str, size_bytes: int = 1) -> list[ObjectInfo]:
    return [ObjectInfo(key, size_bytes, "", datetime.now(UTC)) for key in keys]


@pytest.mark.parametrize(
    "found",
    [infos("p/b", "p/a"), infos("p/a", "p/a"), infos("q/a"), infos("../p/a"), infos("p/a", size_bytes=-1),
     infos("p/a", size_bytes=1 << 61)],
)  # fmt: skip
def test_listing_is_refused_unless_it_ascends_under_its_prefix(found: list[ObjectInfo]) -> None:
    with pytest.raises(Unavailable) as caught:
        list(listed("lab", "p/", "", found))
    assert caught.value.code == "bucket_misbehaves"


def test_listing_after_a_key_begins_after_it() -> None:
    with pytest.raises(Unavailable):
        list(listed("lab", "p/", "p/b", infos("p/b")))
    assert [info.key for info in listed("lab", "p/", "p/b", infos("p/c"))] == ["p/c"]


def test_endless_listing_ends() -> None:
    assert LISTED_KEYS_MAX >= 1 << 20
    endless = (ObjectInfo(f"k{number:015d}", 0, "", None) for number in iter(int, 1))
    with pytest.raises(Unavailable):
        list(listed("lab", "", "", endless))


def test_pages_without_objects_or_with_the_same_token_end() -> None:
    with pytest.raises(Unavailable):
        for number in range(10_000):
            Pages("lab", POLICY).turn("t", 1)
            Pages("lab", POLICY).turn(str(number), 0)
            if number == 1:
                pages = Pages("lab", POLICY)
                pages.turn("t", 5)
                pages.turn("t", 5)
    pages = Pages("lab", POLICY)
    with pytest.raises(Unavailable):
        for number in range(10_000):
            pages.turn(str(number), 0)


def test_object_too_large_to_be_read_is_corrupt(server: FaultyS3, bucket: Bucket) -> None:
    bucket.write("k", bytes(TAGGED_BYTES_MAX + 1))
    with pytest.raises(Corrupt) as caught:
        bucket.read_tagged("k")
    assert caught.value.code == "object_too_large"
    assert len(bucket.read("k")) == TAGGED_BYTES_MAX + 1
