"""What a machine remembers of registers: no process makes it smaller, and it contradicts a voter that went back."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from skyhold.consensus.acceptor import Ballot
from skyhold.consensus.acceptor_object import object_key
from skyhold.consensus.buckets import BucketRegisters
from skyhold.consensus.register import RegisterChange, Versioned
from skyhold.consensus.sightings import Sighting, SightingsFile, contradiction, sighting
from skyhold.consensus.voter import Voter
from skyhold.errors import Corrupt
from tests.consensus.fixtures import KEYS, FlakyBucket, new_buckets, wait_until_at_rest

KEY = "repository/" + "5" * 32


def kept(*data: bytes, first: int = 1, sealed: bool = False) -> tuple[RegisterChange, ...]:
    last = len(data) - 1
    return tuple(
        RegisterChange(
            Versioned(first + place, of, b"next" if sealed and place == last else None), f"op-{first + place}"
        )
        for place, of in enumerate(data)
    )


def seen(epoch: int, *data: bytes, first: int = 1) -> Sighting:
    found = sighting(epoch, kept(*data, first=first))
    assert found is not None
    return found


def machine(path: Path, buckets: list[FlakyBucket], epoch: int = 1) -> BucketRegisters:
    """Another process of the machine whose sightings are in this file."""
    voters = [Voter(bucket, f"{number:032x}", verify=lambda: None) for number, bucket in enumerate(buckets)]
    return BucketRegisters(voters, epoch, KEYS, writer="test", deadline_s=5, sightings=SightingsFile(path))


@pytest.mark.parametrize(
    ("before", "epoch", "shown", "why"),
    [
        (None, 1, kept(b"a"), None),
        (seen(1, b"a"), 1, kept(b"a"), None),
        (seen(1, b"a"), 1, kept(b"a", b"b"), None),
        (seen(1, b"a", b"b"), 1, kept(b"a"), "version 1"),
        (seen(1, b"a", b"b"), 1, (), "version 0"),
        (seen(1, b"a"), 1, kept(b"x"), "other data"),
        (seen(1, b"a"), 1, kept(b"x", b"y"), "other data"),
        (seen(1, b"a"), 1, kept(b"y", first=70), None),  # what was seen is not kept any more
        (seen(1, b"a", b"b"), 1, kept(b"a", sealed=True), None),
        (seen(2, b"a"), 1, kept(b"a", b"b"), "epoch 1"),
        (seen(2, b"a"), 1, (), None),
        (seen(1, b"a"), 2, (), None),
        (seen(1, b"a", b"b"), 2, kept(b"a"), "version 1"),
        (seen(1, b"a"), 2, kept(b"x", b"x"), "other data"),
    ],
)
def test_value_that_cannot_follow_on_what_was_seen_is_contradicted(
    before: Sighting | None, epoch: int, shown: tuple[RegisterChange, ...], why: str | None
) -> None:
    found = contradiction(KEY, before, epoch, shown)
    assert found is None if why is None else found is not None and why in found


def test_configuration_of_a_new_epoch_replaces_the_one_that_was_sealed() -> None:
    assert contradiction("config", seen(1, b"a"), 2, kept(b"x")) is None
    assert contradiction("config", seen(1, b"a"), 1, kept(b"x")) is not None


def test_seal_is_not_noted() -> None:
    assert sighting(1, kept(b"a", sealed=True)) is None


def test_what_was_noted_never_becomes_smaller(tmp_path: Path) -> None:
    file = SightingsFile(tmp_path / "sightings.db")
    low, high = Ballot(5, "a" * 32), Ballot(5, "b" * 32)
    file.note(KEY, 2, seen(2, b"a", b"b"), {"A": high, "B": low})
    file.note(KEY, 2, seen(2, b"a"), {"A": low, "B": high})
    file.note(KEY, 2, None, {"C": low})
    file.close()
    again = SightingsFile(tmp_path / "sightings.db")
    assert again.newest(KEY) == seen(2, b"a", b"b")
    assert again.promised(2, KEY) == {"A": high, "B": high, "C": low}
    file.note(KEY, 3, seen(3, b"c"), {"A": low})
    assert again.newest(KEY) == seen(3, b"c")
    assert (again.promised(2, KEY), again.promised(3, KEY)) == ({}, {"A": low})
    again.forget()
    assert (again.newest(KEY), again.promised(3, KEY)) == (None, {})


def _note(path: Path, first: int) -> None:
    file = SightingsFile(path)
    for version in range(first, 400, 4):
        file.note(KEY, 1, seen(1, b"x", first=version), {"A": Ballot(version, "a" * 32)})


def test_processes_that_note_at_once_leave_the_greatest(tmp_path: Path) -> None:
    path = tmp_path / "sightings.db"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_note, args=(path, first)) for first in range(1, 5)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    file = SightingsFile(path)
    assert file.newest(KEY) == seen(1, b"x", first=399)
    assert file.promised(1, KEY) == {"A": Ballot(399, "a" * 32)}


def test_damaged_file_is_refused_and_may_be_deleted(tmp_path: Path) -> None:
    path = tmp_path / "sightings.db"
    path.write_bytes(b"no database, " * 1000)
    with pytest.raises(Corrupt) as caught:
        SightingsFile(path).newest(KEY)
    assert caught.value.code == "sightings_damaged"
    assert "Delete the file" in str(caught.value.hint)
    path.unlink()
    assert SightingsFile(path).newest(KEY) is None


def test_lower_epoch_that_goes_on_is_refused(tmp_path: Path) -> None:
    """Ballots of another epoch do not concern these voters; what was read there does."""
    path, buckets = tmp_path / "sightings.db", new_buckets()
    machine(path, buckets).compare_and_set(KEY, 0, b"one", "op-1")
    SightingsFile(path).note(KEY, 2, seen(2, b"one", b"two"), {})
    with pytest.raises(Corrupt) as caught:
        machine(path, buckets).read(KEY)
    assert caught.value.code == "register_rolled_back"


def test_history_that_was_rolled_back_and_written_on_is_refused(tmp_path: Path) -> None:
    """By a process of another machine, which could not know. Its voters have greater ballots than were seen."""
    path, buckets = tmp_path / "sightings.db", new_buckets()
    name = object_key(1, KEY)
    ours = machine(path, buckets)
    ours.compare_and_set(KEY, 0, b"one", "op-1")
    wait_until_at_rest(ours, KEY)
    before = [bytes(bucket.read(name)) for bucket in buckets]
    ours.compare_and_set(KEY, 1, b"two", "op-2")
    wait_until_at_rest(ours, KEY)
    for bucket, body in zip(buckets, before, strict=True):
        bucket.write(name, body)
    theirs = machine(tmp_path / "theirs.db", buckets)
    theirs.compare_and_set(KEY, 1, b"other", "op-3")
    theirs.compare_and_set(KEY, 2, b"more", "op-4")
    with pytest.raises(Corrupt, match="other data") as caught:
        machine(path, buckets).read(KEY)
    assert caught.value.code == "register_rolled_back"
    assert theirs.read(KEY) == Versioned(3, b"more")
