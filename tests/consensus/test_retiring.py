"""A register that is damaged at a majority of its voters: refused, retired, and carried into the next epoch."""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest

from skyhold.buckets.location import BucketLocation
from skyhold.consensus.acceptor_object import object_key
from skyhold.consensus.buckets import BucketRegisters
from skyhold.consensus.epochs import StoreRegisters
from skyhold.consensus.migration import CONFIG, NAMES
from skyhold.consensus.retiring import newest_of
from skyhold.errors import Corrupt, OutcomeUnknown, SkyholdError, Unavailable
from skyhold.store.engine_status import catch_up_fully
from skyhold.units import Buffer
from tests.consensus.epochs import REPOSITORY, Epochs
from tests.consensus.fixtures import FlakyBucket, bucket_registers, new_buckets, wait_until_at_rest
from tests.endtoend.stores import catch_up_voters

PROPOSER = "0" * 32


class BucketEpochs(Epochs):
    """Every epoch in the same three buckets, whose `names` lists `created` registers."""

    def __init__(self, created: bool = True) -> None:
        super().__init__((REPOSITORY,))
        self.clouds = new_buckets()
        self.created = created

    def open(self, next_configuration: bytes) -> BucketRegisters:
        return bucket_registers(self.clouds, epoch=int(next_configuration))

    def listed(self, names: object, configuration: bytes) -> dict[str, bool]:
        return dict.fromkeys(self.keys, self.created)


def flip(bucket: FlakyBucket, key: str, epoch: int = 1) -> None:
    name = object_key(epoch, key)
    body = bytearray(bucket.read(name))
    body[-1] ^= 1
    bucket.write(name, bytes(body))


def written(epochs: BucketEpochs, *values: bytes) -> StoreRegisters:
    """A store of epoch 1, whose repository got these values."""
    process = epochs.process()
    process.compare_and_set(CONFIG, 0, b"epoch 1", "config")
    process.compare_and_set(NAMES, 0, b"names", "names")
    for version, value in enumerate(values):
        process.compare_and_set(REPOSITORY, version, value, f"op-{version}")
        wait_until_at_rest(process.current, REPOSITORY)  # type: ignore[arg-type]
    return process


def retire(registers: BucketRegisters, key: str) -> None:
    registers.acceptors.retire(key, (), secrets.token_hex(16))


@pytest.mark.parametrize("damage", [[b"not a frame"], [b""], [b"\0" * 3_000_000]])
def test_damaged_object_takes_no_part_and_a_majority_of_them_is_distinguished_from_voters_that_are_away(
    damage: Sequence[bytes],
) -> None:
    buckets = new_buckets()
    registers = bucket_registers(buckets)
    registers.compare_and_set(REPOSITORY, 0, b"one", "a")
    wait_until_at_rest(registers, REPOSITORY)
    buckets[0].write(object_key(1, REPOSITORY), damage[0])
    assert bucket_registers(buckets).read(REPOSITORY).data == b"one"  # type: ignore[union-attr]
    buckets[1].write(object_key(1, REPOSITORY), damage[0])
    for call in (
        lambda fresh: fresh.read(REPOSITORY),
        lambda fresh: fresh.changes(REPOSITORY),
        lambda fresh: fresh.outcome(REPOSITORY, "b"),
        lambda fresh: fresh.compare_and_set(REPOSITORY, 1, b"two", "b"),
        lambda fresh: fresh.seal(REPOSITORY, 1, b"2"),
    ):
        with pytest.raises(Corrupt) as caught:
            call(bucket_registers(buckets))
        assert caught.value.code == "register_damaged"
        assert caught.value.fields == {"key": REPOSITORY, "buckets": ["cloud-0", "cloud-1"]}
    buckets[2].away = True  # two that are damaged are a majority without it, which no waiting mends
    with pytest.raises(Corrupt):
        bucket_registers(buckets).read(REPOSITORY)
    buckets[2].away, buckets[0].away = False, True
    buckets[0].delete(object_key(1, REPOSITORY))
    with pytest.raises(Corrupt):  # the one that is sound, and the one that is damaged
        bucket_registers(buckets).read(REPOSITORY)
    buckets[2].away = True
    with pytest.raises(Unavailable) as caught_away:
        bucket_registers(buckets).read(REPOSITORY)
    assert caught_away.value.code == "no_majority"


