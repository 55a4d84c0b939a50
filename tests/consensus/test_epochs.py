"""Moves of a store from epoch to epoch: nothing is lost, whichever process dies, lags or may only read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from math import inf

import pytest

from skyhold.consensus.epochs import OPEN_MAX, StoreRegisters
from skyhold.consensus.memory import MemoryRegisters
from skyhold.consensus.migration import CONFIG, NAMES, carry_over, compare
from skyhold.consensus.parallel import at_once
from skyhold.consensus.pinned_registers import PinnedRegisters
from skyhold.consensus.register import CHANGES_KEPT, Known, Registers, Resync, Versioned
from skyhold.consensus.stale_registers import StaleRegisters
from skyhold.errors import Conflict, OutcomeUnknown, PermissionDenied, SkyholdError, Unavailable
from skyhold.store.engine_status import catch_up_fully
from tests.consensus.epochs import REPOSITORY, Epochs, Killed, Mortal
from tests.consensus.fixtures import bucket_registers, new_buckets


@pytest.fixture
def epochs() -> Iterator[Mortal]:
    made = Mortal()
    founder = made.process()
    founder.compare_and_set(CONFIG, 0, b"first", "found")
    founder.compare_and_set(NAMES, 0, b"names", "names")
    founder.compare_and_set(REPOSITORY, 0, b"one", "a")
    founder.compare_and_set(REPOSITORY, 1, b"two", "b")
    yield made
    made.close()


def move(process: StoreRegisters, epochs: Epochs) -> None:
    process.advance(lambda _: epochs.next())


def test_move_is_a_change_of_every_register_and_loses_none(epochs: Mortal) -> None:
    stale, mover = epochs.process(), epochs.process()
    move(mover, epochs)
    assert stale.read(REPOSITORY) == Versioned(3, b"two")
    assert stale.read(CONFIG) == Versioned(2, b"epoch 2")
    assert [change.operation_id for change in stale.changes(REPOSITORY)] == ["a", "b", None]
    assert stale.list() == [CONFIG, NAMES, REPOSITORY]


def test_change_that_was_planned_before_a_move_is_refused_and_planned_again(epochs: Mortal) -> None:
    stale, mover = epochs.process(), epochs.process()
    move(mover, epochs)
    with pytest.raises(Conflict) as caught:
        stale.compare_and_set(REPOSITORY, 2, b"three", "c")
    assert (caught.value.code, caught.value.fields["current_version"]) == ("register_changed", 3)
    assert stale.compare_and_set(REPOSITORY, 3, b"three", "c") == Versioned(4, b"three")
    assert mover.read(REPOSITORY) == Versioned(4, b"three")


def test_operation_of_an_earlier_epoch_is_not_done_twice(epochs: Mortal) -> None:
    stale = epochs.process()
    for _ in range(3):
        move(epochs.process(), epochs)
    assert stale.outcome(REPOSITORY, "b") == Versioned(2, b"two")
    assert stale.compare_and_set(REPOSITORY, 1, b"two", "b") == Versioned(2, b"two")
    assert stale.outcome(REPOSITORY, "never") is None


@pytest.mark.slow
def test_process_that_follows_many_moves_keeps_few_epochs_open(epochs: Mortal) -> None:
    process = epochs.process()
    for _ in range(3 * OPEN_MAX):
        move(epochs.process(), epochs)
        assert process.read(REPOSITORY) is not None
        assert len(process._opened) <= OPEN_MAX
    assert process.outcome(REPOSITORY, "b") == Versioned(2, b"two")


def test_register_that_was_made_in_a_later_epoch_is_seen_by_a_process_in_an_earlier_one(epochs: Mortal) -> None:
    other = "repository/" + "1" * 32
    stale, mover = epochs.process(), epochs.process()
    assert stale.read(other) is None
    move(mover, epochs)
    mover.compare_and_set(other, 0, b"new", "n")
    assert stale.read(other) == Versioned(1, b"new")
    assert other in epochs.process().list()


def test_register_that_was_listed_and_not_made_is_made_in_the_new_epoch_alone(epochs: Mortal) -> None:
    other = "repository/" + "1" * 32
    epochs.keys = (REPOSITORY, other)
    stale = epochs.process()
    move(epochs.process(), epochs)
    assert stale.compare_and_set(other, 0, b"new", "n") == Versioned(1, b"new")
    assert epochs.open(b"1").read(other) == Versioned(1, b"", b"2")


@pytest.mark.slow
def test_move_that_dies_at_any_call_is_finished_by_the_next_process(epochs: Mortal) -> None:
    epochs.close()
    for calls in range(200):
        fresh = Mortal()
        founder = fresh.process()
        founder.compare_and_set(CONFIG, 0, b"first", "found")
        founder.compare_and_set(REPOSITORY, 0, b"one", "a")
        mover, follower = fresh.process(), fresh.process()
        fresh.calls_left = calls
        with suppress(Killed):
            move(mover, fresh)
        finished = fresh.calls_left > 0
        fresh.calls_left = None
        sealed = fresh.open(b"1").read(CONFIG)
        assert sealed is not None
        value = follower.read(REPOSITORY)
        assert value is not None
        assert value.data == b"one"
        if sealed.sealed:
            follower.read(CONFIG)
            assert fresh.newest == 2
        assert follower.compare_and_set(REPOSITORY, follower.read(REPOSITORY).version, b"two", "b").data == b"two"  # type: ignore[union-attr]
        assert [change.operation_id for change in follower.changes(REPOSITORY) if change.operation_id] == ["a", "b"]
        fresh.close()
        if finished:
            assert calls > 10
            return
    raise AssertionError("the move never came to its end")


def test_threads_that_meet_half_a_move_finish_it_once(epochs: Mortal, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, version in [(CONFIG, 1), (REPOSITORY, 2)]:
        epochs.open(b"1").seal(key, version, b"2")
    carried = []

    def slowly(*arguments: object) -> None:
        carried.append(threading.current_thread())
        time.sleep(0.05)
        carry_over(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("skyhold.consensus.epochs.carry_over", slowly)
    process = epochs.process()
    assert at_once(process.read, [REPOSITORY] * 16, "read") == [Versioned(3, b"two")] * 16
    assert len(carried) == 1


def test_half_a_move_lets_read_who_may_only_read(epochs: Mortal) -> None:
    epochs.open(b"1").seal(CONFIG, 1, b"2")
    epochs.open(b"1").seal(REPOSITORY, 2, b"2")
    epochs.read_only = True
    reader = epochs.process()
    assert reader.read(REPOSITORY) == Versioned(3, b"two")
    assert reader.read("repository/" + "1" * 32) is None
    with pytest.raises(PermissionDenied) as caught:
        reader.compare_and_set(NAMES, 2, b"x", "x")
    with pytest.raises(PermissionDenied) as caught:
        reader.list()
    assert caught.value.code == "epoch_unfinished"
    epochs.read_only = False
    assert reader.read(REPOSITORY) == Versioned(3, b"two")
    assert epochs.newest == 2


def test_half_a_move_lets_watch_who_may_only_read(epochs: Mortal) -> None:
    other = "repository/" + "1" * 32
    for key, version in [(CONFIG, 1), (REPOSITORY, 2), (other, 0)]:
        epochs.open(b"1").seal(key, version, b"2")
    epochs.read_only = True
    reader = epochs.process()
    assert reader.watch(REPOSITORY, 1, timeout_s=0) == [Versioned(2, b"two"), Versioned(3, b"two")]
    assert reader.watch(REPOSITORY, 9, timeout_s=0) == Resync(Versioned(3, b"two"))
    assert reader.watch(other, 0, timeout_s=0) == []


@pytest.mark.parametrize("error", [OutcomeUnknown("no reply in time"), Unavailable("away; nothing was changed")])
def test_reader_that_cannot_finish_a_move_learns_that_it_is_under_way(error: SkyholdError, epochs: Mortal) -> None:
    epochs.open(b"1").seal(CONFIG, 1, b"2")
    epochs.open(b"1").seal(REPOSITORY, 2, b"2")
    epochs.writes_fail = error
    for ask in (epochs.process().read, epochs.process().changes):
        with pytest.raises(Unavailable) as caught:
            ask(REPOSITORY)
        assert caught.value.code == "epoch_unfinished"
    epochs.writes_fail = None
    assert epochs.process().read(REPOSITORY) == Versioned(3, b"two")


def test_register_that_others_change_and_seal_meanwhile_is_carried_with_all_its_changes(
    epochs: Mortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    registers, following = MemoryRegisters(), MemoryRegisters()
    registers.compare_and_set(CONFIG, 0, b"first", "found")
    seal = registers.seal

    def late(key: str, expected_version: int, next_configuration: bytes) -> Versioned:
        if key == REPOSITORY and registers.read(key) is None:
            registers.compare_and_set(REPOSITORY, 0, b"one", "a")
            registers.compare_and_set(REPOSITORY, 1, b"two", "b")
            seal(REPOSITORY, 2, next_configuration)
        return seal(key, expected_version, next_configuration)

    monkeypatch.setattr(registers, "seal", late)
    carry_over(registers, following, b"2", epochs)
    assert [change.operation_id for change in following.changes(REPOSITORY)] == ["a", "b", None]


def test_store_is_not_moved_to_voters_that_do_not_answer(epochs: Mortal) -> None:
    mover = epochs.process()
    for _ in range(2):
        move(mover, epochs)
    assert epochs.open(b"4").read(CONFIG) is None
    for bucket in epochs.buckets[4][:2]:
        bucket.away = True
    with pytest.raises(Unavailable):
        move(mover, epochs)
    assert mover.read(CONFIG) == Versioned(3, b"epoch 3")
    for bucket in epochs.buckets[4]:
        bucket.away = False
    move(mover, epochs)
    assert mover.read(REPOSITORY) == Versioned(5, b"two")


def test_of_two_moves_at_once_one_is_decided_first_and_both_happen(epochs: Mortal) -> None:
    movers = [epochs.process() for _ in range(3)]
    together([lambda mover=mover: move(mover, epochs) for mover in movers])  # type: ignore[misc]
    newest = epochs.newest
    assert 2 <= newest <= 4
    for mover in movers:
        assert mover.read(REPOSITORY) == Versioned(1 + newest, b"two")


def test_watch_goes_on_over_a_move_without_a_gap(epochs: Mortal) -> None:
    watcher, mover = epochs.process(), epochs.process()
    assert watcher.watch(REPOSITORY, 0, timeout_s=0) == [Versioned(1, b"one"), Versioned(2, b"two")]
    move(mover, epochs)
    mover.compare_and_set(REPOSITORY, 3, b"four", "d")
    assert watcher.watch(REPOSITORY, 2, timeout_s=5) == [Versioned(3, b"two"), Versioned(4, b"four")]
    move(mover, epochs)
    assert watcher.watch(REPOSITORY, 4, timeout_s=5) == [Versioned(5, b"four")]
    assert watcher.watch(REPOSITORY, 9, timeout_s=0) == Resync(Versioned(5, b"four"))
    assert watcher.watch("repository/" + "1" * 32, 0, timeout_s=0) == []


def test_watch_of_a_stale_process_reports_what_was_changed_since_the_move(epochs: Mortal) -> None:
    stale, mover = epochs.process(), epochs.process()
    move(mover, epochs)
    mover.compare_and_set(REPOSITORY, 3, b"four", "d")
    reported = [Versioned(1, b"one"), Versioned(2, b"two"), Versioned(3, b"two"), Versioned(4, b"four")]
    assert stale.watch(REPOSITORY, 0, timeout_s=0) == reported


def test_watch_that_waits_is_woken_by_a_change_in_another_epoch(epochs: Mortal) -> None:
    watcher, mover = epochs.process(), epochs.process()
    seen: list[object] = []
    waiting = threading.Thread(target=lambda: seen.append(watcher.watch(REPOSITORY, 2, timeout_s=20)))
    waiting.start()
    move(mover, epochs)
    waiting.join(20)
    assert seen == [[Versioned(3, b"two")]]


def test_pinned_change_is_refused_once_other_buckets_count(epochs: Mortal) -> None:
    process = epochs.process()
    pinned = PinnedRegisters(process)
    assert pinned.compare_and_set(REPOSITORY, 2, b"three", "c") == Versioned(3, b"three")
    move(epochs.process(), epochs)
    for expected_version in (3, 4):
        with pytest.raises(Conflict) as caught:
            pinned.compare_and_set(REPOSITORY, expected_version, b"four", "d")
        assert caught.value.code == "membership_changed"
    assert pinned.read(REPOSITORY) == Versioned(4, b"three")
    assert pinned.compare_and_set(REPOSITORY, 2, b"three", "c") == Versioned(3, b"three")
    assert PinnedRegisters(process).compare_and_set(REPOSITORY, 4, b"four", "d") == Versioned(5, b"four")


def test_comparison_finds_what_was_written_between(epochs: Mortal) -> None:
    mover = epochs.process()
    before = mover.current
    move(mover, epochs)
    carried = compare(before, mover.current)
    assert (carried.registers, carried.differing) == (3, ())
    assert carried.changes == 2 + 2 + 3
    other = epochs.open(b"3")
    other.restore(REPOSITORY, [*before.changes(REPOSITORY)][:1])
    assert compare(before, other).differing == (CONFIG, NAMES, REPOSITORY)


def test_register_of_many_changes_keeps_the_last_of_them(epochs: Mortal) -> None:
    process = epochs.process()
    for version in range(2, 2 + CHANGES_KEPT):
        process.compare_and_set(REPOSITORY, version, b"%d" % version, f"o{version}")
    for _ in range(3):
        move(process, epochs)
    assert process.outcome(REPOSITORY, f"o{1 + CHANGES_KEPT}") == Versioned(
        2 + CHANGES_KEPT, b"%d" % (1 + CHANGES_KEPT)
    )
    assert len(process.changes(REPOSITORY)) >= CHANGES_KEPT


def test_no_change_is_lost_while_clients_write_and_the_store_moves(epochs: Mortal) -> None:
    processes = [epochs.process() for _ in range(3)]
    moves, increments = 5, 12
    processes[0].compare_and_set("repository/" + "2" * 32, 0, b"0", "begin")
    counter = "repository/" + "2" * 32
    epochs.keys = (REPOSITORY, counter)

    def count(number: int) -> None:
        for increment in range(increments):
            while True:
                value = processes[number].read(counter)
                assert value is not None
                with suppress(Conflict):
                    processes[number].compare_and_set(
                        counter, value.version, b"%d" % (int(value.data) + 1), f"{number}-{increment}"
                    )
                    break

    def travel() -> None:
        mover = epochs.process()
        for _ in range(moves):
            move(mover, epochs)

    together([lambda n=n: count(n) for n in range(3)] + [travel])  # type: ignore[misc]
    assert epochs.newest == 1 + moves
    last = epochs.process().read(counter)
    assert last is not None
    assert last.data == b"%d" % (3 * increments)
    assert last.version == 1 + 3 * increments + moves


def together(tasks: Sequence[Callable[[], object]]) -> None:
    errors: list[BaseException] = []

    def run(task: Callable[[], object]) -> None:
        try:
            task()
        except BaseException as error:  # noqa: BLE001 - reported below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []


class Voters(Epochs):
    """A configuration is the number of its epoch, and its voters by letters."""

    def __init__(self) -> None:
        super().__init__()
        self.clouds = dict(zip(b"abcde", new_buckets(5), strict=True))

    def open(self, next_configuration: bytes) -> Registers:
        number, names = next_configuration.split()
        return bucket_registers([self.clouds[name] for name in names], epoch=int(number))

    def entered(self, next_configuration: bytes) -> None:
        pass


def test_late_move_to_other_voters_does_not_settle_what_an_epoch_of_its_number_has_decided() -> None:
    voters = Voters()
    late, mover = (StoreRegisters(voters.open(b"1 abc"), voters) for _ in range(2))
    mover.compare_and_set(CONFIG, 0, b"first", "found")

    def decide(_: Versioned) -> bytes:
        mover.advance(lambda _: b"2 abc")
        voters.clouds[ord("a")].away = True
        mover.advance(lambda _: b"3 abc")  # `b` and `c` alone know that epoch 2 has ended
        voters.clouds[ord("a")].away = False
        voters.clouds[ord("d")].away = True
        return b"2 ade"

    with pytest.raises(Conflict) as caught:
        late.advance(decide)
    assert caught.value.code == "epoch_used"
    voters.clouds[ord("c")].away = True
    assert StoreRegisters(voters.open(b"2 abc"), voters).read(CONFIG) == Versioned(3, b"epoch 3 abc")
    voters.close()


def test_known_value_of_an_epoch_that_has_ended_is_reported_without_its_seal() -> None:
    voters = Voters()
    first = voters.open(b"1 abc")
    first.compare_and_set(CONFIG, 0, b"first", "found")
    for key, version in [(CONFIG, 1), (REPOSITORY, 0)]:
        first.seal(key, version, b"2 cde")
    voters.clouds[ord("d")].away = voters.clouds[ord("e")].away = True
    late = StoreRegisters(voters.open(b"1 abc"), voters)
    assert late.read_known(CONFIG) == Known(Versioned(2, b"first"), age_s=None)
    assert late.read_known(REPOSITORY) == Known(None, age_s=None)
    voters.close()


def test_seal_of_the_configuration_that_is_not_known_to_be_decided_is_not_followed() -> None:
    voters = Voters()
    first = voters.open(b"1 abc")
    first.compare_and_set(CONFIG, 0, b"first", "found")
    assert catch_up_fully(first, [CONFIG])  # else the one that is left may be lagging
    voters.clouds[ord("b")].away = voters.clouds[ord("c")].away = True
    with pytest.raises(OutcomeUnknown):
        first.seal(CONFIG, 1, b"2 ade")  # accepted by `a` alone
    late = StoreRegisters(voters.open(b"1 abc"), voters)
    found = late.read_known(CONFIG)
    assert (found.value, found.undecided) == (Versioned(1, b"first"), Versioned(2, b"first"))
    assert list(voters.clouds[ord("d")].list()) == []
    voters.close()


@pytest.mark.parametrize("max_age_s", [0, 60, inf])
def test_register_that_was_never_created_is_absent_to_stale_reads_too(max_age_s: float, epochs: Mortal) -> None:
    late = StaleRegisters(epochs.process().current, epochs, max_age_s=max_age_s, on_stale=lambda *_: None)
    assert late.read("repository/" + "1" * 32) is None
    move(epochs.process(), epochs)
    assert late.read("repository/" + "1" * 32) is None
    assert late.read(REPOSITORY) == Versioned(3, b"two")


def test_epoch_that_cannot_be_closed_keeps_no_other_open(epochs: Mortal) -> None:
    process = epochs.process()
    for _ in range(2):
        move(process, epochs)
    closed: list[int] = []

    def failing(number: int) -> Callable[[], None]:
        def close() -> None:
            closed.append(number)
            raise Unavailable(f"epoch {number}")

        return close

    for number, epoch in enumerate(process._opened):
        epoch.close = failing(number)  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="epoch 0"):
        process.close()
    assert sorted(closed) == [0, 1, 2]
