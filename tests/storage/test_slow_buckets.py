"""Buckets that stall: skipped by a push once the others suffice, and by a read at its deadline."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from skyhold.consensus.parallel import CALLS_AT_ONCE, at_once
from skyhold.errors import Cancelled, Corrupt, PermissionDenied, SkyholdError, Unavailable
from skyhold.storage import packer as packing
from skyhold.storage import replica_write
from skyhold.storage import replicas as replicas_module
from skyhold.storage.cancel import Cancel, cancelled_by
from skyhold.storage.object_keys import pack_key
from skyhold.storage.pack import PACK_BYTES_TARGET
from skyhold.storage.replicas import Replicas
from tests.storage.fixtures import FlakyBucket, Setup, refusing
from tests.storage.test_push_pull import write_tree


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Stalls end when it is set, at the end of the test at the latest."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_write, "LAGGING_AFTER_S", 0.2)
    monkeypatch.setattr(replicas_module, "CHECK_INTERVAL_S", 0.05)
    monkeypatch.setattr(packing, "_SLOWNESS_CHECK_S", 0.05)


def failing(error: SkyholdError) -> Callable[[str], None]:
    def fail(_key: str) -> None:
        raise error

    return fail


def stalling(released: threading.Event) -> Callable[[str], None]:
    def stall(_key: str) -> None:
        released.wait()  # without a limit: what waited for it would go on once the limit had passed

    return stall


@pytest.mark.usefixtures("impatient")
def test_a_bucket_that_stalls_is_lagging_once_the_others_suffice(tmp_path: Path, released: threading.Event) -> None:
    buckets = [FlakyBucket(name) for name in "abc"]
    buckets[2].on_write = stalling(released)
    setup = Setup(tmp_path / "state", buckets, copies=2)
    setup.push(write_tree(tmp_path / "in", {"x": b"x" * 5000}))
    assert not released.is_set()
    assert setup.replicas.lagging["c"].code == "bucket_slow"
    assert buckets[2].keys() == []
    assert buckets[0].keys() == buckets[1].keys()
    released.set()
    setup.close()


@pytest.mark.usefixtures("impatient")
def test_a_push_that_waits_for_buffers_skips_the_bucket_that_holds_them(
    tmp_path: Path, released: threading.Event
) -> None:
    """All buffers are lent to packs that one bucket does not take; they come back when its driver gives up."""
    buckets = [FlakyBucket(name) for name in "ab"]
    buckets[1].on_write = stalling(released)
    setup = Setup(tmp_path / "state", buckets)
    data = random.Random(1).randbytes(4 * PACK_BYTES_TARGET)
    pushing = ThreadPoolExecutor(1).submit(setup.push, write_tree(tmp_path / "in", {"x": data}))
    deadline_s = time.monotonic() + 20
    while "b" not in setup.replicas.lagging and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert setup.replicas.lagging["b"].code == "bucket_slow"
    assert not pushing.done()
    released.set()
    _, pushed = pushing.result(timeout=20)
    assert set(buckets[0].keys("packs/")) == {pack_key(pack) for pack in pushed.packs_sent}
    assert len(buckets[1].keys("packs/")) <= 2, "packs were sent to a bucket that had been skipped"
    setup.close()


@pytest.mark.usefixtures("impatient")
def test_a_bucket_that_the_policy_needs_is_not_skipped(tmp_path: Path, released: threading.Event) -> None:
    buckets = [FlakyBucket(name) for name in "ab"]

    def stall_for_a_second(_key: str) -> None:
        threading.Timer(1.0, released.set).start()  # from the call on, however late a busy machine makes it
        released.wait()

    buckets[1].on_write = stall_for_a_second
    setup = Setup(tmp_path / "state", buckets, copies=2)
    setup.push(write_tree(tmp_path / "in", {"x": b"x" * 5000}))
    assert setup.replicas.lagging == {}
    assert buckets[0].keys() == buckets[1].keys()
    setup.close()


@pytest.mark.parametrize("count", [1, 2])
def test_a_read_that_no_bucket_answers_ends_at_its_deadline(
    count: int, monkeypatch: pytest.MonkeyPatch, released: threading.Event
) -> None:
    monkeypatch.setattr(replicas_module, "STALL_S", 0.05)
    monkeypatch.setattr(replicas_module, "READ_DEADLINE_S", 0.3)
    buckets = [FlakyBucket(name) for name in "ab"[:count]]
    for bucket in buckets:
        bucket.on_read = stalling(released)
    replicas = Replicas(buckets, bool)
    begun_s = time.monotonic()
    with pytest.raises(Unavailable, match="no answer in time"):
        replicas.read("k")
    assert time.monotonic() - begun_s > 0.25
    released.set()  # until now no bucket has answered
    replicas.close()


def test_as_many_reads_as_an_operation_makes_at_once_skip_a_bucket_that_stalls(
    released: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas_module, "STALL_S", 0.2)
    monkeypatch.setattr(replicas_module, "READ_DEADLINE_S", 5.0)
    buckets = [FlakyBucket(name) for name in "ab"]
    for bucket in buckets:
        bucket.write("x", b"bytes")
    buckets[0].on_read = stalling(released)
    replicas = Replicas(buckets, bool)
    assert at_once(lambda _: bytes(replicas.read("x")), range(CALLS_AT_ONCE), "read") == [b"bytes"] * CALLS_AT_ONCE
    released.set()
    replicas.close()


def test_the_error_of_an_only_bucket_is_raised_as_it_is() -> None:
    bucket = FlakyBucket("a")
    bucket.on_read = failing(PermissionDenied("no", code="access_denied"))
    replicas = Replicas([bucket], bool)
    with pytest.raises(PermissionDenied, match="no") as caught:
        replicas.read("k")
    assert "No bucket returns" not in caught.value.message
    replicas.close()


@pytest.mark.parametrize("names", ["a", "abc"])
def test_what_every_bucket_has_lost_is_damage(names: str) -> None:
    buckets = [FlakyBucket(name) for name in names]
    buckets[0].write("short", b"12")
    replicas = Replicas(buckets, bool)
    for key, start in (("gone", 0), ("short", 5)):
        with pytest.raises(Corrupt, match=key) as caught:
            replicas.read(key, start, 1)
        assert caught.value.code == "object_lost"
    replicas.close()


def test_what_a_bucket_that_is_away_may_have_is_unavailable() -> None:
    buckets = [FlakyBucket(name) for name in "ab"]
    buckets[1].on_read = failing(Unavailable("away", code="away"))
    replicas = Replicas(buckets, bool)
    with pytest.raises(Unavailable):
        replicas.read("gone")
    replicas.close()


@pytest.mark.parametrize("names", ["a", "ab"])
def test_reads_that_the_network_cuts_short_advise_to_try_again(names: str) -> None:
    buckets = [FlakyBucket(name) for name in names]
    for bucket in buckets:
        bucket.write("k", b"content")
        bucket.on_read = refusing(Unavailable("The reply was cut short", code="truncated_reply"))
    replicas = Replicas(buckets, bool)
    with pytest.raises(Unavailable) as caught:
        replicas.read("k", 0, 7)
    assert caught.value.code == "truncated_reply"
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("Try again")
    assert caught.value.retryable
    replicas.close()


def test_what_waits_for_a_bucket_that_stalls_notices_that_it_was_cancelled(released: threading.Event) -> None:
    bucket = FlakyBucket("a")
    bucket.write("k", b"x")
    bucket.on_read = bucket.on_write = stalling(released)
    cancel = Cancel()
    with cancelled_by(cancel, None):
        replicas = Replicas([bucket], bool)
    threading.Timer(0.2, cancel.cancel).start()
    with pytest.raises(Cancelled):
        replicas.read("k")
    with pytest.raises(Cancelled):
        replicas.write([("other", b"y")])
    released.set()
    replicas.close()