def test_known_value_of_a_damaged_register_is_reported_as_what_it_is() -> None:
    buckets = new_buckets()
    registers = bucket_registers(buckets)
    registers.compare_and_set(REPOSITORY, 0, b"one", "a")
    registers.compare_and_set(REPOSITORY, 1, b"two", "b")
    catch_up_voters(registers)  # a voter that was slow may have been passed over
    flip(buckets[0], REPOSITORY)
    flip(buckets[1], REPOSITORY)
    known = bucket_registers(buckets).read_known(REPOSITORY)
    assert known.age_s is None
    assert known.undecided is not None
    assert known.undecided.data == b"two"
    assert known.silent == ("cloud-0", "cloud-1")


def test_list_names_a_damaged_register_beside_the_others() -> None:
    buckets = new_buckets()
    registers = bucket_registers(buckets)
    registers.compare_and_set(REPOSITORY, 0, b"one", "a")
    registers.compare_and_set(NAMES, 0, b"names", "b")
    catch_up_voters(registers)  # a voter that was slow may have been passed over
    flip(buckets[0], REPOSITORY)
    flip(buckets[1], REPOSITORY)
    assert bucket_registers(buckets).list() == [NAMES, REPOSITORY]


@pytest.mark.parametrize("damage", ["register_damaged", "register_lost"])
def test_move_waits_for_what_is_damaged_or_lost_and_goes_on_once_it_was_retired(damage: str) -> None:
    epochs = BucketEpochs()
    written(epochs, b"one", b"two")
    for bucket in epochs.clouds[:2]:
        if damage == "register_lost":
            bucket.delete(object_key(1, REPOSITORY))
        else:
            flip(bucket, REPOSITORY)
    with pytest.raises(Corrupt) as caught:
        epochs.process().advance(lambda _: epochs.next())
    assert caught.value.code == damage
    assert bucket_registers(epochs.clouds, epoch=2).is_new()
    retire(epochs.open(b"1"), REPOSITORY)
    late = epochs.process()
    value = late.read(REPOSITORY)
    assert value is not None
    assert (value.version, value.data, epochs.newest) == (3, b"two", 2)
    assert [change.operation_id for change in late.changes(REPOSITORY)] == ["op-0", "op-1", None]


def test_retired_register_is_never_decided_again_by_a_client_in_its_epoch() -> None:
    epochs = BucketEpochs()
    old = written(epochs, b"one")
    for bucket in epochs.clouds[:2]:
        flip(bucket, REPOSITORY)
    intact = [bytes(bucket.read(object_key(1, REPOSITORY))) for bucket in epochs.clouds]
    retire(epochs.open(b"1"), REPOSITORY)
    # What it has sent was refused, and cannot be read back: it is unknown whether a recovery finds it.
    with pytest.raises(OutcomeUnknown) as caught:
        old.compare_and_set(REPOSITORY, 1, b"two", "b")
    assert caught.value.code == "no_majority"
    # One whose bytes come back as they were is alone.
    epochs.clouds[2].write(object_key(1, REPOSITORY), intact[2])
    for process in (old, epochs.process()):
        with pytest.raises(SkyholdError):
            process.compare_and_set(REPOSITORY, 1, b"two", "b")


@pytest.mark.parametrize("puts", range(1, 7))
def test_retired_is_what_was_accepted_until_then_despite_other_proposers(puts: int) -> None:
    buckets = new_buckets()
    first = bucket_registers(buckets)
    first.compare_and_set(REPOSITORY, 0, b"one", "a")
    wait_until_at_rest(first, REPOSITORY)
    flip(buckets[0], REPOSITORY)
    retirer = bucket_registers(buckets)
    proposer = bucket_registers(interrupted(buckets, puts, lambda: retire(retirer, REPOSITORY)))
    acknowledged = None
    with suppress(SkyholdError):
        acknowledged = proposer.compare_and_set(REPOSITORY, 1, b"two", "b")
    retire(retirer, REPOSITORY)
    salvaged = retirer.salvaged(REPOSITORY)
    assert salvaged is not None
    assert salvaged[-1].value.data in ({b"one", b"two"} if acknowledged is None else {b"two"})


def test_change_that_is_acknowledged_between_the_look_and_the_put_of_a_retirement_is_not_lost() -> None:
    buckets = new_buckets()
    writer = bucket_registers(buckets)
    writer.compare_and_set(REPOSITORY, 0, b"one", "a")
    wait_until_at_rest(writer, REPOSITORY)
    retirer = bucket_registers(interrupted(buckets, 1, lambda: writer.compare_and_set(REPOSITORY, 1, b"two", "b")))
    retire(retirer, REPOSITORY)
    salvaged = retirer.salvaged(REPOSITORY)
    assert salvaged is not None
    assert [change.value.data for change in salvaged] == [b"one", b"two"]


