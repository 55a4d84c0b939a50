"""Packs: appended records are read back, and changed ones are refused."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyhold.errors import Corrupt
from skyhold.storage import pack as pack_module
from skyhold.storage.chunk_record import PackSession, Place, RecordSealer, open_record
from skyhold.storage.pack import PACK_BYTES_TARGET, PackBuilder, check_pack, merge_packs
from tests.storage.fixtures import frame_keys

STORE, CLASS, SALT = b"s" * 16, b"c" * 8, b"t" * 16
SESSION = PackSession(STORE, CLASS, SALT)
GOLDEN = "96aa2cff2c176bb3ca75b5b7157b539b4f52c39b14c2336fc696ea143e1c731b"


def build(chunks: list[bytes], *, sealed: bool, session: PackSession = SESSION) -> tuple[bytes, list[Place]]:
    keys = frame_keys(sealed=sealed)
    sealer, builder = RecordSealer(keys, session), PackBuilder(bytearray(PACK_BYTES_TARGET), session, keys)
    for number, chunk in enumerate(chunks):
        record = sealer.seal(bytes([number]) * 32, 0, len(chunk), None, chunk)
        assert builder.fits(record)
        builder.append(record)
    return bytes(builder.finish()), builder.places


@pytest.mark.parametrize("sealed", [False, True])
@given(chunks=st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=20))
def test_records_are_read_as_they_were_appended(sealed: bool, chunks: list[bytes]) -> None:
    keys = frame_keys(sealed=sealed)
    pack, places = build(chunks, sealed=sealed)
    checked = list(check_pack(pack, places[0].pack_id, STORE, keys))
    assert checked == [(place, True) for place in places]
    opened = [open_record(pack[p.offset : p.offset + p.record_length], p, SESSION, keys) for p in places]
    assert [bytes(chunk) for chunk in opened] == chunks


@pytest.mark.parametrize("sealed", [False, True])
def test_every_flipped_byte_of_a_pack_is_found(sealed: bool) -> None:
    keys = frame_keys(sealed=sealed)
    pack, places = build([b"first chunk", b"second"], sealed=sealed)
    for at in range(len(pack)):
        damaged = bytearray(pack)
        damaged[at] ^= 1
        try:
            states = [intact for _, intact in check_pack(damaged, places[0].pack_id, STORE, keys)]
        except Corrupt:
            continue
        assert not all(states), f"byte {at} was flipped without an error"


@pytest.mark.parametrize("sealed", [False, True])
def test_every_truncation_of_a_pack_is_found(sealed: bool) -> None:
    pack, places = build([b"first chunk", b"second"], sealed=sealed)
    for length in range(len(pack)):
        with pytest.raises(Corrupt):
            list(check_pack(pack[:length], places[0].pack_id, STORE, frame_keys(sealed=sealed)))


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(
    "other",
    [PackSession(b"S" * 16, CLASS, SALT), PackSession(STORE, b"C" * 8, SALT), PackSession(STORE, CLASS, b"T" * 16)],
)
def test_a_record_does_not_open_in_another_store_class_or_session(sealed: bool, other: PackSession) -> None:
    keys = frame_keys(sealed=sealed)
    pack, (place,) = build([b"carried away"], sealed=sealed)
    record = pack[place.offset : place.offset + place.record_length]
    with pytest.raises(Corrupt):
        open_record(record, place, other, keys)


@pytest.mark.parametrize("sealed", [False, True])
def test_swapped_records_are_found(sealed: bool) -> None:
    pack, (first, second) = build([b"one of two", b"two of two"], sealed=sealed)
    swapped = bytearray(pack)
    a = slice(first.offset, first.offset + first.record_length)
    b = slice(second.offset, second.offset + second.record_length)
    swapped[a], swapped[b] = pack[b], pack[a]
    states = list(check_pack(swapped, first.pack_id, STORE, frame_keys(sealed=sealed)))
    assert [intact for _, intact in states] == [False, False]


def test_a_record_in_clear_is_refused_where_the_store_is_sealed() -> None:
    pack, (place,) = build([b"in clear"], sealed=False)
    with pytest.raises(Corrupt):
        open_record(pack[place.offset : place.offset + place.record_length], place, SESSION, frame_keys(sealed=True))


@pytest.mark.parametrize("sealed", [False, True])
def test_two_copies_damaged_in_different_records_make_one_intact_pack(sealed: bool) -> None:
    keys = frame_keys(sealed=sealed)
    pack, places = build([b"x" * 50, b"y" * 50, b"z" * 50], sealed=sealed)
    copies = []
    for place in (places[0], places[2]):
        copy = bytearray(pack)
        copy[place.offset + 100] ^= 0xFF
        copies.append(copy)
    assert merge_packs(list(copies), places[0].pack_id, STORE, keys) == pack
    assert merge_packs([copies[0], copies[0]], places[0].pack_id, STORE, keys) is None


def test_a_pack_with_its_footer_never_passes_the_target() -> None:
    keys = frame_keys(sealed=False)
    sealer = RecordSealer(keys, SESSION)
    builder = PackBuilder(bytearray(64 << 10), SESSION, keys)
    number = 0
    while builder.fits(record := sealer.seal(number.to_bytes(32, "big"), 0, 1, None, b"x")):
        builder.append(record)
        number += 1
    pack = builder.finish()
    assert number > 250
    assert len(pack) <= 64 << 10
    assert all(intact for _, intact in check_pack(pack, builder.pack.pack_id, STORE, keys))


def test_the_bytes_of_a_pack_are_those_of_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_module.os, "urandom", lambda count: b"\xa5" * count)
    pack, (place,) = build([b"golden"], sealed=False)
    assert pack[:64] == b"SKYP\x01\x00\x00\x00" + STORE + b"\xa5" * 16 + CLASS + SALT
    header = b"SKYC\x00\x00\x00\x00" + (6).to_bytes(4, "little") + (22).to_bytes(4, "little") + bytes(32 + 32 + 12 + 4)
    assert pack[64:160] == header
    assert pack[160:166] == b"golden"
    assert place.offset == 64
    assert hashlib.sha256(pack).hexdigest() == GOLDEN
