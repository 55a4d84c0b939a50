"""Folders pass the conformance suite, and keep their own promises."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from skyhold.buckets.bounded import read_bounded
from skyhold.buckets.bucket import WRITE_IF_DEADLINE_S
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
        began_s = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            bucket.write_if("k", b"y", expected_tag=tag_of(bucket, "k"), deadline_s=0.2)
        assert time.monotonic() - began_s < WRITE_IF_DEADLINE_S / 2, "it waited for the deadline that is the default"
    assert caught.value.code == "lock_timeout"
    assert bytes(bucket.read("k")) == b"x"


def test_conditional_create_between_processes_has_one_winner(location: BucketLocation) -> None:
    bucket = open_bucket(location)

    def contend() -> None:
        bucket.write_if("k", str(os.getpid()).encode(), expected_tag=None)

    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(lambda _: run_in_child(contend), range(6)))
    assert sorted(statuses) == [0, 1, 1, 1, 1, 1]


# -- what others may put into the folder ------------------------------------------------------------------------------


@pytest.mark.parametrize("linked", ["a", "a/b", "a/b/k", ".skyhold/incoming", ".skyhold/locks", ".skyhold"])
def test_no_call_follows_a_link_out_of_the_bucket(location: BucketLocation, tmp_path: Path, linked: str) -> None:
    bucket = open_bucket(location, QUICK)
    bucket.write("a/b/k", b"inside")
    place, outside = location.path / linked, tmp_path / "outside"
    place.rename(outside)
    place.symlink_to(outside)
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    before |= {outside: outside.read_bytes()} if outside.is_file() else {}
    for call in (
        lambda: bucket.read("a/b/k"),
        lambda: list(bucket.list()),
        lambda: bucket.delete("a/b/k"),
        lambda: bucket.write("a/b/k", b"changed"),
        lambda: bucket.write("a/b/new", b"new"),
        lambda: bucket.write_if("a/b/other", b"new", expected_tag=None),
    ):
        with suppress(PermissionDenied):
            call()
    assert outside.exists()
    after = {path: path.read_bytes() for path in (outside, *outside.rglob("*")) if path.is_file()}
    assert after == before
    if not linked.startswith(".skyhold") and linked != "a/b/k":
        with pytest.raises(PermissionDenied) as caught:
            bucket.write("a/b/new", b"new")
        assert caught.value.code == "link_in_bucket"


@pytest.mark.parametrize("linked", ["packs", "packs/ab"])
def test_link_in_the_place_of_a_folder_is_refused_by_a_listing_and_is_no_missing_object(
    location: BucketLocation, tmp_path: Path, linked: str
) -> None:
    bucket = open_bucket(location)
    bucket.write("packs/ab/k", b"x")
    bucket.write("other/k", b"x")
    (location.path / linked).rename(tmp_path / "elsewhere")
    (location.path / linked).symlink_to(tmp_path / "elsewhere")
    for prefix in ("packs/", "packs/ab/"):
        with pytest.raises(PermissionDenied, match=f"symbolic link, `{linked}`") as caught:
            list(bucket.list(prefix))
        assert caught.value.code == "link_in_bucket"
    assert [info.key for info in bucket.list("other/")] == ["other/k"]
    assert [info.key for info in bucket.list()] == ["other/k"]


def test_folder_of_the_bucket_itself_may_be_a_link(location: BucketLocation, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(location.path)
    bucket = open_bucket(parse_location(str(tmp_path / "link")))
    bucket.write("a/k", b"x")
    assert [info.key for info in bucket.list()] == ["a/k"]
    assert (location.path / "a" / "k").read_bytes() == b"x"


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_no_object_and_blocks_no_reader(location: BucketLocation, kind: str) -> None:
    bucket, path = open_bucket(location), location.path / "k"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif os.getuid() == 0:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
    for call in (lambda: bucket.read("k"), lambda: bucket.read_tagged("k"), lambda: list(bucket.read_stream("k"))):
        with pytest.raises(NotFound) as caught:
            call()
        assert caught.value.code == "object_not_found"
    assert list(bucket.list()) == []
    if kind != "folder":
        bucket.write("k", b"x")
        assert bytes(bucket.read("k")) == b"x"


def test_sparse_register_of_3_gb_takes_no_memory(location: BucketLocation) -> None:
    bucket = open_bucket(location)
    with (location.path / "k").open("wb") as file:
        file.truncate(3 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for call in (
        lambda: bucket.read("k"),
        lambda: bucket.read_tagged("k"),
        lambda: list(bucket.read_stream("k")),
        lambda: read_bounded(bucket, "k", 1000),
        lambda: bucket.write_if("k", b"x", expected_tag="0"),
    ):
        with pytest.raises(Corrupt) as caught:
            call()
        assert caught.value.code == "object_too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10
    bucket.write("k", b"x")
    assert bytes(bucket.read("k")) == b"x"


def test_listing_goes_down_no_loop_and_no_deeper_than_keys_can_be(location: BucketLocation) -> None:
    bucket = open_bucket(location)
    bucket.write("a/k", b"x")
    (location.path / "a" / "loop").symlink_to(location.path)
    deep = location.path
    for _ in range(400):
        deep = deep / "ab"
        deep.mkdir()
    (deep / "k").write_bytes(b"x") if len(str(deep)) < 4000 else None
    assert [info.key for info in bucket.list()] == ["a/k"]


def test_folder_with_more_entries_than_there_can_be_objects_is_given_up(
    location: BucketLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        (location.path / f"k{number}").write_bytes(b"")
    monkeypatch.setattr("skyhold.buckets.bounded.LISTED_KEYS_MAX", 20)
    with pytest.raises(Unavailable) as caught:
        list(open_bucket(location).list())
    assert caught.value.code == "bucket_misbehaves"


# -- two users of one folder ------------------------------------------------------------------------------------------

ADA, BEN, TEAM = 23001, 23002, 23100


def as_user(user: int, work: Callable[[], None], umask: int) -> int:
    def dropped() -> None:
        os.setgroups([TEAM])
        os.setgid(user)
        os.setuid(user)
        os.umask(umask)
        work()

    return run_in_child(dropped)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that every user can reach."""
    place = Path(tempfile.mkdtemp(prefix="skyhold-shared-"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


needs_users = pytest.mark.skipif(os.getuid() != 0, reason="only root can become two other users")


@needs_users
@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_two_users_with_a_group_share_a_folder_that_the_group_may_write(open_place: Path, umask: int) -> None:
    shared = open_place / "cloud"
    shared.mkdir()
    os.chown(shared, ADA, TEAM)
    shared.chmod(0o2775)
    location = parse_location(str(shared))

    def make() -> None:
        create_bucket(location)
        bucket = open_bucket(location)
        bucket.write("packs/aa/one", b"ada")
        bucket.write_if("registers/r", b"1", expected_tag=None)

    def go_on() -> None:
        bucket = open_bucket(location)
        bucket.write("packs/aa/two", b"ben")
        bucket.write("packs/bb/three", b"ben")
        bucket.write_if("registers/r", b"2", expected_tag=tag_of(bucket, "registers/r"))
        assert bytes(bucket.read("packs/aa/one")) == b"ada"
        bucket.delete("packs/aa/one")

    def look() -> None:
        bucket = open_bucket(location)
        assert [info.key for info in bucket.list()] == ["packs/aa/two", "packs/bb/three", "registers/r"]
        bucket.write("packs/bb/three", b"ada")
        bucket.write_if("registers/r", b"3", expected_tag=tag_of(bucket, "registers/r"))

    assert as_user(ADA, make, umask) == 0
    assert as_user(BEN, go_on, umask) == 0
    assert as_user(ADA, look, umask) == 0


@needs_users
def test_user_whom_a_folder_keeps_out_learns_which_and_what_its_owner_can_do(open_place: Path) -> None:
    location = parse_location(str(open_place / "cloud"))
    (open_place / "cloud").mkdir()
    os.chown(open_place / "cloud", ADA, TEAM)

    def make() -> None:
        create_bucket(location)
        open_bucket(location).write("packs/one", b"ada")

    def be_refused() -> None:
        bucket = open_bucket(location)
        for call in (
            lambda: bucket.write("packs/two", b"ben"),
            lambda: bucket.write_if("packs/two", b"ben", expected_tag=None),
        ):
            with pytest.raises(PermissionDenied) as caught:
                call()
            assert f"belongs to user {ADA}" in caught.value.message
            assert "chmod -R g+rwX" in (caught.value.hint or "")

    assert as_user(ADA, make, 0o022) == 0
    assert as_user(BEN, be_refused, 0o022) == 0


@needs_users
def test_hint_for_a_folder_that_keeps_a_user_out_is_true(open_place: Path) -> None:
    root = open_place / "cloud"
    location = parse_location(str(root))
    root.mkdir()
    os.chown(root, ADA, TEAM)

    def make() -> None:
        create_bucket(location)
        open_bucket(location).write("packs/one", b"ada")

    def write() -> None:
        open_bucket(location).write("packs/two", b"ben")

    assert as_user(ADA, make, 0o022) == 0
    assert as_user(BEN, write, 0o022) == 1
    command = f"chgrp -R {TEAM} {root} && chmod -R g+rwX {root} && find {root} -type d -exec chmod g+s {{}} +"
    assert as_user(ADA, lambda: subprocess.run(command, shell=True, check=True) and None, 0o022) == 0
    assert as_user(BEN, write, 0o022) == 0
