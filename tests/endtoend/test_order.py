"""A ref moves only when everything that it leads to is durable."""

from __future__ import annotations

import threading
from collections import defaultdict
from pathlib import Path

import pytest

from skyhold.buckets.folder import FolderBucket
from skyhold.consensus.buckets import BucketRegisters
from skyhold.consensus.register import Versioned
from skyhold.registry.store import Store
from tests.cli.models import write_model
from tests.endtoend.machines import CLOUDS

HELD_BACK_S = 0.2
MAJORITY = 2


@pytest.mark.parametrize("kind", ["packs", "indexes", "layouts", "tensors", "versions", "nodes"])
def test_ref_waits_for_a_majority_of_every_kind_of_object(
    kind: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clouds hold objects of one kind back, until the ref moves or a while has passed."""
    repository = store.repository("fraud/scorer")
    repository.set_refs({f"alias/name-{number:04}-{'x' * 40}": "main" for number in range(60)})  # the map has nodes
    tuned = write_model(tmp_path / "tuned", rows=64, seed=5)
    moving = threading.Event()
    stored: dict[str, set[str]] = defaultdict(set)
    held_back, early = [], []
    write, compare_and_set = FolderBucket.write, BucketRegisters.compare_and_set

    def write_late(bucket: FolderBucket, key: str, body: bytes, **_options: object) -> None:
        stored[key]  # begun
        if bucket.name != CLOUDS[0] and key.startswith(f"{kind}/"):
            held_back.append(key)
            moving.wait(HELD_BACK_S)
        write(bucket, key, body)
        stored[key].add(bucket.name)

    def move(registers: BucketRegisters, key: str, expected: int, data: bytes, operation_id: str) -> Versioned:
        early.extend(object_key for object_key, names in stored.items() if len(names) < MAJORITY)
        moving.set()
        return compare_and_set(registers, key, expected, data, operation_id)

    monkeypatch.setattr(FolderBucket, "write", write_late)
    monkeypatch.setattr(BucketRegisters, "compare_and_set", move)
    repository.push(tuned, message="Two", aliases=["champion"])
    assert held_back, "the push shall write objects of this kind"
    assert moving.is_set()
    assert early == []
