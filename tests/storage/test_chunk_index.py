"""The chunk index under several processes, forks and pushes that died."""

from __future__ import annotations

import gc
import multiprocessing
import os
from pathlib import Path

from skyhold.storage.chunk_index import ChunkIndex, KnownPack
from skyhold.storage.chunk_record import PackRef, Place

CLASS = "00" * 8


def entered(chunk_index: ChunkIndex, *, seed: bytes = b"p") -> Place:
    pack = PackRef(seed * 16, b"s" * 16)
    place = Place(seed * 32, pack, 64, 30, 20, 0, None)
    chunk_index.enter(KnownPack(pack, CLASS, 1000), [place])
    return place


def test_a_pack_that_another_push_is_sending_is_not_reused_before_it_arrived(tmp_path: Path) -> None:
    ours, theirs = ChunkIndex(tmp_path), ChunkIndex(tmp_path)
    place = entered(ours)
    assert ours.find(place.chunk_id, CLASS) == place
    assert theirs.find(place.chunk_id, CLASS) is None
    assert theirs.abandoned(CLASS) == [], "its push still runs"
    ours.arrived(place.pack_id)
    assert theirs.find(place.chunk_id, CLASS) == place
    assert theirs.find(place.chunk_id, "11" * 8) is None, "another class"
    ours.close()
    theirs.close()


def test_the_packs_of_a_push_that_died_are_abandoned(tmp_path: Path) -> None:
    def die() -> None:
        entered(ChunkIndex(tmp_path))
        os._exit(9)

    process = multiprocessing.get_context("fork").Process(target=die)
    process.start()
    process.join(20)
    chunk_index = ChunkIndex(tmp_path)
    (known,) = chunk_index.abandoned(CLASS)
    chunk_index.forget([known.pack.pack_id])
    assert chunk_index.abandoned(CLASS) == []
    assert chunk_index.size_bytes(known.pack.pack_id) is None
    chunk_index.close()


def test_a_forked_child_that_ends_leaves_the_session_of_its_parent(tmp_path: Path) -> None:
    chunk_index = ChunkIndex(tmp_path)
    place = entered(chunk_index)
    process = multiprocessing.get_context("fork").Process(target=gc.collect)
    process.start()
    process.join(20)
    assert process.exitcode == 0
    other = ChunkIndex(tmp_path)
    assert other.abandoned(CLASS) == [], "the parent still lives"
    chunk_index.arrived(place.pack_id)
    assert other.find(place.chunk_id, CLASS) == place
    other.close()
    chunk_index.close()


def test_a_whole_chunk_is_found_rather_than_a_delta(tmp_path: Path) -> None:
    chunk_index = ChunkIndex(tmp_path)
    whole = entered(chunk_index)
    pack = PackRef(b"q" * 16, b"s" * 16)
    chunk_index.enter(KnownPack(pack, CLASS, 1000), [Place(whole.chunk_id, pack, 64, 9, 20, 0x21, b"b" * 32)])
    assert chunk_index.find(whole.chunk_id, CLASS) == whole
    chunk_index.close()


def test_a_segment_counts_as_replaced_also_where_it_is_read_after_its_replacer(tmp_path: Path) -> None:
    """Segments are listed by the hash of their bytes, so either may come first."""
    for number, order in enumerate((["old", "new"], ["new", "old"])):
        chunk_index = ChunkIndex(tmp_path / str(number))
        place = entered(chunk_index)
        pack = KnownPack(place.pack, CLASS, 1000)
        replaces = {"old": set[str](), "new": {"old"}}
        for name in order:
            assert name not in chunk_index.segments(CLASS, [name]), "it is still to be read"
            chunk_index.add_segment(name, CLASS, [pack], [place], replaces[name])
        assert chunk_index.segments(CLASS, ["old", "new", "other"]) == {"old", "new"}
        assert chunk_index.small_segments(CLASS, 10) == {"new"}
        assert chunk_index.packs_in("new") == [pack]
        chunk_index.close()
