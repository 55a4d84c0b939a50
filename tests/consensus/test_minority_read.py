"""Reading what is known of a register: from memory within an age, and where a majority is lost."""

from __future__ import annotations

import time

import pytest

from skyhold.consensus.acceptor import AcceptorState, Ballot, promise
from skyhold.consensus.acceptor_object import AcceptorObject, decode_acceptor, encode_acceptor, object_key
from skyhold.consensus.paxos import Get, Put, Seen
from skyhold.consensus.register import Known, RegisterChange, Versioned
from skyhold.errors import Conflict, PermissionDenied, Unavailable
from tests.consensus.conformance import KEY
from tests.consensus.fixtures import KEYS, FlakyBucket, bucket_registers, new_buckets

ONE, TWO = Versioned(1, b"one"), Versioned(2, b"two")


def with_two_changes() -> list[FlakyBucket]:
    buckets = new_buckets(3)
    registers = bucket_registers(buckets, writer="laptop")
    registers.compare_and_set(KEY, 0, b"one", "a")
    registers.compare_and_set(KEY, 1, b"two", "b")
    registers.close()
    return buckets


def lose(*buckets: FlakyBucket) -> None:
    for bucket in buckets:
        bucket.away = True


def test_value_that_was_confirmed_within_the_age_needs_no_request() -> None:
    buckets = with_two_changes()
    registers = bucket_registers(buckets)
    registers.read(KEY)
    lose(*buckets)
    found = registers.read_known(KEY, max_age_s=60)
    assert (found.value, found.undecided, found.silent) == (TWO, None, ())
    assert found.age_s is not None
    assert 0 < found.age_s < 60


def test_value_that_was_confirmed_longer_ago_is_read_again() -> None:
    buckets = with_two_changes()
    registers = bucket_registers(buckets)
    registers.read(KEY)
    bucket_registers(buckets).compare_and_set(KEY, 2, b"three", "c")
    time.sleep(0.002)
    assert registers.read_known(KEY, max_age_s=0.001) == Known(Versioned(3, b"three"))


def test_own_change_confirms_its_value() -> None:
    buckets = new_buckets(3)
    registers = bucket_registers(buckets)
    registers.compare_and_set(KEY, 0, b"one", "a")
    lose(*buckets)
    assert registers.read_known(KEY, max_age_s=60).value == ONE


def test_refused_change_forgets_what_was_confirmed_so_that_it_can_be_planned_again() -> None:
    buckets = with_two_changes()
    registers = bucket_registers(buckets)
    registers.read(KEY)
    bucket_registers(buckets).compare_and_set(KEY, 2, b"three", "c")
    assert registers.read_known(KEY, max_age_s=60).value == TWO
    with pytest.raises(Conflict):
        registers.compare_and_set(KEY, 2, b"mine", "d")
    assert registers.read_known(KEY, max_age_s=60) == Known(Versioned(3, b"three"))


def test_of_a_lost_majority_the_newest_value_known_to_be_durable_is_reported_with_its_writer() -> None:
    buckets = with_two_changes()
    lose(*buckets[:2])
    found = bucket_registers(buckets).read_known(KEY)
    assert (found.value, found.age_s, found.undecided) == (ONE, None, TWO)  # no writer declared the second as decided
    assert (found.writer, found.silent) == ("laptop", ("cloud-0", "cloud-1"))
    assert found.time.startswith("20")


def test_of_a_lost_majority_a_confirmed_value_is_reported_with_its_age() -> None:
    buckets = with_two_changes()
    registers = bucket_registers(buckets)
    registers.read(KEY)
    lose(*buckets[1:])
    found = registers.read_known(KEY)
    assert (found.value, found.undecided, found.silent) == (TWO, None, ("cloud-1", "cloud-2"))
    assert found.age_s is not None
    assert 0 < found.age_s < 60


def test_where_no_voter_answers_and_nothing_is_remembered_the_error_is_that_of_a_read() -> None:
    buckets = with_two_changes()
    lose(*buckets)
    with pytest.raises(Unavailable) as caught:
        bucket_registers(buckets).read_known(KEY)
    assert caught.value.code == "no_majority"


def test_reader_that_may_not_write_gets_a_declared_value_where_no_majority_agrees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    buckets = with_two_changes()
    buckets[0].away = True
    registers = bucket_registers(buckets)
    registers.read(KEY)
    registers.compare_and_set(KEY, 2, b"three", "c")
    registers.close()
    buckets[0].away, buckets[1].away = False, True  # one shows the second value, one the third

    def refused(*_args: object, **_options: object) -> str:
        raise PermissionDenied("these credentials may only read")

    monkeypatch.setattr(FlakyBucket, "write_if", refused)
    reader = bucket_registers(buckets)
    with pytest.raises(Unavailable):
        reader.read(KEY)
    found = reader.read_known(KEY)
    assert (found.value, found.age_s) == (TWO, None)
    assert (found.undecided, found.silent) == (Versioned(3, b"three"), ("cloud-1",))


def test_promise_does_not_call_an_old_value_decided() -> None:
    """A voter holds a value that was never chosen; another one was, and a client that knows that prepares there."""
    buckets = new_buckets(3)
    lonely = AcceptorState(Ballot(2, "e" * 32), Ballot(1, "e" * 32), (RegisterChange(Versioned(1, b"lost"), "lonely"),))
    held = AcceptorObject(lonely, 0, "lonely", "")
    buckets[0].write(object_key(1, KEY), encode_acceptor(held, 1, KEY, f"{0:032x}", KEYS))
    lose(buckets[0])
    others = bucket_registers(buckets)
    others.compare_and_set(KEY, 0, b"one", "b")
    others.compare_and_set(KEY, 1, b"two", "c")
    others.close()
    buckets[0].away = False
    client = others._clients["cloud-0"]
    seen = client.perform(KEY, Get("cloud-0"), 2)
    assert isinstance(seen, Seen)
    promised = promise(seen.state, Ballot(10_000, "f" * 32))
    assert promised is not None
    assert isinstance(client.perform(KEY, Put("cloud-0", seen.tag, promised), 2), Seen)
    stored = decode_acceptor(buckets[0].read(object_key(1, KEY)), 1, KEY, f"{0:032x}", KEYS)
    assert (stored.state.value, stored.decided) == (lonely.value, 0)
