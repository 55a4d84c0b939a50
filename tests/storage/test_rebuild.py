"""A pack that is built anew out of its chunks has every record at its old place."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import zstandard
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from skyhold.codec.squeeze import Codec, Decoder, Encoder
from skyhold.errors import Corrupt
from skyhold.storage.chunk_record import PackSession, Place, RecordSealer, open_record
from skyhold.storage.pack import PACK_BYTES_TARGET, PackBuilder, check_pack, pack_contents
from skyhold.storage.rebuild import LostPack, check_places, rebuild_pack
from tests.storage.fixtures import frame_keys

ID_KEY = b"i" * 32
BFLOAT, FLOAT, DOUBLE, BYTES, TEXT, NOISE = range(6)


def chunk_of(kind: int, seed: int, size: int) -> tuple[bytes, str | None]:
    generator = np.random.default_rng(seed)
    if kind == TEXT:
        return (b"layer %d of %d; " % (seed, kind)) * (size // 16 + 1), None
    if kind == NOISE:
        return generator.bytes(size), None
    if kind == BYTES:
        return generator.integers(0, 4, size, np.uint8).tobytes(), "U8"
    values = generator.normal(0, 0.02, size // 8 + 1)
    if kind == DOUBLE:
        return values.tobytes(), "F64"
    single = values.astype(np.float32)
    return (single.tobytes(), "F32") if kind == FLOAT else ((single.view("<u4") >> 16).astype("<u2").tobytes(), "BF16")


def nearby(data: bytes, seed: int) -> bytes:
    changed = np.frombuffer(data, np.uint8).copy()
    changed[:: 7 + seed % 5] ^= 1
    return changed.tobytes()


@settings(max_examples=60, print_blob=True)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 99), st.integers(1, 300_000), st.booleans()),
        min_size=1, max_size=6, unique_by=lambda drawn: drawn[1],
    ),
    st.booleans(),
    st.data(),
)  # fmt: skip
def test_pack_is_built_anew_place_for_place(
    drawn: list[tuple[int, int, int, bool]], sealed: bool, data: st.DataObject
) -> None:
    keys, session, encoder = frame_keys(sealed=sealed), PackSession(os.urandom(16), bytes(8), os.urandom(16)), Encoder()
    sealer, chunks = RecordSealer(keys, session), dict[bytes, bytes]()
    builder = PackBuilder(bytearray(PACK_BYTES_TARGET), session, keys)
    for kind, seed, size, is_delta in drawn:
        chunk, dtype = chunk_of(kind, seed, size)
        base_id, base = None, None
        if is_delta:
            base = nearby(chunk, seed)
            base_id = blake3(base, key=ID_KEY).digest()
            chunks[base_id] = base
        encoded = encoder.encode(chunk, dtype=dtype, base=base)
        chunk_id = blake3(chunk, key=ID_KEY).digest()
        chunks[chunk_id] = chunk
        base_id = base_id if encoded.codec >= Codec.DELTA_1 else None
        builder.append(sealer.seal(chunk_id, encoded.codec, len(chunk), base_id, encoded.payload))
    pack, places = bytes(builder.finish()), tuple(builder.places)
    damaged = bytearray(pack)
    for place in places:
        if data.draw(st.booleans()):
            damaged[place.offset + data.draw(st.integers(0, place.record_length - 1))] ^= 1
    copies = data.draw(st.sampled_from([(), (bytes(damaged),), (bytes(damaged[: len(pack) // 2]),)]))
    assert check_places(places, set(places))
    built = rebuild_pack(LostPack(builder.pack, session, (places,), copies), chunks.get, keys)
    assert pack_contents(built, builder.pack.pack_id, session.store_id, keys) == (session, list(places))
    assert all(intact for _, intact in check_pack(built, builder.pack.pack_id, session.store_id, keys))
    if not sealed:
        last = places[-1].offset + places[-1].record_length
        assert built[:last] == pack[:last]


def encoder_of_other_settings(level: int) -> Encoder:
    """As another version of the program may have been: in each codec, but with other lengths."""
    encoder = Encoder()
    encoder._entropy = encoder._general = zstandard.ZstdCompressor(level=level)
    return encoder


@settings(max_examples=60, print_blob=True, deadline=None)
@given(
    st.integers(0, 4),
    st.integers(0, 99),
    st.integers(1000, 60_000),
    st.booleans(),
    st.sampled_from([-5, 1, 2, 9, 12, 19]),
)
def test_pack_of_other_compression_settings_is_built_anew_place_for_place(
    kind: int, seed: int, size: int, is_delta: bool, level: int
) -> None:
    keys, session = frame_keys(sealed=False), PackSession(os.urandom(16), bytes(8), os.urandom(16))
    chunk, dtype = chunk_of(kind, seed, size)
    base = nearby(chunk, seed) if is_delta else None
    encoded = encoder_of_other_settings(level).encode(chunk, dtype=dtype, base=base)
    chunk_id, base_id = (blake3(data, key=ID_KEY).digest() for data in (chunk, base or b""))
    named = base_id if encoded.codec >= Codec.DELTA_1 else None
    builder = PackBuilder(bytearray(PACK_BYTES_TARGET), session, keys)
    place = builder.append(
        RecordSealer(keys, session).seal(chunk_id, encoded.codec, len(chunk), named, encoded.payload)
    )
    builder.finish()
    chunks = {chunk_id: chunk} | ({base_id: base} if base else {})
    built = rebuild_pack(LostPack(builder.pack, session, ((place,),), ()), chunks.get, keys)
    assert pack_contents(built, builder.pack.pack_id, session.store_id, keys)[1] == [place]
    record = built[place.offset : place.offset + place.record_length]
    payload = open_record(record, place, session, keys)
    assert Decoder().decode(place.codec, payload, place.raw_length, base) == chunk


def lost(data: bytes, **wrong: int) -> tuple[LostPack, dict[bytes, bytes]]:
    keys, session = frame_keys(sealed=False), PackSession(os.urandom(16), bytes(8), os.urandom(16))
    builder = PackBuilder(bytearray(1 << 20), session, keys)
    chunk_id = blake3(data, key=ID_KEY).digest()
    place = builder.append(RecordSealer(keys, session).seal(chunk_id, Codec.RAW, len(data), None, data))
    return LostPack(builder.pack, session, ((replace(place, **wrong),),), ()), {chunk_id: data}  # type: ignore[arg-type]


def test_chunk_that_is_nowhere_is_named() -> None:
    pack, _ = lost(b"content")
    with pytest.raises(Corrupt, match="no bucket holds another copy of it") as caught:
        rebuild_pack(pack, lambda _: None, frame_keys(sealed=False))
    assert caught.value.code == "chunk_lost"


@pytest.mark.parametrize(
    "wrong", [{"stored_length": 24}, {"raw_length": 9}, {"codec": 1}, {"codec": 99}, {"offset": 80}]
)
def test_place_in_which_the_chunk_does_not_fit_is_refused(wrong: dict[str, int]) -> None:
    pack, chunks = lost(b"content", **wrong)
    with pytest.raises(Corrupt) as caught:
        rebuild_pack(pack, chunks.get, frame_keys(sealed=False))
    assert caught.value.code == "chunk_lost"


def test_places_with_a_gap_or_without_what_layouts_name_are_no_pack() -> None:
    pack, _ = lost(b"content")
    ((place,),) = pack.listings
    later = replace(place, offset=place.offset + place.record_length)
    assert check_places([place, later], {later})
    assert not check_places([later], {later})
    assert not check_places([place], {later})
    assert not check_places(list[Place](), set())


def test_wrong_listing_does_not_hide_a_right_one() -> None:
    """Any client with write access to one bucket of an open store can add a segment to the index."""
    pack, chunks = lost(b"content")
    ((place,),) = pack.listings
    invented = replace(place, chunk_id=b"x" * 32, offset=place.offset + place.record_length)
    built = rebuild_pack(replace(pack, listings=((place, invented), (place,))), chunks.get, frame_keys(sealed=False))
    assert pack_contents(built, pack.pack.pack_id, pack.session.store_id, frame_keys(sealed=False))[1] == [place]
