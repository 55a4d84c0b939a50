"""The cache of packs: sparse, shared by processes, kept within its limit, and never trusted."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from skyhold.errors import SkyholdError
from skyhold.storage.cache import CacheFolder, PackCache
from skyhold.storage.chunk_record import PackRef, Place
from skyhold.store.state import open_state
from tests.endtoend.killing import in_child
from tests.storage.fixtures import FlakyBucket, Setup
from tests.storage.test_push_pull import AWAY, refusing, tree_of, write_tree

KIB = 1024


def blocks_bytes(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


def used_at(folder: Path, pack: int, seconds_ago: float) -> None:
    then = time.time() - seconds_ago
    os.utime(folder / bytes([pack] * 16).hex(), (then, then))


def test_the_pack_that_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = PackCache(CacheFolder(tmp_path, 400 * KIB))
    for pack in range(3):
        cache.put(bytes([pack] * 16), 0, os.urandom(100 * KIB))
    for pack, seconds_ago in ((0, 10), (1, 5000), (2, 1000)):
        used_at(tmp_path, pack, seconds_ago)
    for pack in (3, 4):
        cache.put(bytes([pack] * 16), 0, os.urandom(100 * KIB))
    assert sorted(path.name[:2] for path in tmp_path.iterdir()) == ["00", "02", "03", "04"]


def test_a_pack_that_is_read_counts_as_used(tmp_path: Path) -> None:
    bucket = FlakyBucket("a")
    setup = Setup(tmp_path / "state", [bucket], cache_bytes=1 << 20)
    version, _ = setup.push(write_tree(tmp_path / "in", {"x": os.urandom(5000)}))
    (cached,) = (tmp_path / "state" / "cache").iterdir()
    os.utime(cached, (0, 0))
    setup.pull(version, tmp_path / "out")
    assert time.time() - cached.stat().st_mtime < 60
    setup.close()


def test_two_processes_that_fill_one_cache_keep_it_within_its_limit(tmp_path: Path) -> None:
    """Each may exceed the limit by what it put since it last looked, a quarter; neither fails because of the other."""
    limit_bytes = 400 * KIB

    def fill(first: int) -> None:
        cache = PackCache(CacheFolder(tmp_path, limit_bytes))
        for pack in range(first, first + 100):
            cache.put(bytes([pack] * 16), 0, os.urandom(50 * KIB))

    child = os.fork()
    if child == 0:
        try:
            fill(0)
        except BaseException:  # noqa: BLE001 - reported by the exit status
            os._exit(1)
        os._exit(0)
    fill(100)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert 0 < blocks_bytes(tmp_path) <= limit_bytes * 3 // 2


def test_a_cache_that_another_process_emptied_is_filled_again(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "state", [FlakyBucket("a")], cache_bytes=1 << 20)
    version, _ = setup.push(write_tree(tmp_path / "in", {"x": os.urandom(5000)}))
    folder = tmp_path / "state" / "cache"
    in_child(lambda: [path.unlink() for path in folder.iterdir()])
    setup.pull(version, tmp_path / "out")
    assert tree_of(tmp_path / "out") == tree_of(tmp_path / "in")
    assert len(list(folder.iterdir())) == 1
    setup.close()


def test_a_hole_in_a_cached_pack_is_fetched(tmp_path: Path) -> None:
    """A process that died, or a part that was never asked for, leaves zeros between what was written."""
    bucket = FlakyBucket("a")
    setup = Setup(tmp_path / "state", [bucket], cache_bytes=1 << 20)
    version, _ = setup.push(write_tree(tmp_path / "in", {"x": os.urandom(5000), "y": os.urandom(5000)}))
    (cached,) = (tmp_path / "state" / "cache").iterdir()
    places = [chunk.place for file in (0, 1) for chunk in version.chunks(file)]
    for hole in range(len(places)):
        body = bytearray(FlakyBucket.read(bucket, f"packs/{cached.name[:2]}/{cached.name}"))
        at = places[hole].offset
        body[at : at + places[hole].record_length] = bytes(places[hole].record_length)
        cached.write_bytes(body)
        bucket.reads = 0
        setup.pull(version, tmp_path / f"out{hole}")
        assert bucket.reads > 0
        assert tree_of(tmp_path / f"out{hole}") == tree_of(tmp_path / "in")
    setup.close()


def test_a_damaged_record_in_the_cache_is_replaced_by_the_buckets(tmp_path: Path) -> None:
    bucket = FlakyBucket("a")
    setup = Setup(tmp_path / "state", [bucket], cache_bytes=1 << 20)
    version, _ = setup.push(write_tree(tmp_path / "in", {"x": os.urandom(5000)}))
    (cached,) = (tmp_path / "state" / "cache").iterdir()
    (chunk,) = version.chunks(0)
    for at in (chunk.place.offset, chunk.place.offset + 20, chunk.place.offset + chunk.place.record_length - 1):
        body = bytearray(cached.read_bytes())
        body[at] ^= 1
        cached.write_bytes(body)
        setup.pull(version, tmp_path / f"out{at}")
        assert tree_of(tmp_path / f"out{at}") == tree_of(tmp_path / "in")
    bucket.on_read = refusing(AWAY)
    setup.pull(version, tmp_path / "healed")
    assert tree_of(tmp_path / "healed") == tree_of(tmp_path / "in")
    setup.close()


def test_a_cache_cut_short_is_no_answer(tmp_path: Path) -> None:
    bucket = FlakyBucket("a")
    setup = Setup(tmp_path / "state", [bucket], cache_bytes=1 << 20)
    version, _ = setup.push(write_tree(tmp_path / "in", {"x": os.urandom(5000)}))
    (cached,) = (tmp_path / "state" / "cache").iterdir()
    os.truncate(cached, 3000)
    bucket.reads = 0
    setup.pull(version, tmp_path / "out")
    assert bucket.reads > 0
    assert tree_of(tmp_path / "out") == tree_of(tmp_path / "in")
    setup.close()


@pytest.mark.timeout(60)  # a pipe or a device is never read to its end
@pytest.mark.parametrize("kind", ["pipe", "link", "device", "folder"])
def test_entry_that_is_no_file_of_the_cache_neither_blocks_nor_is_followed(tmp_path: Path, kind: str) -> None:
    cache, pack, outside = PackCache(CacheFolder(tmp_path / "cache", 1 << 20)), bytes(16), tmp_path / "outside"
    outside.write_bytes(b"precious")
    path = tmp_path / "cache" / pack.hex()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(outside if kind == "link" else "/dev/zero")
    cache.put(pack, 0, b"x" * 1000)
    assert cache.get(pack, [Place(bytes(32), PackRef(pack, bytes(16)), 0, 100, 100, 0, None)]) is None
    assert outside.read_bytes() == b"precious"
    for number in range(1, 12):
        cache.put(bytes([number] * 16), 0, os.urandom(200 << 10))
    assert outside.read_bytes() == b"precious"


def test_pipe_in_the_state_folder_does_not_block(tmp_path: Path) -> None:
    environ = {"SKYHOLD_STATE": str(tmp_path / "state")}
    folder = open_state(environ).store("ab" * 16).folder
    folder.mkdir(parents=True, exist_ok=True)
    os.mkfifo(folder / "store.json")
    with pytest.raises(SkyholdError):
        open_state(environ).store("ab" * 16).recall()
    (tmp_path / "state" / "machine").unlink()
    os.mkfifo(tmp_path / "state" / "machine")
    with pytest.raises(SkyholdError):
        open_state(environ)
