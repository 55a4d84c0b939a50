"""Index segments: what they list as contained, and which packs they may name (format.md, 8)."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from skyhold.errors import Corrupt, PermissionDenied, Unavailable
from skyhold.storage import index_segments as index
from skyhold.storage.chunk_index import ChunkIndex, KnownPack
from skyhold.storage.chunk_record import PackRef, Place
from skyhold.storage.index_segments import Segment, decode_segment, learn_segments, write_segments
from skyhold.storage.object_keys import INDEXES, blob_name_of
from tests.storage.fixtures import CLASS, FlakyBucket, Setup

FOLDER = f"{INDEXES}/{CLASS.hex()}"


@pytest.fixture
def merged_by_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "SEGMENTS_UNMERGED_MAX", 3)
    monkeypatch.setattr(index, "SEGMENT_CHUNKS_MAX", 3 * 100)


def arrive(setup: Setup, number: int, chunks: int = 1) -> bytes:
    """A pack that a push has sent, and that no segment lists yet."""
    pack = PackRef(number.to_bytes(16, "big"), b"s" * 16)
    places = [
        Place(number.to_bytes(16, "big") + at.to_bytes(16, "big"), pack, 64 + at, 30, 20, 0, None)
        for at in range(chunks)
    ]
    setup.chunk_index.enter(KnownPack(pack, CLASS.hex(), 1000), places)
    setup.chunk_index.arrived(pack.pack_id)
    return pack.pack_id


class KeepingBucket(FlakyBucket):
    """A bucket whose credentials may not delete: what was merged stays in it."""

    def delete(self, key: str) -> None:
        raise PermissionDenied(f"{key} may not be deleted", code="access_denied")

    def lose(self, key: str) -> None:
        super().delete(key)


def segments(setup: Setup, bucket: FlakyBucket) -> dict[str, Segment]:
    names = [name for key in bucket.keys(f"{INDEXES}/") if (name := blob_name_of(key)) is not None]
    return {name: decode_segment(setup.blobs.read(FOLDER, name), name) for name in names}


def in_force(found: dict[str, Segment]) -> dict[str, Segment]:
    replaced = set().union(*(segment.replaces for segment in found.values()))
    return {name: segment for name, segment in found.items() if name not in replaced}


def push_one(setup: Setup, number: int, chunks: int = 1) -> None:
    there = learn_segments(setup.chunk_index, setup.blobs, setup.replicas, CLASS.hex())
    write_segments(setup.chunk_index, setup.blobs, CLASS.hex(), {arrive(setup, number, chunks)}, there)


@pytest.mark.usefixtures("merged_by_three")
def test_a_segment_names_what_it_contains_at_second_hand(tmp_path: Path) -> None:
    bucket = KeepingBucket("a")
    setup = Setup(tmp_path / "state", [bucket])
    for number in range(12):
        push_one(setup, number)
    found = segments(setup, bucket)
    second_hand = 0
    for name, segment in found.items():
        packs = {known.pack for known in segment.packs}
        for old in segment.replaces:
            assert {known.pack for known in found[old].packs} <= packs, "what it does not contain it does not replace"
            assert found[old].replaces <= segment.replaces, f"{name} names {old}, but not what that one contains"
            second_hand += bool(found[old].replaces)
    assert second_hand
    assert {known.pack.pack_id for segment in in_force(found).values() for known in segment.packs} == {
        number.to_bytes(16, "big") for number in range(12)
    }
    setup.close()


@pytest.mark.usefixtures("merged_by_three")
def test_list_of_segments_does_not_grow_with_the_pushes(tmp_path: Path) -> None:
    bucket = FlakyBucket("a")
    setup = Setup(tmp_path / "state", [bucket])
    counts = []
    for number in range(40):
        push_one(setup, number)
        found = segments(setup, bucket)
        counts.append(len(found))
        assert all(len(segment.replaces) <= 3 for segment in found.values())
    assert max(counts[20:]) <= max(counts[:20])
    assert found == in_force(found)
    assert {known.pack.pack_id for segment in found.values() for known in segment.packs} == {
        number.to_bytes(16, "big") for number in range(40)
    }
    setup.close()


@pytest.mark.usefixtures("merged_by_three")
def test_bucket_that_did_not_take_the_merged_segment_keeps_those_that_it_has(tmp_path: Path) -> None:
    taking, lagging = FlakyBucket("a"), FlakyBucket("b")
    first = Setup(tmp_path / "state", [taking, lagging], copies=2)
    for number in range(3):
        push_one(first, number)
    first.close()
    before = set(lagging.keys(f"{INDEXES}/"))

    def refuse(key: str) -> None:
        raise Unavailable("away", code="bucket_unreachable")

    lagging.on_write = refuse
    then = Setup(tmp_path / "state", [taking, lagging])
    push_one(then, 3)
    then.close()
    assert set(lagging.keys(f"{INDEXES}/")) == before
    assert not before & set(taking.keys(f"{INDEXES}/"))


@pytest.mark.usefixtures("merged_by_three")
def test_segments_that_do_not_fit_into_one_are_each_merged_whole(tmp_path: Path) -> None:
    bucket = KeepingBucket("a")
    setup = Setup(tmp_path / "state", [bucket])
    for number in range(10):
        push_one(setup, number, chunks=95)
    found = segments(setup, bucket)
    for segment in found.values():
        packs = {known.pack for known in segment.packs}
        assert all({known.pack for known in found[old].packs} <= packs for old in segment.replaces)
        assert len(segment.places) <= 300
    listed = [known.pack for segment in in_force(found).values() for known in segment.packs]
    assert len(listed) == len(set(listed)) == 10
    setup.close()


@pytest.mark.usefixtures("merged_by_three")
def test_another_machine_knows_which_segments_are_in_force_though_the_one_between_is_gone(tmp_path: Path) -> None:
    bucket = KeepingBucket("a")
    setup = Setup(tmp_path / "state", [bucket])
    for number in range(12):
        push_one(setup, number)
    found = segments(setup, bucket)
    (last,) = [
        name for name, segment in in_force(found).items() if any(found[old].replaces for old in segment.replaces)
    ]
    between = [old for old in found[last].replaces if found[old].replaces]
    for name in between:
        bucket.lose(f"{FOLDER}/{name}")
    other = ChunkIndex(tmp_path / "other")
    learn_segments(other, setup.blobs, setup.replicas, CLASS.hex())
    assert other.small_segments(CLASS.hex(), 10**9) == set(in_force(found))
    assert other.contained_in(last) == found[last].replaces
    other.close()
    setup.close()


def test_no_segment_names_a_pack_that_is_not_durable(tmp_path: Path) -> None:
    """As a push leaves it that was killed: the pack arrived somewhere, and no later push reuses it."""
    bucket = FlakyBucket("a")
    setup = Setup(tmp_path / "state", [bucket])
    killed = arrive(setup, 1)
    push_one(setup, 2)
    (segment,) = segments(setup, bucket).values()
    assert [known.pack.pack_id for known in segment.packs] == [(2).to_bytes(16, "big")]
    assert [known.pack.pack_id for known in setup.chunk_index.unlisted(CLASS.hex())] == [killed]
    write_segments(setup.chunk_index, setup.blobs, CLASS.hex(), {killed})
    assert setup.chunk_index.unlisted(CLASS.hex()) == []
    setup.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("class", ["0" * 16]),
        ("class", "../packs"),
        ("class", 7),
        ("replaces", [7]),
        ("replaces", [["a"]]),
        ("replaces", "a"),
        ("replaces", {}),
        ("packs", -1),
        ("packs", True),
        ("packs", 10**30),
        ("chunks", None),
        ("index", 2),
        ("more", 1),
        ("size", 1 << 63),
        ("size", (1 << 64) - 1),
        ("raw", 0),
        ("stored", 1 << 31),
    ],
)
def test_forged_segment_in_a_bucket_of_an_open_store_is_skipped(field: str, value: object, tmp_path: Path) -> None:
    """In an open store any client that can read one bucket can compute its name and its MAC."""
    bucket = FlakyBucket("a")
    setup = Setup(tmp_path / "state", [bucket])
    push_one(setup, 1)
    (name,) = segments(setup, bucket)
    body = setup.blobs.read(FOLDER, name)
    (length,) = struct.unpack_from("<I", body)
    fields, rest = json.loads(body[4 : 4 + length]), bytearray(body[4 + length :])
    if isinstance(value, int) and field in {"size", "raw", "stored"}:
        at, kind = {"size": (32, "<Q"), "stored": (40 + 68, "<I"), "raw": (40 + 72, "<I")}[field]
        struct.pack_into(kind, rest, at, value)
    else:
        fields[field] = value
    document = json.dumps(fields).encode()
    forged = setup.blobs.write(FOLDER, struct.pack("<I", len(document)) + document + bytes(rest))
    with pytest.raises(Corrupt, match=f"Index segment {forged} is damaged"):
        decode_segment(setup.blobs.read(FOLDER, forged), forged)
    other = ChunkIndex(tmp_path / "other")
    learn_segments(other, setup.blobs, setup.replicas, CLASS.hex())
    assert other.segments(CLASS.hex(), [name, "0" * 64]) == {name}
    other.close()
    setup.close()
