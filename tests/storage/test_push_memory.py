"""What a push stores once, and how little it keeps in memory of what it has stored."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import parse_location
from skyhold.buckets.open import create_bucket, open_bucket
from skyhold.storage import packer as packing
from skyhold.storage import push
from skyhold.storage.bases import DeltaBases
from skyhold.storage.chunk_record import Place, Record
from skyhold.storage.chunks import ChunkReader
from skyhold.storage.pack import PACK_BYTES_TARGET
from skyhold.storage.progress import Silence
from skyhold.storage.push import Push, PushOptions
from skyhold.storage.sources.folder import find_source
from tests.storage.fixtures import CLASS, FlakyBucket, Setup
from tests.storage.test_push_pull import tree_of, write_tree


@pytest.mark.parametrize("dry_run", [False, True])
def test_memory_of_a_push_does_not_grow_with_its_chunks(
    dry_run: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small packs, so that many of them are flushed: a chunk whose pack was flushed is the chunk index's to know."""
    monkeypatch.setattr(packing, "PACK_BYTES_TARGET", 1 << 15)
    setup = Setup(tmp_path / "state", [FlakyBucket("a")])
    kept: list[int] = []
    flush = packing.Packer.flush

    def counted(packer: packing.Packer) -> None:
        flush(packer)
        kept.append(len(packer._placed))

    monkeypatch.setattr(packing.Packer, "flush", counted)
    tree = {f"{number:04}": os.urandom(2000) for number in range(200)}
    setup.push(write_tree(tmp_path / "in", tree), options=PushOptions(dry_run=dry_run))
    assert len(kept) > 10
    assert set(kept) == {0}
    setup.close()


def test_a_dry_run_finds_the_chunks_that_it_would_have_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "PACK_BYTES_TARGET", 1 << 15)
    bucket = FlakyBucket("a")
    setup = Setup(tmp_path / "state", [bucket])
    data = {f"{number:04}": os.urandom(2000) for number in range(100)}
    path = write_tree(tmp_path / "in", data | {f"again/{name}": body for name, body in data.items()})
    with Push(setup.space, setup.chunk_index, no_bases(setup), PushOptions(dry_run=True), Silence()) as dry:
        pushed = dry.run(find_source(path).files)
    assert pushed.reused_bytes == 100 * 2000
    assert bucket.keys() == []
    assert setup.chunk_index.unlisted(CLASS.hex()) == [], "it has changed nothing"
    setup.close()


def test_the_buffers_of_packs_are_free_once_all_packs_are_sent(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "state", [folder_bucket(tmp_path / "bucket")])
    path = write_tree(tmp_path / "in", {"x": os.urandom(3 * PACK_BYTES_TARGET)})
    tracemalloc.start()
    try:
        with Push(setup.space, setup.chunk_index, no_bases(setup), PushOptions(), Silence()) as running:
            running.run(find_source(path).files)
            left_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    setup.close()
    assert left_bytes < PACK_BYTES_TARGET


def test_a_chunk_that_is_encoded_before_a_flush_and_again_after_it_is_stored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pack of the first is sent between the look-up of the second and its turn to be appended."""
    twice = os.urandom(5000)
    setup = Setup(tmp_path / "state", [FlakyBucket("a")])
    encode: Any = Push._encode
    append = packing.Packer.append

    def as_if_looked_up_before(running: Push, piece: Any) -> Any:
        find, running._known = running._known, lambda _chunk_id: None  # type: ignore[method-assign]
        try:
            return encode(running, piece)
        finally:
            running._known = find  # type: ignore[method-assign]

    def append_and_flush(packer: packing.Packer, record: Record, base: Place | None) -> Place:
        place = append(packer, record, base)
        packer.flush()
        return place

    monkeypatch.setattr(push.Push, "_encode", as_if_looked_up_before)
    monkeypatch.setattr(packing.Packer, "append", append_and_flush)
    version, pushed = setup.push(write_tree(tmp_path / "in", {"a": twice, "b": twice}), options=PushOptions(threads=1))
    assert pushed.reused_bytes == len(twice)
    assert len(pushed.packs_sent) == 1
    setup.pull(version, tmp_path / "out")
    assert tree_of(tmp_path / "out") == {"a": twice, "b": twice}
    setup.close()


def no_bases(setup: Setup) -> DeltaBases:
    return DeltaBases([], CLASS.hex(), ChunkReader(setup.space))


def folder_bucket(path: Path) -> Bucket:
    location = parse_location(str(path))
    create_bucket(location)
    return open_bucket(location)
