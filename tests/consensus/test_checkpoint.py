from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyhold.consensus.checkpoint import (
    CHECKPOINT_BYTES_MAX,
    CHECKPOINTS_KEPT,
    Holders,
    checkpoint_prefix,
    parse_checkpoint_key,
)
from skyhold.consensus.framed_registers import FRAMED_DATA_BYTES_MAX, FramedRegisters
from skyhold.consensus.recovery import recover_registers, restore
from skyhold.consensus.register import Registers, Versioned
from skyhold.consensus.sqlite import SqliteRegisters
from skyhold.errors import Conflict, Corrupt, OutcomeUnknown
from tests.consensus.conformance import KEY, RegistersConformance
from tests.consensus.fixtures import KEYS, MACHINE, NAME_KEY, FlakyBucket, checkpointed, new_buckets


class TestCheckpointedRegisters(RegistersConformance):
    data_bytes_max = FRAMED_DATA_BYTES_MAX

    @pytest.fixture
    def registers(self, tmp_path: Path) -> Iterator[Registers]:  # type: ignore[override]
        registers = checkpointed(tmp_path / "registers.sqlite", new_buckets())
        yield registers
        registers.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registers.sqlite"


@pytest.fixture
def buckets() -> list[FlakyBucket]:
    return new_buckets()


def checkpoint_keys(bucket: FlakyBucket) -> list[str]:
    return [info.key for info in bucket.list("checkpoints/")]


def newest(buckets: list[FlakyBucket]) -> dict[str, Versioned]:
    return {key: found.value for key, found in recover_registers(buckets, KEYS, NAME_KEY).checkpoints.items()}


def test_acknowledged_change_is_recovered_from_any_one_bucket(path: Path, buckets: list[FlakyBucket]) -> None:
    registers = checkpointed(path, buckets)
    registers.compare_and_set(KEY, 0, b"one", "a")
    registers.compare_and_set(KEY, 1, b"two", "b")
    registers.compare_and_set("names", 0, b"names", "a")
    for bucket in buckets:
        assert newest([bucket]) == {KEY: Versioned(2, b"two"), "names": Versioned(1, b"names")}


def test_checkpoints_hold_the_digest_of_the_one_before(path: Path, buckets: list[FlakyBucket]) -> None:
    registers = checkpointed(path, buckets)
    registers.compare_and_set(KEY, 0, b"one", "a")
    first = recover_registers(buckets, KEYS, NAME_KEY).checkpoints[KEY]
    registers.compare_and_set(KEY, 1, b"two", "b")
    second = recover_registers(buckets, KEYS, NAME_KEY).checkpoints[KEY]
    assert first.previous is None
    assert second.previous == hashlib.sha256(first.encode()).hexdigest()
    assert second.machine == MACHINE


def test_change_is_acknowledged_with_one_bucket_away(path: Path, buckets: list[FlakyBucket]) -> None:
    buckets[0].away = True
    assert checkpointed(path, buckets).compare_and_set(KEY, 0, b"one", "a").version == 1
    recovery = recover_registers(buckets, KEYS, NAME_KEY)
    assert recovery.checkpoints[KEY].value == Versioned(1, b"one")
    assert recovery.answered == ["cloud-1", "cloud-2"]
    assert list(recovery.failed) == ["cloud-0"]


def test_change_that_too_few_buckets_took_is_reported_and_completed_by_a_retry(
    path: Path, buckets: list[FlakyBucket]
) -> None:
    registers = checkpointed(path, buckets)
    buckets[0].away = buckets[2].away = True
    with pytest.raises(OutcomeUnknown, match="1 of the 2 buckets") as caught:
        registers.compare_and_set(KEY, 0, b"one", "a")
    assert caught.value.fields["buckets"] == ["cloud-0", "cloud-2"]
    assert registers.read(KEY) == Versioned(1, b"one")
    buckets[2].away = False
    assert registers.compare_and_set(KEY, 0, b"one", "a") == Versioned(1, b"one")
    assert newest([buckets[2]]) == {KEY: Versioned(1, b"one")}


