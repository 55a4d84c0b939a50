"""A model as the cache of Hugging Face keeps it, links into blobs, goes into a store and comes out as files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import skyhold
from skyhold.errors import InvalidInput
from tests.cli.models import contents, write_model
from tests.endtoend.machines import Scene

REVISION = "5c1b8f0d3e2a49b7a6d0c4e8f1a2b3c4d5e6f708"


def snapshot_of(model: Path, hub: Path) -> Path:
    """The files of a model, as `huggingface_hub` stores them in its cache."""
    cache = hub / "models--fraud--scorer"
    snapshot = cache / "snapshots" / REVISION
    (cache / "blobs").mkdir(parents=True)
    for path, body in contents(model).items():
        blob = cache / "blobs" / hashlib.sha256(body).hexdigest()
        blob.write_bytes(body)
        link = snapshot / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * (2 + path.count("/"))) / "blobs" / blob.name)
    return snapshot


def test_snapshot_is_pushed_and_pulled_as_files(scene: Scene, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    (model / "tokenizer").mkdir()
    (model / "tokenizer" / "vocab.txt").write_text("a\nb\n")
    snapshot = snapshot_of(model, tmp_path / "hub")
    with skyhold.init(scene.clouds()) as store:
        repository = store.repository("fraud/scorer", create=True)
        repository.push(snapshot)
        repository.pull("main", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(model)
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


def test_snapshot_with_a_link_into_another_models_cache_is_refused_whole(scene: Scene, tmp_path: Path) -> None:
    snapshot = snapshot_of(write_model(tmp_path / "model"), tmp_path / "hub")
    other = tmp_path / "hub" / "models--other--model" / "blobs" / ("0" * 64)
    other.parent.mkdir(parents=True)
    other.write_bytes(b"of another model")
    (snapshot / "stolen").symlink_to(other)
    with skyhold.init(scene.clouds()) as store:
        repository = store.repository("fraud/scorer", create=True)
        with pytest.raises(InvalidInput, match="stolen"):
            repository.push(snapshot)
        assert store.repository_names() == []
