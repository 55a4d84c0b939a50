"""What one voter shows of a register does not spoil the register in the others, whatever it is."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

import pytest

from skyhold.buckets.bucket import Bucket, Tagged
from skyhold.consensus.acceptor import COUNTER_MAX, LEAP_MAX, AcceptorState, Ballot, beyond_reach
from skyhold.consensus.acceptor_object import AcceptorObject, decode_acceptor, encode_acceptor, object_key
from skyhold.consensus.operation import Kept
from skyhold.consensus.register import VERSION_MAX, RegisterChange, Versioned
from skyhold.errors import Corrupt, InvalidInput, SkyholdError, Unavailable
from tests.consensus.fixtures import KEYS, bucket_registers, new_buckets, wait_until_at_rest
from tests.endtoend.stores import catch_up_voters

GREATEST = Ballot(COUNTER_MAX, "f" * 32)
EPOCH = 1
KEY = "names"


def held(buckets: Sequence[Bucket], number: int) -> AcceptorObject:
    if not list(buckets[number].list(object_key(EPOCH, KEY))):  # a voter that was slow may have been passed over
        catch_up_voters(bucket_registers(buckets))
    stored = buckets[number].read(object_key(EPOCH, KEY))
    return decode_acceptor(stored, EPOCH, KEY, f"{number:032x}", KEYS)


def show(buckets: Sequence[Bucket], number: int, state: AcceptorState[Kept]) -> None:
    body = encode_acceptor(AcceptorObject(state, 0, "", ""), EPOCH, KEY, f"{number:032x}", KEYS)
    buckets[number].write(object_key(EPOCH, KEY), body)


def poison(buckets: Sequence[Bucket], number: int, promised: Ballot = GREATEST) -> None:
    state = held(buckets, number).state
    show(buckets, number, AcceptorState(promised, state.accepted, state.value))


def change(buckets: Sequence[Bucket], data: bytes) -> None:
    """As a process of its own does it."""
    registers = bucket_registers(buckets)
    found = registers.read(KEY)
    registers.compare_and_set(KEY, found.version if found else 0, data, secrets.token_hex(8))
    wait_until_at_rest(registers, KEY)


@pytest.mark.parametrize("promised", [GREATEST, Ballot(COUNTER_MAX, "0" * 32), Ballot(COUNTER_MAX - 63, "f" * 32)])
@pytest.mark.parametrize("count", [3, 5, 7])
def test_greatest_ballot_in_one_bucket_raises_none_of_the_others(promised: Ballot, count: int) -> None:
    buckets = new_buckets(count)
    change(buckets, b"one")
    poison(buckets, 0, promised)
    for data in (b"two", b"three"):
        change(buckets, data)
    found = bucket_registers(buckets).read(KEY)
    assert found is not None
    assert (found.version, found.data) == (3, b"three")
    greatest = max(held(buckets, number).state.promised.counter for number in range(1, count))
    assert greatest < 100_000


def test_greatest_ballot_in_one_bucket_does_not_hinder_the_previous_writer() -> None:
    buckets = new_buckets()
    registers = bucket_registers(buckets)
    registers.compare_and_set(KEY, 0, b"one", "op-1")
    poison(buckets, 0)
    for version in range(1, 4):
        registers.compare_and_set(KEY, version, b"more", f"op-{version + 1}")
    assert max(held(buckets, number).state.promised.counter for number in (1, 2)) < 100_000


def test_bucket_with_the_greatest_ballot_counts_as_failed_and_is_named() -> None:
    buckets = new_buckets()
    change(buckets, b"one")
    poison(buckets, 0)
    shown = bucket_registers(buckets).inspect(KEY)
    error = shown["cloud-0"]
    assert isinstance(error, SkyholdError)
    assert error.code == "voter_out_of_reach"
    assert isinstance(shown["cloud-1"], AcceptorObject)
    buckets[2].away = True
    with pytest.raises(Unavailable, match="far above") as caught:
        change(buckets, b"two")
    assert caught.value.fields["buckets"] == ["cloud-0", "cloud-2"]
    assert held(buckets, 1).state.promised.counter < 100_000
    buckets[2].away = False
    change(buckets, b"two")


def test_ballot_that_a_majority_shows_is_followed() -> None:
    buckets = new_buckets()
    change(buckets, b"one")
    for number in (0, 1):
        poison(buckets, number, Ballot(2**40, "f" * 32))
    change(buckets, b"two")
    assert held(buckets, 0).state.accepted.counter > 2**40


def test_ballot_within_reach_is_followed_though_one_bucket_alone_shows_it() -> None:
    buckets = new_buckets()
    change(buckets, b"one")
    reached = held(buckets, 0).state.promised.counter + LEAP_MAX
    poison(buckets, 0, Ballot(reached, "f" * 32))
    buckets[1].away = True
    change(buckets, b"two")
    assert held(buckets, 2).state.accepted.counter > reached


def test_greatest_ballot_in_a_majority_is_refused_and_the_register_can_still_be_read() -> None:
    buckets = new_buckets()
    change(buckets, b"one")
    for number in (0, 1):
        poison(buckets, number)
    with pytest.raises(Corrupt) as caught:
        change(buckets, b"two")
    assert caught.value.code == "ballots_exhausted"
    found = bucket_registers(buckets).read(KEY)
    assert found is not None
    assert found.data == b"one"


def test_ballots_of_a_lone_voter_end_before_they_cannot_be_read() -> None:
    buckets = new_buckets(1)
    change(buckets, b"one")
    poison(buckets, 0, Ballot(COUNTER_MAX - 70, "f" * 32))
    registers = bucket_registers(buckets)
    with pytest.raises(Corrupt) as caught:
        for version in range(1, 100):
            registers.compare_and_set(KEY, version, b"more", f"op-{version}")
    assert caught.value.code == "ballots_exhausted"
    assert bucket_registers(buckets).read(KEY) is not None


@pytest.mark.parametrize("away", [False, True])
def test_greatest_version_in_one_bucket_raises_none_of_the_others(*, away: bool) -> None:
    buckets = new_buckets()
    change(buckets, b"one")
    state = held(buckets, 0).state
    forged = (RegisterChange(Versioned(VERSION_MAX, b"forged"), "op"),)
    show(buckets, 0, AcceptorState(Ballot(5_001, "f" * 32), Ballot(5_000, "f" * 32), forged))
    buckets[2].away = away
    if away:
        with pytest.raises(Unavailable, match="cloud-0"):
            change(buckets, b"two")
        assert held(buckets, 1).state.value == state.value
        return
    change(buckets, b"two")
    found = bucket_registers(buckets).read(KEY)
    assert found is not None
    assert (found.version, found.data) == (2, b"two")


def test_register_at_the_greatest_version_is_not_changed_and_can_be_read() -> None:
    buckets = new_buckets()
    last = AcceptorState(
        Ballot(2, "f" * 32), Ballot(1, "f" * 32), (RegisterChange(Versioned(VERSION_MAX, b"last"), "op"),)
    )
    for number in range(3):
        show(buckets, number, last)
    registers = bucket_registers(buckets)
    with pytest.raises(InvalidInput):
        registers.compare_and_set(KEY, VERSION_MAX, b"more", "op-2")
    found = registers.read(KEY)
    assert found is not None
    assert found.version == VERSION_MAX


def test_two_of_five_that_show_the_greatest_ballot_do_not_raise_the_others() -> None:
    buckets = new_buckets(5)
    change(buckets, b"one")
    for number in (0, 3):
        poison(buckets, number)
    change(buckets, b"two")
    assert max(held(buckets, number).state.promised.counter for number in (1, 2, 4)) < 100_000


def test_no_voter_is_out_of_reach_while_fewer_than_a_majority_were_seen() -> None:
    far: AcceptorState[Kept] = AcceptorState(GREATEST)
    near: AcceptorState[Kept] = AcceptorState(Ballot(1, "a" * 32))
    assert beyond_reach({"A": far}, 3) == frozenset()
    assert beyond_reach({"A": far, "B": near}, 3) == {"A"}
    assert beyond_reach({"A": far, "B": near}, 5) == frozenset()
    assert beyond_reach({"A": far, "B": far, "C": near}, 3) == frozenset()
    assert beyond_reach({"A": far}, 1) == frozenset()


def test_greatest_ballot_is_not_followed_before_a_majority_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that shows it answers first, and another one fails at once."""
    buckets = new_buckets()
    change(buckets, b"one")
    poison(buckets, 0)
    buckets[2].away = True
    read_tagged = buckets[1].read_tagged

    def slowly(key: str, *, unless_tag: str | None = None) -> Tagged | None:
        time.sleep(0.1)
        return read_tagged(key, unless_tag=unless_tag)

    monkeypatch.setattr(buckets[1], "read_tagged", slowly)
    with pytest.raises(Unavailable, match="far above"):
        bucket_registers(buckets).compare_and_set(KEY, 1, b"two", "op-2")
    assert held(buckets, 1).state.promised.counter < 100_000
    poison(buckets, 0, held(buckets, 1).state.promised)
    bucket_registers(buckets).compare_and_set(KEY, 1, b"two", "op-2")
