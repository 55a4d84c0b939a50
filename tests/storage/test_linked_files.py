"""Pulled files that the cache keeps by a hard link: without cost while they exist elsewhere, useful afterwards, never
trusted."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from skyhold.storage.linked_files import FILE_BYTES_MIN
from tests.storage.fixtures import FlakyBucket, Setup, refusing
from tests.storage.test_push_pull import AWAY, tree_of, write_tree

SIZE = 3 * FILE_BYTES_MIN
CACHE = 64 << 20
ELSEWHERE = (Path("/dev/shm"), Path("/var/tmp"))


def with_noise(weights: bytes) -> bytes:
    """A fine-tune: every second 16-bit element one step further."""
    words = bytearray(weights)
    words[::4] = bytes(byte ^ 1 for byte in words[::4])
    return bytes(words)


def forget_packs(folder: Path) -> None:
    """Delete the cached packs (a push leaves them), so that only linked files are left."""
    for path in folder.iterdir():
        if not path.suffix:
            path.unlink()


@pytest.fixture
def bucket() -> FlakyBucket:
    return FlakyBucket("a")


@pytest.fixture
def setup(tmp_path: Path, bucket: FlakyBucket) -> Setup:
    return Setup(tmp_path / "state", [bucket], cache_bytes=CACHE)


def test_a_file_that_was_pulled_once_is_pulled_again_without_a_bucket(
    tmp_path: Path, bucket: FlakyBucket, setup: Setup
) -> None:
    version, _ = setup.push(write_tree(tmp_path / "in", {"x": os.urandom(SIZE)}))
    forget_packs(tmp_path / "state" / "cache")
    assert setup.pull(version, tmp_path / "first").fetched_bytes > 0
    (linked,) = (tmp_path / "state" / "cache").glob("*.file")
    assert linked.samefile(tmp_path / "first" / "x")
    (tmp_path / "first" / "x").unlink()
    bucket.on_read = refusing(AWAY)
    pulled = setup.pull(version, tmp_path / "second")
    assert tree_of(tmp_path / "second") == tree_of(tmp_path / "in")
    assert (pulled.kept_bytes, pulled.fetched_bytes) == (SIZE, 0)
    setup.close()


def test_the_records_of_a_linked_file_are_not_cached_as_well(tmp_path: Path, setup: Setup) -> None:
    version, _ = setup.push(write_tree(tmp_path / "in", {"x": os.urandom(SIZE), "small": os.urandom(5000)}))
    forget_packs(tmp_path / "state" / "cache")
    setup.pull(version, tmp_path / "out")
    cached = [path.stat().st_blocks * 512 for path in (tmp_path / "state" / "cache").iterdir() if not path.suffix]
    assert 0 < sum(cached) < FILE_BYTES_MIN
    setup.close()


def test_what_the_user_writes_into_a_linked_file_is_not_trusted(
    tmp_path: Path, bucket: FlakyBucket, setup: Setup
) -> None:
    version, _ = setup.push(write_tree(tmp_path / "in", {"x": os.urandom(SIZE)}))
    setup.pull(version, tmp_path / "mine")
    forget_packs(tmp_path / "state" / "cache")
    with (tmp_path / "mine" / "x").open("r+b") as file:
        file.seek(SIZE // 2)
        file.write(b"my own")
    bucket.reads = 0
    pulled = setup.pull(version, tmp_path / "other")
    assert bucket.reads > 0
    assert pulled.kept_bytes > 0
    assert tree_of(tmp_path / "other") == tree_of(tmp_path / "in")
    assert (tmp_path / "mine" / "x").read_bytes()[SIZE // 2 :].startswith(b"my own")
    os.truncate(tmp_path / "other" / "x", 10)
    setup.pull(version, tmp_path / "third")
    assert tree_of(tmp_path / "third") == tree_of(tmp_path / "in")
    setup.close()


@pytest.mark.parametrize("change", ["none", "written", "truncated", "deleted"])
def test_a_delta_takes_its_base_from_a_linked_file_as_long_as_that_is_right(
    tmp_path: Path, bucket: FlakyBucket, setup: Setup, change: str
) -> None:
    weights = bytes(range(256)) * (SIZE // 256)
    base, _ = setup.push(write_tree(tmp_path / "base", {"x.bin": weights}))
    tuned, _ = setup.push(write_tree(tmp_path / "tuned", {"x.bin": with_noise(weights)}), parent=base)
    setup.pull(base, tmp_path / "out")
    forget_packs(tmp_path / "state" / "cache")
    (linked,) = (tmp_path / "state" / "cache").glob("*.file")
    match change:
        case "written":
            linked.write_bytes(bytes(SIZE))
        case "truncated":
            os.truncate(linked, SIZE // 3)
        case "deleted":
            linked.unlink()
    setup.pull(tuned, tmp_path / "pulled")
    assert tree_of(tmp_path / "pulled") == tree_of(tmp_path / "tuned")
    setup.close()


def test_a_sealed_store_leaves_nothing_in_clear_in_the_cache(tmp_path: Path, bucket: FlakyBucket) -> None:
    setup = Setup(tmp_path / "state", [bucket], cache_bytes=CACHE, sealed=True)
    version, _ = setup.push(write_tree(tmp_path / "in", {"x": b"a secret of weights " * (SIZE // 20)}))
    setup.pull(version, tmp_path / "out")
    cached = list((tmp_path / "state" / "cache").iterdir())
    assert cached
    assert not any(path.suffix or b"a secret of weights" in path.read_bytes() for path in cached)
    setup.close()


def test_a_linked_file_counts_against_the_limit_only_once_it_is_deleted_elsewhere(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "state", [FlakyBucket("a")], cache_bytes=2 * SIZE)
    versions = [setup.push(write_tree(tmp_path / f"in{n}", {"x": os.urandom(SIZE)}))[0] for n in range(5)]
    for number, version in enumerate(versions):
        setup.pull(version, tmp_path / f"out{number}")
    cache = tmp_path / "state" / "cache"
    assert len(list(cache.glob("*.file"))) == 5
    for number in range(5):
        (tmp_path / f"out{number}" / "x").unlink()
    setup.pull(versions[0], tmp_path / "again")
    only_here = sum(path.stat().st_size for path in cache.glob("*.file") if path.stat().st_nlink == 1)
    assert only_here <= 2 * SIZE
    setup.close()


def test_a_list_of_places_that_was_cut_short_is_read_as_far_as_it_goes(
    tmp_path: Path, bucket: FlakyBucket, setup: Setup
) -> None:
    version, _ = setup.push(write_tree(tmp_path / "in", {"x": os.urandom(SIZE)}))
    setup.pull(version, tmp_path / "out")
    setup.close()
    for places in (tmp_path / "state" / "cache").glob("*.files"):
        os.truncate(places, places.stat().st_size - 5)
    again = Setup(tmp_path / "state", [bucket], cache_bytes=CACHE)
    again.pull(version, tmp_path / "second")


def test_a_target_on_another_file_system_has_its_records_cached(tmp_path: Path, setup: Setup) -> None:
    others = [place for place in ELSEWHERE if place.is_dir() and place.stat().st_dev != tmp_path.stat().st_dev]
    if not others:
        pytest.skip("there is no second file system at /dev/shm or /var/tmp")
    version, _ = setup.push(write_tree(tmp_path / "in", {"x": os.urandom(SIZE)}))
    forget_packs(tmp_path / "state" / "cache")
    with tempfile.TemporaryDirectory(dir=others[0]) as elsewhere:
        setup.pull(version, Path(elsewhere) / "out")
        assert tree_of(Path(elsewhere) / "out") == tree_of(tmp_path / "in")
    cache = tmp_path / "state" / "cache"
    assert not list(cache.glob("*.file"))
    assert sum(path.stat().st_blocks * 512 for path in cache.iterdir()) >= SIZE
    setup.close()
