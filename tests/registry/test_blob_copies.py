"""Blobs hold the maps that a register names: a majority of the buckets stores them, for any policy on packs."""

from __future__ import annotations

from pathlib import Path

import pytest

import skyhold
from skyhold.buckets import open as opening
from skyhold.buckets.folder import FolderBucket
from skyhold.buckets.retry import RetryPolicy
from skyhold.errors import SkyholdError, Unavailable
from skyhold.store.settings import load_settings


def test_no_map_node_is_in_fewer_buckets_than_the_register_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under `copies=1` a checkpoint still needs a majority: it must not name a node that one bucket alone holds."""
    monkeypatch.setenv("SKYHOLD_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SKYHOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SKYHOLD_KEY_FILE", raising=False)
    monkeypatch.delenv("SKYHOLD_PASSPHRASE", raising=False)
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.bin").write_bytes(b"weights")
    monkeypatch.setattr(opening, "DEFAULT_POLICY", RetryPolicy(attempts_max=1))
    write = FolderBucket.write

    def refuse_blobs(bucket: FolderBucket, key: str, body: object, **options: object) -> object:
        if bucket.name in "bc" and key.startswith(("nodes/", "versions/", "layouts/")):
            raise Unavailable("the bucket hiccups", code="hiccup", bucket=bucket.name)
        return write(bucket, key, body, **options)  # type: ignore[arg-type]

    with skyhold.init([str(tmp_path / name) for name in "abc"], settings=load_settings()) as store:
        repository = store.create_repository("team/model", policy=skyhold.Policy(copies=1))
        monkeypatch.setattr(FolderBucket, "write", refuse_blobs)
        with pytest.raises(SkyholdError) as caught:
            repository.push(model)
        assert caught.value.code == "not_durable"
        monkeypatch.setattr(FolderBucket, "write", write)
        assert not repository.push(model).lagging