def test_pending_checkpoint_is_written_by_the_next_opener(path: Path, buckets: list[FlakyBucket]) -> None:
    SqliteRegisters(path).close()
    for bucket in buckets:
        bucket.away = True
    with pytest.raises(OutcomeUnknown):
        checkpointed(path, buckets).compare_and_set(KEY, 0, b"one", "a")
    for bucket in buckets:
        bucket.away = False
    opened = checkpointed(path, buckets)
    assert opened.flush() == (KEY,)
    assert opened.flush() == ()
    assert newest(buckets) == {KEY: Versioned(1, b"one")}


def test_checkpoint_is_written_before_the_change_is_acknowledged(path: Path, buckets: list[FlakyBucket]) -> None:
    acknowledged: list[bool] = []
    written_before: list[bool] = []
    for bucket in buckets:
        bucket.before_write = lambda: written_before.append(not acknowledged)
    checkpointed(path, buckets).compare_and_set(KEY, 0, b"one", "a")
    acknowledged.append(True)
    assert written_before == [True] * 3


def test_stalled_bucket_does_not_delay_a_change(
    path: Path, buckets: list[FlakyBucket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyhold.consensus.checkpoint.STRAGGLER_GRACE_S", 0.05)
    release = threading.Event()
    buckets[1].before_write = lambda: release.wait() and None
    try:
        checkpointed(path, buckets).compare_and_set(KEY, 0, b"one", "a")
        assert not release.is_set()
    finally:
        release.set()


def test_only_the_last_checkpoints_are_kept(path: Path, buckets: list[FlakyBucket]) -> None:
    registers = checkpointed(path, buckets)
    for version in range(4 * CHECKPOINTS_KEPT):
        registers.compare_and_set(KEY, version, b"%d" % version, f"o{version}")
        assert len(checkpoint_keys(buckets[0])) < 2 * CHECKPOINTS_KEPT
    places = [parse_checkpoint_key(key) for key in checkpoint_keys(buckets[0])]
    assert [place[2] for place in places if place] == list(range(3 * CHECKPOINTS_KEPT + 1, 4 * CHECKPOINTS_KEPT + 1))


def test_damaged_checkpoint_is_named_and_another_copy_taken(path: Path, buckets: list[FlakyBucket]) -> None:
    registers = checkpointed(path, buckets)
    registers.compare_and_set(KEY, 0, b"one", "a")
    registers.compare_and_set(KEY, 1, b"two", "b")
    damaged = checkpoint_keys(buckets[0])[-1]
    for place in range(len(buckets[0].read(damaged))):
        body = bytearray(buckets[1].read(damaged))
        body[place] ^= 0x41
        buckets[0].write(damaged, body)
        recovery = recover_registers(buckets, KEYS, NAME_KEY)
        assert recovery.checkpoints[KEY].value == Versioned(2, b"two")
        assert [(copy.bucket, copy.key) for copy in recovery.damaged] == [("cloud-0", damaged)]
    assert newest([buckets[0]]) == {KEY: Versioned(1, b"one")}


def test_an_object_that_is_too_long_for_a_checkpoint_is_not_read_into_memory(
    path: Path, buckets: list[FlakyBucket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any client that can write to one bucket could else fill the memory of the machine that recovers."""
    registers = checkpointed(path, buckets)
    registers.compare_and_set(KEY, 0, b"one", "a")
    key = checkpoint_keys(buckets[0])[0]
    taken_bytes = 0
    read_stream = FlakyBucket.read_stream

    def endless(bucket: FlakyBucket, object_key: str, **options: int) -> Iterator[bytes | bytearray | memoryview]:
        nonlocal taken_bytes
        if bucket is not buckets[0]:
            yield from read_stream(bucket, object_key, **options)
            return
        for _ in range(1000):
            taken_bytes += 10_000
            yield bytes(10_000)

    monkeypatch.setattr(FlakyBucket, "read_stream", endless)
    recovery = recover_registers(buckets, KEYS, NAME_KEY)
    assert recovery.checkpoints[KEY].value == Versioned(1, b"one")
    assert [(copy.bucket, copy.key) for copy in recovery.damaged] == [("cloud-0", key)]
    assert taken_bytes <= CHECKPOINT_BYTES_MAX + 20_000


def test_the_largest_register_has_a_checkpoint_that_is_read(path: Path, buckets: list[FlakyBucket]) -> None:
    registers = checkpointed(path, buckets)
    data = os.urandom(FRAMED_DATA_BYTES_MAX)
    registers.compare_and_set(KEY, 0, data, "a")
    registers.seal(KEY, 1, os.urandom(FRAMED_DATA_BYTES_MAX))
    assert newest(buckets)[KEY].data == data


def test_checkpoint_under_the_name_of_another_change_is_damaged(path: Path, buckets: list[FlakyBucket]) -> None:
    registers = checkpointed(path, buckets)
    registers.compare_and_set(KEY, 0, b"one", "a")
    key = checkpoint_keys(buckets[0])[0]
    replayed = key.replace("-0000000000000001-", "-0000000000000009-")
    buckets[0].write(replayed, buckets[0].read(key))
    recovery = recover_registers(buckets, KEYS, NAME_KEY)
    assert recovery.checkpoints[KEY].value == Versioned(1, b"one")
    assert [copy.key for copy in recovery.damaged] == [replayed]


def test_recovered_machine_goes_on_and_outranks_the_old_one(path: Path, buckets: list[FlakyBucket]) -> None:
    old = checkpointed(path, buckets)
    for version in range(3):
        old.compare_and_set(KEY, version, b"%d" % version, f"o{version}")
    recovery = recover_registers(buckets, KEYS, NAME_KEY)
    epoch = recovery.checkpoints[KEY].epoch + 1
    new = checkpointed(path.with_name("new.sqlite"), buckets, epoch=epoch, machine="b2" * 16)
    restore(recovery.checkpoints, new)
    assert new.read(KEY) == Versioned(3, b"2")
    new.compare_and_set(KEY, 3, b"new", "n")
    for version in range(3, 9):
        old.compare_and_set(KEY, version, b"old", f"late{version}")
    assert newest(buckets) == {KEY: Versioned(4, b"new")}


def test_machine_that_was_recovered_elsewhere_acknowledges_nothing(path: Path, buckets: list[FlakyBucket]) -> None:
    registers = checkpointed(path, buckets, epoch=1)
    registers.compare_and_set(KEY, 0, b"one", "a")
    buckets[1].epoch = 2
    with pytest.raises(Conflict) as caught:
        registers.compare_and_set(KEY, 1, b"two", "b")
    assert caught.value.code == "store_recovered_elsewhere"
    with pytest.raises(Conflict):
        registers.compare_and_set(KEY, 1, b"two", "b")


def test_machine_that_another_has_recovered_at_the_same_term_acknowledges_nothing(
    path: Path, buckets: list[FlakyBucket]
) -> None:
    registers = checkpointed(path, buckets, epoch=1)
    registers.compare_and_set(KEY, 0, b"one", "a")
    for bucket in buckets:
        bucket.epoch, bucket.machine = 1, "b2" * 16
    with pytest.raises(Conflict) as caught:
        registers.compare_and_set(KEY, 1, b"two", "b")
    assert caught.value.code == "store_recovered_elsewhere"


def test_nothing_follows_on_a_seal_that_no_bucket_took(path: Path, buckets: list[FlakyBucket]) -> None:
    registers = checkpointed(path, buckets, epoch=1)
    registers.compare_and_set(KEY, 0, b"one", "a")
    for bucket in buckets:
        bucket.epoch = 2
    with pytest.raises(Conflict):
        registers.seal(KEY, 1, b"next")
    with pytest.raises(Conflict) as caught:
        registers.changes(KEY)
    assert caught.value.code == "store_recovered_elsewhere"
    for bucket in buckets:
        bucket.epoch = 1
    assert registers.changes(KEY)[-1].value.sealed
    assert newest(buckets)[KEY].sealed


def test_two_machines_with_one_history_are_found_out(path: Path, buckets: list[FlakyBucket]) -> None:
    checkpointed(path, buckets).compare_and_set(KEY, 0, b"one", "a")
    twin = checkpointed(path.with_name("twin.sqlite"), buckets)
    twin.compare_and_set(KEY, 0, b"another", "a")
    with pytest.raises(Corrupt) as caught:
        recover_registers(buckets, KEYS, NAME_KEY)
    assert caught.value.code == "checkpoints_fork"


def test_same_change_checkpointed_twice_is_one_value(path: Path, buckets: list[FlakyBucket]) -> None:
    registers = checkpointed(path, buckets)
    registers.compare_and_set(KEY, 0, b"one", "a")
    again = checkpointed(path.with_name("again.sqlite"), buckets)
    restore(recover_registers(buckets, KEYS, NAME_KEY).checkpoints, again)
    assert len(checkpoint_keys(buckets[0])) == 2
    assert newest(buckets) == {KEY: Versioned(1, b"one")}


def test_sealed_store_shows_nothing_in_its_checkpoints(path: Path, buckets: list[FlakyBucket]) -> None:
    sealed = dataclasses.replace(KEYS, sealed=True)
    checkpointed(path, buckets, keys=sealed).compare_and_set(KEY, 0, b"plain text here", "a")
    stored = bytes(buckets[0].read(checkpoint_keys(buckets[0])[0]))
    assert b"cGxhaW4gdGV4dCBoZXJl" not in stored
    assert KEY.encode() not in stored
    recovery = recover_registers(buckets, sealed, NAME_KEY)
    assert recovery.checkpoints[KEY].value == Versioned(1, b"plain text here")


def test_seal_is_recovered_with_the_configuration_that_follows(path: Path, buckets: list[FlakyBucket]) -> None:
    registers = checkpointed(path, buckets)
    registers.compare_and_set(KEY, 0, b"one", "a")
    registers.seal(KEY, 1, b"next")
    assert newest(buckets) == {KEY: Versioned(2, b"one", b"next")}


def test_empty_buckets_recover_nothing(buckets: list[FlakyBucket]) -> None:
    recovery = recover_registers(buckets, KEYS, NAME_KEY)
    assert recovery.checkpoints == {}
    assert recovery.answered == ["cloud-0", "cloud-1", "cloud-2"]


def test_checkpoint_that_is_written_while_the_configuration_changes_is_written_to_the_buckets_of_then(
    tmp_path: Path,
) -> None:
    buckets = new_buckets(3)
    registers = checkpointed(tmp_path / "registers.db", buckets[:2])
    registers.compare_and_set("config", 0, b"before", "op-1")
    other = SqliteRegisters(tmp_path / "registers.db")

    def reconfigure() -> None:
        buckets[0].before_write = None
        other.compare_and_set("config", 1, FramedRegisters(other, KEYS)._framed("config", b"after"), "op-2")
        registers._holders = lambda: Holders(tuple(buckets[1:]), 2, other.configured() or 0)

    buckets[0].before_write = reconfigure
    registers.compare_and_set("names", 0, b"one", "op-3")
    prefix = checkpoint_prefix("names", 0, 1, NAME_KEY)
    assert any(info.key.startswith(prefix) for info in buckets[2].list("checkpoints/"))
    assert other.pending_checkpoints() == ("config",)


def test_change_for_one_configuration_is_refused_in_another(tmp_path: Path) -> None:
    registers = checkpointed(tmp_path / "registers.db", new_buckets(3))
    registers.compare_and_set("config", 0, b"before", "op-1")
    configured = registers.configured()
    assert configured == 1
    first = registers.compare_and_set_in(configured, "names", 0, b"one", "op-2")
    registers.compare_and_set("config", 1, b"after", "op-3")
    with pytest.raises(Conflict) as caught:
        registers.compare_and_set_in(configured, "names", 1, b"two", "op-4")
    assert caught.value.code == "membership_changed"
    assert registers.compare_and_set_in(configured, "names", 0, b"one", "op-2") == first  # it was done before
    assert registers.read("names") == first