def test_config_that_was_retired_begins_the_next_epoch_and_the_first_to_seal_names_decides_which() -> None:
    epochs = BucketEpochs()
    process = written(epochs, b"one")
    assert isinstance(process.current, BucketRegisters)
    assert catch_up_fully(process.current, [CONFIG])
    for bucket in epochs.clouds[1:]:
        flip(bucket, CONFIG)
    with pytest.raises(Corrupt) as caught:
        epochs.process().resume(lambda _: b"2")
    assert caught.value.code == "register_damaged"
    retire(epochs.open(b"1"), CONFIG)
    epochs.process().resume(lambda _: b"2")
    for key, data in ((CONFIG, b"epoch 2"), (NAMES, b"names"), (REPOSITORY, b"one")):
        value = epochs.process().read(key)
        assert value is not None
        assert value.data == data
    with pytest.raises(SkyholdError):
        epochs.process().resume(lambda _: b"3")


def test_what_no_voter_holds_intact_goes_on_from_what_it_is_given_instead() -> None:
    epochs = BucketEpochs()
    written(epochs, b"one")
    before = epochs.open(b"1").changes(REPOSITORY)
    for bucket in epochs.clouds:
        flip(bucket, REPOSITORY)
    acceptors = epochs.open(b"1").acceptors
    assert newest_of(holding.held for holding in acceptors.examine(REPOSITORY) if holding.held) is None
    acceptors.retire(REPOSITORY, tuple(before), PROPOSER)
    epochs.process().advance(lambda _: epochs.next())
    value = epochs.process().read(REPOSITORY)
    assert value is not None
    assert value.data == b"one"


@pytest.mark.parametrize("seed", range(4))
def test_no_acknowledged_change_is_lost_where_a_register_is_retired_again_and_again_while_others_write(
    seed: int,
) -> None:
    """As many recoveries as epochs, each beside writers; before each the object of one voter is damaged."""
    epochs, dice = BucketEpochs(), random.Random(seed)
    written(epochs, b"0")
    acknowledged: dict[int, str] = {}
    over = threading.Event()

    def write(writer: int) -> None:
        process, number = epochs.process(), 0
        while not over.is_set():
            number += 1
            time.sleep(0.002)
            with suppress(SkyholdError):
                before = process.read(REPOSITORY)
                assert before is not None
                name = f"{writer}-{number}"
                after = process.compare_and_set(REPOSITORY, before.version, name.encode(), name)
                assert acknowledged.setdefault(after.version, name) == name

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(3)]
    for thread in writers:
        thread.start()
    try:
        for epoch in range(1, 6):
            until_s = time.monotonic() + 30.0
            while len(acknowledged) < 3 * epoch and time.monotonic() < until_s:  # so that a busy machine writes as well
                time.sleep(0.01)
            time.sleep(dice.random() * 0.1)
            with suppress(SkyholdError):
                flip(dice.choice(epochs.clouds), REPOSITORY, epoch)
            retire(epochs.open(b"%d" % epoch), REPOSITORY)
            with suppress(Unavailable):  # writers that are in the next epoch already may be faster, again and again
                epochs.process(epoch).advance(lambda _, following=epoch + 1: b"%d" % following)  # type: ignore[misc]
            while epochs.newest == epoch:
                with suppress(Unavailable):
                    epochs.process(epoch).read(NAMES)
    finally:
        over.set()
        for thread in writers:
            thread.join()
    changes = {change.value.version: change for change in epochs.process().changes(REPOSITORY)}
    first = min(changes)
    assert epochs.newest == 6
    assert len(acknowledged) > 10
    for version, name in acknowledged.items():
        if version >= first:
            assert changes[version].value.data == name.encode()
            assert changes[version].operation_id == name


def interrupted(buckets: Sequence[FlakyBucket], puts: int, interrupt: Callable[[], object]) -> list[FlakyBucket]:
    """The same buckets, as a process reaches them that is interrupted before so many of its puts, which come one after
    the other."""
    left, lock = [puts], threading.Lock()

    class Reached(FlakyBucket):
        def write(self, key: str, body: Buffer) -> None:
            self._reach()
            super().write(key, body)

        def write_if(self, *arguments: Any, **named: Any) -> str:
            self._reach()
            return super().write_if(*arguments, **named)

        def _reach(self) -> None:
            with lock:
                left[0] -= 1
                if left[0] == 0:
                    interrupt()

    return [Reached(BucketLocation(name=bucket.name, url=bucket.url, provider="memory")) for bucket in buckets]
