"""Pushing and pulling through buckets that fail: nothing is lost, nothing arrives twice, nothing wrong comes out."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from skyhold.errors import Corrupt, InvalidInput, SkyholdError, Unavailable
from skyhold.storage import replicas as replicas_module
from skyhold.storage.object_check import copy_object
from skyhold.storage.pack import PACK_BYTES_TARGET
from skyhold.storage.push import PushOptions
from tests.storage.fixtures import FlakyBucket, Setup, killed_from_call, refusing

AWAY = Unavailable("away")
NAMES = st.text("ab", min_size=1, max_size=3)
TREES = st.dictionaries(NAMES.map(lambda name: f"d/{name}.bin"), st.binary(max_size=5000), min_size=1, max_size=5)


def write_tree(root: Path, tree: dict[str, bytes]) -> Path:
    for path, data in tree.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def tree_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def model(path: Path, *, seed: int, noise: float = 0.0, rows: int = 3000) -> Path:
    path.mkdir(parents=True)
    weights = np.random.default_rng(seed).normal(0, 0.02, (rows, 400)).astype(np.float32)
    weights += np.random.default_rng(99).normal(0, 1, weights.shape).astype(np.float32) * noise * 0.02
    save_file({"w": weights, "scale": np.ones(3, np.float32)}, path / "model.safetensors")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("sealed", [False, True])
@settings(max_examples=15)
@given(tree=TREES)
def test_any_tree_comes_back_though_a_bucket_is_away(sealed: bool, tree: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root, (gone, damaged, good) = Path(name), (FlakyBucket(bucket) for bucket in "abc")
        setup = Setup(root / "state", [gone, damaged, good], sealed=sealed)
        version, _ = setup.push(write_tree(root / "in", tree))
        gone.on_read = refusing(AWAY)
        damaged.damage = lambda body: bytes(byte ^ 1 for byte in body)
        setup.pull(version, root / "out")
        assert tree_of(root / "out") == tree
        setup.close()


def test_a_fine_tune_is_stored_as_deltas_to_whole_chunks_and_comes_back(tmp_path: Path) -> None:
    bucket = FlakyBucket("a")
    setup = Setup(tmp_path / "state", [bucket])
    base, _ = setup.push(model(tmp_path / "base", seed=1))
    first, pushed = setup.push(model(tmp_path / "first", seed=1, noise=0.001), parent=base)
    assert pushed.delta_bytes > 0.9 * pushed.read_bytes
    second, again = setup.push(model(tmp_path / "second", seed=1, noise=0.002), parent=first)
    assert again.delta_bytes > 0.9 * again.read_bytes
    for number, version in enumerate((base, first, second)):
        for chunk in version.chunks(0):
            assert chunk.base is None or chunk.base.base_id is None, "a delta to a delta"
        setup.pull(version, tmp_path / f"out{number}")
    assert tree_of(tmp_path / "out2") == tree_of(tmp_path / "second")
    setup.close()


def test_a_base_that_no_bucket_gives_any_more_is_done_without(tmp_path: Path) -> None:
    bucket = FlakyBucket("a")
    setup = Setup(tmp_path / "state", [bucket])
    base, _ = setup.push(model(tmp_path / "base", seed=1))
    for key in bucket.keys("packs/"):
        bucket.delete(key)
    setup.chunk_index.forget(base.pack_ids())  # as the registry does with what has vanished
    version, pushed = setup.push(model(tmp_path / "next", seed=1, noise=0.001), parent=base)
    assert pushed.delta_bytes == 0
    setup.pull(version, tmp_path / "out")
    assert tree_of(tmp_path / "out") == tree_of(tmp_path / "next")
    setup.close()


def test_egress_policy_stores_no_delta_that_saves_little(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "state", [FlakyBucket("a")])
    base, _ = setup.push(model(tmp_path / "base", seed=1))
    near = model(tmp_path / "near", seed=1, noise=0.001)
    _, pushed = setup.push(near, parent=base, options=PushOptions(delta="egress"))
    assert pushed.delta_bytes == 0
    setup.close()


def test_what_had_arrived_before_a_kill_is_not_sent_again(tmp_path: Path) -> None:
    data = os.urandom(3 * PACK_BYTES_TARGET)
    source, bucket = write_tree(tmp_path / "in", {"weights.bin": data}), FlakyBucket("a")
    killed = Setup(tmp_path / "state", [bucket])
    bucket.on_write = killed_from_call(2, "packs/")
    with pytest.raises(SkyholdError):
        killed.push(source)
    killed.replicas.close()
    killed.chunk_index._file._session_file.close()  # as the death of the process does; nothing is tidied up
    arrived = [key for key in bucket.written if key.startswith("packs/")]
    assert len(arrived) == 2
    bucket.on_write = lambda _key: None
    setup = Setup(tmp_path / "state", [bucket])
    version, pushed = setup.push(source)
    assert pushed.reused_bytes > 0.6 * len(data)
    packs = [key for key in bucket.written if key.startswith("packs/")]
    assert sum(len(FlakyBucket.read(bucket, key)) for key in packs) < len(data) * 1.01
    setup.pull(version, tmp_path / "out")
    assert tree_of(tmp_path / "out") == {"weights.bin": data}
    setup.close()


def test_an_outage_while_a_push_resumes_forgets_nothing_that_arrived(tmp_path: Path) -> None:
    bucket = FlakyBucket("a")
    killed = Setup(tmp_path / "state", [bucket])
    _, pushed = killed.push(write_tree(tmp_path / "in", {"x": b"x" * 5000}))
    pack = next(iter(pushed.packs_sent))
    with killed.chunk_index._file.transaction() as database:
        database.execute("UPDATE packs SET session = 'of a push that was killed'")
    bucket.list = lambda *_args, **_kwargs: refusing(AWAY)("")  # type: ignore[method-assign]
    away = Setup(tmp_path / "state", [bucket])
    with pytest.raises(SkyholdError):
        away.push(tmp_path / "in")
    assert away.chunk_index.size_bytes(pack) is not None
    away.close()
    killed.close()


def test_a_push_goes_on_without_a_bucket_that_fails(tmp_path: Path) -> None:
    good, bad = FlakyBucket("good"), FlakyBucket("bad")
    bad.on_write = refusing(AWAY)
    setup = Setup(tmp_path / "state", [good, bad])
    setup.push(write_tree(tmp_path / "in", {"x": b"x" * 5000}))
    assert list(setup.replicas.lagging) == ["bad"]
    setup.close()


def test_a_push_that_cannot_become_durable_fails_and_leaves_the_chunk_index_true(tmp_path: Path) -> None:
    bucket = FlakyBucket("a")
    bucket.on_write = refusing(AWAY)
    setup = Setup(tmp_path / "state", [bucket])
    source = write_tree(tmp_path / "in", {"x": b"x" * 5000})
    with pytest.raises(Unavailable, match="Too few buckets"):
        setup.push(source)
    setup.close()
    bucket.on_write = lambda _key: None
    setup = Setup(tmp_path / "state", [bucket])
    _, pushed = setup.push(source)
    assert pushed.reused_bytes == 0
    setup.close()


@pytest.mark.slow
def test_a_stalled_read_is_answered_by_the_next_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas_module, "STALL_S", 0.05)
    slow, good = FlakyBucket("a"), FlakyBucket("b")
    setup = Setup(tmp_path / "state", [slow, good])
    version, _ = setup.push(write_tree(tmp_path / "in", {"x": b"x" * 5000}))
    released = threading.Event()
    slow.on_read = lambda _key: released.wait() and None
    try:
        setup.pull(version, tmp_path / "out")
        assert tree_of(tmp_path / "out") == tree_of(tmp_path / "in")
    finally:
        released.set()  # until now the slow bucket has answered nothing
    setup.close()


def test_damage_in_every_bucket_is_named_and_no_file_appears(tmp_path: Path) -> None:
    buckets = [FlakyBucket("a"), FlakyBucket("b")]
    setup = Setup(tmp_path / "state", buckets)
    version, _ = setup.push(write_tree(tmp_path / "in", {"x": os.urandom(5000)}))
    (key,) = buckets[0].keys("packs/")
    for bucket in buckets:
        bucket.flip(key, 1000)
    with pytest.raises(Corrupt):
        setup.pull(version, tmp_path / "out")
    assert not (tmp_path / "out" / "x").exists()
    setup.close()


def test_two_differently_damaged_copies_heal_a_third_bucket(tmp_path: Path) -> None:
    buckets = [FlakyBucket(name) for name in "abc"]
    setup = Setup(tmp_path / "state", buckets)
    version, _ = setup.push(write_tree(tmp_path / "in", {"x": os.urandom(5000), "y": os.urandom(5000)}))
    (key,) = buckets[0].keys("packs/")
    buckets[0].flip(key, 1000)
    buckets[1].flip(key, 7000)
    buckets[2].delete(key)
    copy_object(key, buckets[:2], buckets[2], setup.checker)
    setup.checker.read_checked(buckets[2], key)
    setup.pull(version, tmp_path / "out")
    assert tree_of(tmp_path / "out") == tree_of(tmp_path / "in")
    setup.close()


def test_the_cache_answers_where_every_bucket_is_away(tmp_path: Path) -> None:
    bucket = FlakyBucket("a")
    setup = Setup(tmp_path / "state", [bucket], cache_bytes=1 << 30)
    version, _ = setup.push(write_tree(tmp_path / "in", {"x": os.urandom(5000)}))
    bucket.on_read = refusing(AWAY)
    setup.pull(version, tmp_path / "out")
    assert tree_of(tmp_path / "out") == tree_of(tmp_path / "in")
    setup.close()


def test_what_the_target_has_is_not_fetched_again(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "state", [FlakyBucket("a")])
    old = model(tmp_path / "in", seed=1)
    version, _ = setup.push(old)
    setup.pull(version, tmp_path / "out")
    again = setup.pull(version, tmp_path / "out")
    assert (again.kept_bytes, again.fetched_bytes) == (again.total_bytes, 0)
    whole = tmp_path / "out" / "model.safetensors"
    damaged = bytearray(whole.read_bytes())
    damaged[2 << 20] ^= 1
    whole.write_bytes(damaged)
    pulled = setup.pull(version, tmp_path / "out")
    assert pulled.kept_bytes >= pulled.total_bytes - (1 << 20)
    assert tree_of(tmp_path / "out") == tree_of(old)
    setup.close()


def test_a_link_in_the_target_is_refused(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "state", [FlakyBucket("a")])
    version, _ = setup.push(write_tree(tmp_path / "in", {"d/x": b"x"}))
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "d").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidInput, match="symbolic link"):
        setup.pull(version, tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())
    setup.close()


@pytest.mark.slow
def test_a_thousand_tiny_files_and_empty_ones_come_back(tmp_path: Path) -> None:
    tree = {f"{number:04}": str(number).encode() * (number % 3) for number in range(1000)}
    setup = Setup(tmp_path / "state", [FlakyBucket("a")])
    version, _ = setup.push(write_tree(tmp_path / "in", tree))
    setup.pull(version, tmp_path / "out")
    assert tree_of(tmp_path / "out") == tree
    setup.close()


def test_files_without_any_bytes_make_a_version_without_packs(tmp_path: Path) -> None:
    bucket = FlakyBucket("a")
    setup = Setup(tmp_path / "state", [bucket])
    version, _ = setup.push(write_tree(tmp_path / "in", {"empty": b""}))
    assert bucket.keys("packs/") == []
    setup.pull(version, tmp_path / "out")
    assert tree_of(tmp_path / "out") == {"empty": b""}
    setup.close()
