"""Watching a register on the buckets: the nearest voter is polled, a majority confirms."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from skyhold.consensus import buckets as engine
from skyhold.consensus.acceptor_object import object_key
from skyhold.consensus.register import Versioned
from tests.consensus.conformance import KEY
from tests.consensus.fixtures import FlakyBucket, bucket_registers, new_buckets, wait_until, wait_until_at_rest

TWO = [Versioned(2, b"two")]


@pytest.fixture
def gets(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Of each read, the bucket and whether it answered that nothing has changed."""
    asked: list[tuple[str, bool]] = []
    read_tagged = FlakyBucket.read_tagged

    def get(bucket: FlakyBucket, key: str, **options: str) -> object:
        found = read_tagged(bucket, key, **options)
        asked.append((bucket.name, found is None))
        return found

    monkeypatch.setattr(FlakyBucket, "read_tagged", get)
    return asked


def test_quiet_register_is_watched_at_one_voter_by_conditional_reads(gets: list[tuple[str, bool]]) -> None:
    buckets = new_buckets(3)
    bucket_registers(buckets).compare_and_set(KEY, 0, b"one", "a")
    watching = bucket_registers(buckets)
    for _ in range(3):
        watching.read(KEY)
    wait_until(lambda: len(gets) >= 9)
    gets.clear()
    assert watching.watch(KEY, 1, timeout_s=0.5) == []
    counts = sorted(Counter(name for name, _ in gets).values())
    assert counts[-1] >= 5
    assert sum(counts[:-1]) <= 4  # a majority is read at the beginning and at the end
    assert all(unchanged for _, unchanged in gets)


def test_change_that_the_nearest_voter_shows_is_confirmed_and_returned() -> None:
    buckets = new_buckets(3)
    registers = bucket_registers(buckets)
    registers.compare_and_set(KEY, 0, b"one", "a")
    watching = bucket_registers(buckets)
    timer = threading.Timer(0.1, registers.compare_and_set, (KEY, 1, b"two", "b"))
    timer.start()
    try:
        assert watching.watch(KEY, 1, timeout_s=20) == TWO
    finally:
        timer.join()


def test_nearest_voter_that_shows_an_old_state_hides_a_change_only_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "WATCH_MAJORITY_S", 0.3)
    buckets = new_buckets(3)
    registers = bucket_registers(buckets)
    registers.compare_and_set(KEY, 0, b"one", "a")
    wait_until_at_rest(registers, KEY)
    stale = bytes(buckets[0].read(object_key(1, KEY)))
    watching = bucket_registers(buckets)
    watching.read(KEY)
    registers.compare_and_set(KEY, 1, b"two", "b")
    wait_until_at_rest(registers, KEY)
    buckets[0].write(object_key(1, KEY), stale)
    monkeypatch.setattr(watching, "_read", _once_old(watching))
    for name, client in watching._clients.items():
        client.away_s = 0.0 if name == "cloud-0" else 1.0
    assert watching.watch(KEY, 1, timeout_s=20) == TWO


def _once_old(watching: engine.BucketRegisters) -> object:
    """The first read of a watch finds what was there before the change."""
    before, read = watching._confirmed[KEY].kept, watching._read
    answers = iter([before])
    return lambda key: next(answers, None) or read(key)


def test_nearest_voter_that_does_not_answer_is_left_for_another() -> None:
    buckets = new_buckets(3)
    registers = bucket_registers(buckets)
    registers.compare_and_set(KEY, 0, b"one", "a")
    watching = bucket_registers(buckets)
    watching.read(KEY)
    nearest = min(watching._clients.values(), key=lambda client: client.away_s)
    gone = next(bucket for bucket in buckets if bucket.name == nearest.voter.name)
    gone.away = True
    timer = threading.Timer(0.2, registers.compare_and_set, (KEY, 1, b"two", "b"))
    timer.start()
    try:
        assert watching.watch(KEY, 1, timeout_s=20) == TWO
    finally:
        timer.join()
    assert nearest.away_s == float("inf")
