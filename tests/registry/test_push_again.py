"""A push that is repeated: after objects have vanished from the buckets, and after the policy has changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import skyhold
from skyhold.buckets.bucket import Bucket
from skyhold.store.settings import load_settings


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[skyhold.Store]:
    monkeypatch.setenv("SKYHOLD_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SKYHOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SKYHOLD_KEY_FILE", raising=False)
    monkeypatch.delenv("SKYHOLD_PASSPHRASE", raising=False)
    with skyhold.init([str(tmp_path / name) for name in ("a", "b")], settings=load_settings()) as opened:
        yield opened


def write_model(folder: Path, noise: float = 0.0) -> Path:
    folder.mkdir()
    generator = np.random.default_rng(1)
    weights = generator.normal(0, 0.02, (300, 400)).astype(np.float32)
    weights += (noise * generator.normal(0, 0.02, weights.shape)).astype(np.float32)
    save_file({"w": weights}, folder / "model.safetensors")
    return folder


def lose_packs(root: Path) -> None:
    for name in ("a", "b"):
        for pack in list((root / name / "packs").rglob("*")):
            if pack.is_file():
                pack.unlink()


def test_a_delta_base_that_only_the_cache_still_has_is_no_base(store: skyhold.Store, tmp_path: Path) -> None:
    """Its records open from the cache, but no bucket holds it: every attempt would use it again."""
    repository = store.create_repository("team/model")
    repository.push(write_model(tmp_path / "base"))
    lose_packs(tmp_path)
    pushed = repository.push(write_model(tmp_path / "tuned", noise=0.001))
    assert pushed.delta_bytes == 0
    repository.pull(pushed.version, tmp_path / "out")
    expected = (tmp_path / "tuned" / "model.safetensors").read_bytes()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected


def test_a_push_of_the_same_content_restores_a_version_whose_packs_vanished(
    store: skyhold.Store, tmp_path: Path
) -> None:
    repository = store.create_repository("team/model")
    path = write_model(tmp_path / "in")
    repository.push(path)
    lose_packs(tmp_path)
    again = repository.push(path)
    store_cache = tmp_path / "cache"
    for file in list(store_cache.rglob("*")):
        if file.is_file():
            file.unlink()
    repository.pull(again.version, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (path / "model.safetensors").read_bytes()
    assert store.verify(deep=True) is not None


@pytest.mark.parametrize("lost", ["layouts", "tensors", "versions"])
def test_a_branch_can_be_pushed_to_after_its_version_was_lost(store: skyhold.Store, tmp_path: Path, lost: str) -> None:
    repository = store.create_repository("team/model")
    first = repository.push(write_model(tmp_path / "one")).version
    for name in ("a", "b"):
        for blob in (tmp_path / name / lost).rglob("*"):
            if blob.is_file():
                blob.unlink()
    second = repository.push(write_model(tmp_path / "two", noise=0.001))
    assert second.version != first
    repository.pull("main", tmp_path / "out")
    expected = (tmp_path / "two" / "model.safetensors").read_bytes()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected


def test_a_push_of_the_same_content_after_the_regions_changed_stores_it_in_the_allowed_regions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its packs are of another placement class: it is sent anew, as another version; the next push sends nothing."""
    monkeypatch.setenv("SKYHOLD_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SKYHOLD_CACHE", str(tmp_path / "cache"))
    urls = {region: f"memory://{tmp_path.name}-{region}?region={region}" for region in ("eu-1", "us-1")}
    path = write_model(tmp_path / "in")
    size_bytes = (path / "model.safetensors").stat().st_size
    with skyhold.init(list(urls.values()), settings=load_settings()) as store:
        repository = store.create_repository("team/model", policy=skyhold.Policy(copies=1, regions=("eu-*",)))
        first = repository.push(path)
        repository.set_policy(skyhold.Policy(copies=1, regions=("us-*",)))
        packs = {name: {info.key for info in bucket.list("packs/")} for name, bucket in buckets_of(store).items()}
        assert [len(held) for held in packs.values()] == [1, 0]

        moved = repository.push(path)
        assert (moved.reused_bytes, moved.unchanged) == (0, False)
        after = {name: {info.key for info in bucket.list("packs/")} for name, bucket in buckets_of(store).items()}
        europe, america = after.values()
        assert europe == packs[f"{tmp_path.name}-eu-1"], "no further pack goes to a forbidden bucket"
        assert len(america) == 1
        assert america.isdisjoint(europe)
        assert {finding.key for finding in store.verify().findings} == europe, "which the first version still needs"

        again = repository.push(path)
        assert (again.version, again.unchanged, again.stored_bytes) == (moved.version, True, 0)
        assert again.reused_bytes >= size_bytes
        repository.pull("main", tmp_path / "out")
        repository.pull(first.version, tmp_path / "first")
    assert (tmp_path / "first" / "model.safetensors").read_bytes() == (path / "model.safetensors").read_bytes()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (path / "model.safetensors").read_bytes()


def buckets_of(store: skyhold.Store) -> dict[str, Bucket]:
    return store._connection.buckets()
