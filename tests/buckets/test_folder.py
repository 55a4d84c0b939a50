"""Folders pass the conformance suite, and keep their own promises."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from skyhold.buckets.location import BucketLocation, parse_location
from skyhold.buckets.open import create_bucket, open_bucket
from skyhold.errors import (
    Corrupt,
    InvalidInput,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    SkyholdError,
    Unavailable,
)
from tests.buckets.conformance import QUICK, BucketConformance, every_call, run_in_child, tag_of


class TestFolder(BucketConformance):
    @pytest.fixture
    def location(self, tmp_path: Path) -> BucketLocation:
        location = parse_location(str(tmp_path / "cloud"))
        create_bucket(location)
        return location

    @pytest.fixture
    def gone(self, location: BucketLocation, tmp_path: Path) -> BucketLocation:
        return replace(location, url=(tmp_path / "not-mounted").as_uri())


@pytest.fixture
def location(tmp_path: Path) -> BucketLocation:
    location = parse_location(str(tmp_path / "cloud"))
    create_bucket(location)
    return location


def test_folder_without_its_mark_is_gone_and_stays_untouched(tmp_path: Path) -> None:
    """The empty mount point of a disk that is not mounted must not look like an empty bucket."""
    (tmp_path / "mount").mkdir()
    bucket = open_bucket(parse_location(str(tmp_path / "mount")))
    for call in every_call(bucket):
        with pytest.raises(NotFound) as caught:
            call()
        assert caught.value.code == "bucket_not_found"
    assert list((tmp_path / "mount").iterdir()) == []


def test_folder_that_holds_other_files_is_not_made_a_bucket(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(InvalidInput) as caught:
        create_bucket(parse_location(str(tmp_path)))
    assert caught.value.code == "folder_not_empty"


def test_creating_a_bucket_again_keeps_its_objects(location: BucketLocation) -> None:
    open_bucket(location).write("k", b"x")
    create_bucket(location)
    assert bytes(open_bucket(location).read("k")) == b"x"


def test_object_is_the_file_of_its_key(location: BucketLocation) -> None:
    open_bucket(location).write("a/b", b"x")
    assert (location.path / "a" / "b").read_bytes() == b"x"


@pytest.mark.parametrize(("first", "second"), [("a", "a/b"), ("a/b", "a")])
def test_key_cannot_be_object_and_folder(location: BucketLocation, first: str, second: str) -> None:
    bucket = open_bucket(location)
    bucket.write(first, b"x")
    with pytest.raises(InvalidInput) as caught:
        bucket.write(second, b"y")
    assert caught.value.code == "key_is_folder"
    assert [info.key for info in bucket.list()] == [first]


def test_unfinished_files_are_not_listed_and_old_ones_are_removed(location: BucketLocation) -> None:
    incoming = location.path / ".skyhold" / "incoming"
    (incoming / "of-yesterday").write_bytes(b"half")
    (incoming / "of-now").write_bytes(b"half")
    os.utime(incoming / "of-yesterday", (0, 0))
    bucket = open_bucket(location)
    bucket.write("k", b"x")
    assert [info.key for info in bucket.list()] == ["k"]
    assert [path.name for path in incoming.iterdir()] == ["of-now"]


def test_old_file_of_a_living_writer_is_kept(location: BucketLocation) -> None:
    slow = location.path / ".skyhold" / "incoming" / "slow"
    with slow.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.utime(slow, (0, 0))
        open_bucket(location).write("k", b"x")
        assert slow.exists()


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.ENOSPC, QuotaExceeded, "no_space"),
        (errno.EDQUOT, QuotaExceeded, "no_space"),
        (errno.EROFS, PermissionDenied, "read_only"),
        (errno.EACCES, PermissionDenied, "permission_denied"),
    ],
)
def test_failing_write_is_named_and_leaves_the_object_alone(
    location: BucketLocation, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[SkyholdError], code: str
) -> None:
    bucket = open_bucket(location)
    bucket.write("k", b"before")

    def fail(*_arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        with pytest.raises(kind) as caught:
            bucket.write("k", b"after")
    assert caught.value.code == code
    assert bytes(bucket.read("k")) == b"before"
    assert list((location.path / ".skyhold" / "incoming").iterdir()) == []


def test_folder_of_another_user_is_permission_denied(location: BucketLocation) -> None:
    bucket = open_bucket(location)
    bucket.write("k", b"x")
    location.path.chmod(0o700)

    def as_nobody() -> None:
        os.setuid(65534)
        for call in every_call(bucket):
            with pytest.raises(PermissionDenied):
                call()

    if os.getuid() != 0:
        location.path.chmod(0)
        with pytest.raises(PermissionDenied):
            bucket.read("k")
        location.path.chmod(0o700)
    else:
        assert run_in_child(as_nobody) == 0


def test_disk_that_returns_other_bytes_is_found_while_writing(
    location: BucketLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = open_bucket(location, QUICK)
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real_write(file, bytes(len(data))))
    with pytest.raises(Corrupt) as caught:
        bucket.write("k", b"payload")
    assert caught.value.code == "checksum_refused"
    monkeypatch.undo()
    assert list(bucket.list()) == []


def test_lock_that_another_process_keeps_ends_at_the_deadline(location: BucketLocation) -> None:
    bucket = open_bucket(location)
    bucket.write("k", b"x")
    (lock,) = (location.path / ".skyhold" / "locks").iterdir()
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        started = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            bucket.write_if("k", b"y", expected_tag=tag_of(bucket, "k"), deadline_s=0.2)
        assert time.monotonic() - started < 2
    assert caught.value.code == "lock_timeout"
    assert bytes(bucket.read("k")) == b"x"


def test_conditional_create_between_processes_has_one_winner(location: BucketLocation) -> None:
    bucket = open_bucket(location)

    def contend() -> None:
        bucket.write_if("k", str(os.getpid()).encode(), expected_tag=None)

    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(lambda _: run_in_child(contend), range(6)))
    assert sorted(statuses) == [0, 1, 1, 1, 1, 1]
