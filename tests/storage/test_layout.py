"""Layouts and index segments: what was written is read, and what cannot be is `Corrupt`."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyhold.codec.tensors import Tensor
from skyhold.errors import Corrupt
from skyhold.storage.chunk_index import KnownPack
from skyhold.storage.chunk_record import PackRef, Place
from skyhold.storage.index_segments import decode_segment, encode_segment
from skyhold.storage.layout import (
    PAGE_BYTES_MAX,
    PageBuilder,
    Run,
    decode_head,
    decode_page,
    decode_tensors,
    encode_head,
    encode_tensors,
)

PACKS = st.builds(PackRef, st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
LENGTHS = st.integers(1, 4 << 20)


@st.composite
def places(draw: st.DrawFn, pack: PackRef, base_id: bytes | None = None) -> Place:
    raw = draw(LENGTHS)
    chunk_id = b"\x01" + draw(st.binary(min_size=31, max_size=31))  # zeros name no chunk
    offset = draw(st.integers(64, 64 << 20))
    return Place(chunk_id, pack, offset, draw(st.integers(17, raw + 1024)), raw, draw(st.integers(0, 255)), base_id)


@st.composite
def places_with_bases(draw: st.DrawFn) -> list[tuple[Place, Place | None]]:
    packs = draw(st.lists(PACKS, min_size=1, max_size=4))
    found: list[tuple[Place, Place | None]] = []
    bases: dict[bytes, Place] = {}
    for _ in range(draw(st.integers(0, 12))):
        base = draw(st.none() | places(draw(st.sampled_from(packs))))
        if base is not None:
            base = bases.setdefault(base.chunk_id, base)
        place = draw(places(draw(st.sampled_from(packs)), None if base is None else base.chunk_id))
        found.append((place, base))
    return found


def page_of(chunks: list[tuple[Place, Place | None]]) -> bytes:
    builder = PageBuilder()
    for place, base in chunks:
        builder.append(place, base)
    return builder.finish()


@given(places_with_bases())
def test_a_page_gives_its_places_and_their_bases(chunks: list[tuple[Place, Place | None]]) -> None:
    page = decode_page(page_of(chunks), "name")
    assert list(page.places) == [place for place, _ in chunks]
    assert page.bases == {base.chunk_id: base for _, base in chunks if base is not None}


@given(places_with_bases(), st.lists(st.builds(Run, *[st.integers(0, 2**32 - 1)] * 4, st.integers(0, 2**64 - 1))))
def test_a_head_gives_its_runs_and_first_page(chunks: list[tuple[Place, Place | None]], runs: list[Run]) -> None:
    body = encode_head("ab" * 32, "00" * 8, runs, ["cd" * 32], "ef" * 32, page_of(chunks))
    head = decode_head(body, "name")
    assert (head.version, head.placement_class, head.pages) == ("ab" * 32, "00" * 8, ("cd" * 32,))
    assert (list(head.runs), head.tensors) == (runs, "ef" * 32)
    assert list(head.first_page.places) == [place for place, _ in chunks]


PLACE = Place(b"i" * 32, PackRef(b"p" * 16, b"s" * 16), 64, 30, 20, 0, None)


def test_every_truncation_of_a_head_is_found() -> None:
    body = encode_head("ab" * 32, "00" * 8, [Run(0, 0, 0, 1, 0)], [], None, page_of([(PLACE, None)]))
    for length in range(len(body)):
        with pytest.raises(Corrupt):
            decode_head(body[:length], "name")


@pytest.mark.parametrize(
    ("stored", "raw"),
    [(30, 0), (0, 20), (30, (4 << 20) + 1), (20 + 1025, 20), (16, 20)],
    ids=["raw", "stored", "long", "grown", "tag"],
)
def test_a_place_with_lengths_that_cannot_be_is_refused(stored: int, raw: int) -> None:
    place = Place(PLACE.chunk_id, PLACE.pack, 64, stored, raw, 0, None)
    with pytest.raises(ValueError, match="which cannot be"):  # a writer refuses what its readers do
        page_of([(place, None)])
    body, lengths = bytearray(page_of([(PLACE, None)])), struct.pack("<II", PLACE.stored_length, PLACE.raw_length)
    at = body.index(lengths)
    body[at : at + len(lengths)] = struct.pack("<II", stored, raw)
    with pytest.raises(Corrupt):
        decode_page(body, "name")


@pytest.mark.parametrize(("at", "what"), [(12 + 32 + 32, "pack"), (12 + 32 + 32 + 16, "base")])
def test_a_place_that_points_outside_its_page_is_refused(at: int, what: str) -> None:
    body = bytearray(page_of([(PLACE, None)]))
    body[at : at + 4] = (1).to_bytes(4, "little")
    with pytest.raises(Corrupt):
        decode_page(body, what)


def test_a_full_page_is_at_most_a_mebibyte_whatever_its_chunks_need() -> None:
    builder = PageBuilder()
    number = 0
    while not builder.full():
        number += 1
        pack, other = (PackRef(bytes([kind]) + number.to_bytes(15, "big"), bytes(16)) for kind in (0, 1))
        base = Place(number.to_bytes(32, "big"), other, 64, 30, 20, 0, None)
        builder.append(Place(bytes(32), pack, 64, 30, 20, 0x21, base.chunk_id), base)
    assert PAGE_BYTES_MAX - 400 < len(builder.finish()) <= PAGE_BYTES_MAX


def test_the_bytes_of_a_page_are_those_of_the_format() -> None:
    delta = Place(b"d" * 32, PLACE.pack, 158, 19, 20, 0x21, PLACE.chunk_id)
    assert page_of([(delta, PLACE)]) == b"".join(
        (
            bytes.fromhex("01000000 01000000 01000000"), b"p" * 16 + b"s" * 16,
            b"d" * 32, bytes.fromhex("00000000 9e000000 13000000 14000000 00000000 21 000000"),
            b"i" * 32, bytes.fromhex("00000000 40000000 1e000000 14000000 ffffffff 00 000000"),
        )
    )  # fmt: skip


def test_tensors_come_back() -> None:
    tensors = {"a/b.safetensors": (Tensor("w", "BF16", (2, 3), 8, 20), Tensor("s", "F32", (), 20, 24))}
    assert decode_tensors(encode_tensors(tensors), "name") == tensors
    with pytest.raises(Corrupt):
        decode_tensors(b'{"a": [1]}', "name")


@given(places_with_bases().filter(bool), st.sets(st.text("0123456789abcdef", min_size=64, max_size=64), max_size=3))
def test_a_segment_gives_its_packs_and_chunks(chunks: list[tuple[Place, Place | None]], replaced: set[str]) -> None:
    found = [place for place, _ in chunks]
    packs = [KnownPack(pack, "00" * 8, 1000) for pack in dict.fromkeys(place.pack for place in found)]
    segment = decode_segment(encode_segment("00" * 8, packs, found, replaced), "name")
    assert (segment.packs, segment.replaces, segment.placement_class) == (tuple(packs), replaced, "00" * 8)
    assert sorted(segment.places, key=repr) == sorted(found, key=repr)
    assert [place.chunk_id for place in segment.places] == sorted(place.chunk_id for place in found)


def test_every_truncation_of_a_segment_is_found() -> None:
    body = encode_segment("00" * 8, [KnownPack(PLACE.pack, "00" * 8, 1000)], [PLACE], [])
    for length in range(len(body)):
        with pytest.raises(Corrupt):
            decode_segment(body[:length], "name")
