"""Packs: building, walking and checking them (format.md, 6). No I/O here.

A record's payload is sealed, or authenticated, by whoever encoded it (`RecordSealer`, safe to use from several
threads); a `PackBuilder` only lays records one after another and writes the footer.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from blake3 import blake3

from skyhold import error_codes
from skyhold.codec.frame import FRAME_BYTES_OVER_BODY_MAX, HEADER_BYTES, FrameKeys, Kind, decode_frame, encode_frame
from skyhold.codec.seal import TAG_BYTES, open_sealed, seal
from skyhold.errors import Corrupt, PermissionDenied
from skyhold.units import MIB, Buffer

PACK_BYTES_TARGET: Final = 16 * MIB
"""What a writer fills at most, footer included."""

PACK_BYTES_MAX: Final = 64 * MIB
PACK_HEADER_BYTES: Final = 64
RECORD_HEADER_BYTES: Final = 96
CHUNK_BYTES_MAX: Final = 4 * MIB
STORED_BYTES_OVER_RAW_MAX: Final = 1024
STORED_BYTES_MIN: Final = TAG_BYTES + 1
NO_BASE: Final = bytes(32)

_PACK_HEADER: Final = struct.Struct("<4sBBH16s16s8s16s")
_RECORD_HEADER: Final = struct.Struct("<4sBBHII32s32s12sI")
_ENTRY: Final = struct.Struct("<32s32sIIIB3x")
_TRAILER: Final = struct.Struct("<I4s")
_SEALED: Final = 2
TRAILER_BYTES: Final = _TRAILER.size
_FOOTER_BYTES: Final = FRAME_BYTES_OVER_BODY_MAX + TRAILER_BYTES


@dataclass(frozen=True, slots=True)
class PackRef:
    """A pack by its 16-byte id, with the salt of its writing session, without which a sealed record does not open."""

    pack_id: bytes
    salt: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """Where one chunk lies. `stored_length` counts the payload with its tag, without the record's header."""

    chunk_id: bytes
    pack: PackRef
    offset: int
    stored_length: int
    raw_length: int
    codec: int
    base_id: bytes | None

    @property
    def pack_id(self) -> bytes:
        return self.pack.pack_id

    @property
    def record_length(self) -> int:
        return RECORD_HEADER_BYTES + self.stored_length


@dataclass(frozen=True, slots=True)
class Record:
    """An encoded chunk, ready for a pack: header, payload and tag are written one after another."""

    chunk_id: bytes
    base_id: bytes | None
    codec: int
    raw_length: int
    header: bytes
    payload: Buffer
    tag: bytes

    @property
    def stored_length(self) -> int:
        return len(self.payload) + len(self.tag)


def split_record(record: Buffer, place: Place) -> Record:
    """A stored record as a `PackBuilder` takes it."""
    view = memoryview(record)
    return Record(
        place.chunk_id,
        place.base_id,
        place.codec,
        place.raw_length,
        bytes(view[:RECORD_HEADER_BYTES]),
        view[RECORD_HEADER_BYTES:-TAG_BYTES],
        bytes(view[-TAG_BYTES:]),
    )


@dataclass(frozen=True, slots=True)
class PackSession:
    """What all packs of one writing session have in common; bound into every record's seal or tag."""

    store_id: bytes
    placement_class: bytes
    salt: bytes

    @property
    def encoded(self) -> bytes:
        return self.store_id + self.placement_class + self.salt


def check_lengths(raw_length: int, stored_length: int) -> None:
    """Raise `ValueError` for the lengths of a record that cannot be: of one to be written a mistake of ours."""
    if (
        not 0 < raw_length <= CHUNK_BYTES_MAX
        or not STORED_BYTES_MIN <= stored_length <= raw_length + STORED_BYTES_OVER_RAW_MAX
    ):
        raise ValueError(f"a chunk of {raw_length} bytes, stored in {stored_length}, which cannot be")


class RecordSealer:
    """Seals or authenticates the records of one writing session."""

    def __init__(self, keys: FrameKeys, session: PackSession) -> None:
        self._keys = keys
        self.session = session
        self._number = keys.number
        self._cipher_key = _record_key(keys, keys.number, session.salt)

    def seal(self, chunk_id: bytes, codec: int, raw_length: int, base_id: bytes | None, encoded: Buffer) -> Record:
        sealed = self._keys.sealed
        nonce = os.urandom(12) if sealed else bytes(12)
        stored_length = len(encoded) + TAG_BYTES
        check_lengths(raw_length, stored_length)
        header = _RECORD_HEADER.pack(
            b"SKYC", codec, _SEALED if sealed else 0, self._number, raw_length, stored_length,
            chunk_id, base_id or NO_BASE, nonce, 0,
        )  # fmt: skip
        if sealed:
            stored = memoryview(seal(self._cipher_key, nonce, encoded, self.session.encoded + header))
            return Record(chunk_id, base_id, codec, raw_length, header, stored[:-TAG_BYTES], bytes(stored[-TAG_BYTES:]))
        tag = _tag(self._keys, self._number, self.session, header, encoded)
        return Record(chunk_id, base_id, codec, raw_length, header, encoded, tag)


def open_record(record: Buffer, place: Place, session: PackSession | None, keys: FrameKeys) -> Buffer:
    """The encoded chunk of the record at `place`.

    The header must agree with the place. A sealed record is opened, for which the session of its pack is needed; of an
    authenticated one the tag is checked only where it is given: whoever decodes the chunk checks its id anyway.
    Raises `Corrupt`.
    """
    header = bytes(record[:RECORD_HEADER_BYTES])
    if len(record) != place.record_length:
        _corrupt(place, "it has another length than its place says")
    magic, codec, flags, number, raw_length, stored_length, chunk_id, base_id, nonce, zero = _RECORD_HEADER.unpack(
        header
    )
    expected = (
        b"SKYC",
        place.codec,
        place.raw_length,
        place.stored_length,
        place.chunk_id,
        place.base_id or NO_BASE,
        0,
    )
    if (magic, codec, raw_length, stored_length, chunk_id, base_id, zero) != expected or flags & ~_SEALED:
        _corrupt(place, "its header is not that of this chunk")
    try:
        check_lengths(raw_length, stored_length)
    except ValueError as error:
        _corrupt(place, str(error))
    payload = memoryview(record)[RECORD_HEADER_BYTES:]
    if flags & _SEALED:
        if session is None:
            raise AssertionError("a sealed record needs the session of its pack")
        return open_sealed(
            _record_key(keys, number, session.salt),
            nonce,
            payload,
            session.encoded + header,
            f"chunk {chunk_id.hex()[:16]}",
        )
    if keys.sealed:
        _corrupt(place, "it is in clear, but the store is sealed")
    if session is not None and _tag(keys, number, session, header, payload[:-TAG_BYTES]) != payload[-TAG_BYTES:]:
        _corrupt(place, "its authentication code does not match")
    return payload[:-TAG_BYTES]


class PackBuilder:
    """Lays records into one buffer of `PACK_BYTES_TARGET` until the pack is full. The buffer is the caller's."""

    def __init__(self, buffer: bytearray, session: PackSession, keys: FrameKeys, pack_id: bytes | None = None) -> None:
        self.pack = PackRef(pack_id or os.urandom(16), session.salt)
        self.places: list[Place] = []
        self._keys = keys
        self._view = memoryview(buffer)
        flags = _SEALED if keys.sealed else 0
        _PACK_HEADER.pack_into(
            buffer,
            0,
            b"SKYP",
            1,
            flags,
            keys.number,
            session.store_id,
            self.pack.pack_id,
            session.placement_class,
            session.salt,
        )
        self._end = PACK_HEADER_BYTES

    def fits(self, record: Record) -> bool:
        """Whether the record still goes into this pack, with the footer; into an empty one every record does."""
        footer_bytes = _FOOTER_BYTES + _ENTRY.size * (len(self.places) + 1)
        return self._end + RECORD_HEADER_BYTES + record.stored_length + footer_bytes <= len(self._view)

    def append(self, record: Record) -> Place:
        start, view = self._end, self._view
        body = start + RECORD_HEADER_BYTES
        tag = body + len(record.payload)
        view[start:body] = record.header
        view[body:tag] = record.payload
        self._end = tag + len(record.tag)
        view[tag : self._end] = record.tag
        place = Place(
            record.chunk_id, self.pack, start, record.stored_length, record.raw_length, record.codec, record.base_id
        )
        self.places.append(place)
        return place

    def finish(self) -> memoryview:
        """The whole pack, a view into the buffer. The footer is decoded again and compared before it is trusted."""
        context = f"packs/{self.pack.pack_id.hex()}"
        body = encode_entries(self.places)
        footer = encode_frame(Kind.PACK_FOOTER, body, context=context, keys=self._keys)
        if decode_frame(footer, kind=Kind.PACK_FOOTER, context=context, keys=self._keys) != body:
            raise AssertionError("a footer does not decode to what was encoded")
        tail = footer + _TRAILER.pack(len(footer), b"SKYE")
        end = self._end + len(tail)
        self._view[self._end : end] = tail
        return self._view[:end]


def pack_bytes_at_most(places: Sequence[Place]) -> int:
    """The length of a pack of these places, or a little more."""
    records = sum(place.record_length for place in places)
    return PACK_HEADER_BYTES + records + _FOOTER_BYTES + _ENTRY.size * len(places)


def encode_entries(places: Sequence[Place]) -> bytes:
    """The entries of a pack footer, in order. Raises `ValueError` for a place that cannot be."""
    for place in places:
        check_lengths(place.raw_length, place.stored_length)
    return unchecked_entries(places)


def unchecked_entries(places: Iterable[Place]) -> bytes:
    """As `encode_entries`, also of places that were noted somewhere and may have been changed."""
    return b"".join(
        _ENTRY.pack(p.chunk_id, p.base_id or NO_BASE, p.offset, p.stored_length, p.raw_length, p.codec) for p in places
    )


def decode_entries(body: Buffer, pack: PackRef) -> list[Place]:
    """The places that a footer's body lists. Raises `Corrupt`."""
    places = []
    try:
        for chunk_id, base, offset, stored, raw, codec in _ENTRY.iter_unpack(body):
            check_lengths(raw, stored)
            places.append(Place(chunk_id, pack, offset, stored, raw, codec, None if base == NO_BASE else base))
    except (ValueError, struct.error) as error:
        raise Corrupt(
            f"The footer of pack {pack.pack_id.hex()} is damaged: {error}",
            code=error_codes.FOOTER_DAMAGED,
            pack=pack.pack_id.hex(),
        ) from error
    return places


def read_header(header: Buffer, pack_id: bytes, store_id: bytes) -> PackSession:
    """The session of a pack, from its first 64 bytes. Raises `Corrupt`."""
    if len(header) < PACK_HEADER_BYTES:
        raise Corrupt(
            f"Pack {pack_id.hex()} is shorter than a header", code=error_codes.PACK_DAMAGED, pack=pack_id.hex()
        )
    magic, format_, _flags, _number, store, pack, placement_class, salt = _PACK_HEADER.unpack(
        bytes(header[:PACK_HEADER_BYTES])
    )
    if magic != b"SKYP" or format_ != 1 or store != store_id or pack != pack_id:
        raise Corrupt(
            f"Pack {pack_id.hex()} does not begin with its own header", code=error_codes.PACK_DAMAGED,
            hint="Run `skyhold repair`", pack=pack_id.hex(),
        )  # fmt: skip
    return PackSession(store, placement_class, salt)


def footer_span(trailer: Buffer, pack_size_bytes: int, pack_id: bytes) -> tuple[int, int]:
    """Start and length of the footer, from the pack's last 8 bytes. Raises `Corrupt`."""
    if len(trailer) != TRAILER_BYTES:
        raise Corrupt(
            f"Pack {pack_id.hex()} is shorter than a trailer", code=error_codes.PACK_DAMAGED, pack=pack_id.hex()
        )
    length, magic = _TRAILER.unpack(bytes(trailer))
    start = pack_size_bytes - TRAILER_BYTES - length
    if magic != b"SKYE" or start < PACK_HEADER_BYTES:
        raise Corrupt(
            f"Pack {pack_id.hex()} does not end with a footer", code=error_codes.PACK_DAMAGED, pack=pack_id.hex()
        )
    return start, length


def read_footer(footer: Buffer, pack: PackRef, keys: FrameKeys) -> list[Place]:
    """The places in a pack, from its footer frame. Raises `Corrupt`."""
    body = decode_frame(footer, kind=Kind.PACK_FOOTER, context=f"packs/{pack.pack_id.hex()}", keys=keys)
    return decode_entries(body, pack)


def check_pack(pack: Buffer, pack_id: bytes, store_id: bytes, keys: FrameKeys) -> Iterator[tuple[Place, bool]]:
    """Each place of a whole pack in memory with whether its record is intact (sealed or authenticated bytes, not the
    decoded chunk). Raises `Corrupt` where header or footer are damaged, so that the places are not known, and where the
    records are not all that lies between the two: what a footer does not list, nobody checks."""
    view = memoryview(pack)
    session, places = pack_contents(view, pack_id, store_id, keys)
    for place in places:
        yield place, _opens(view[place.offset : place.offset + place.record_length], place, session, keys)


def pack_contents(pack: Buffer, pack_id: bytes, store_id: bytes, keys: FrameKeys) -> tuple[PackSession, list[Place]]:
    """The session of a whole pack in memory, and the places that its footer lists. Raises `Corrupt`."""
    view = memoryview(pack)
    session = read_header(view, pack_id, store_id)
    start, length = footer_span(view[-TRAILER_BYTES:], len(view), pack_id)
    footer = view[start : start + length]
    # No code protects a pack's own header; its footer, written with the same seal and key, is a frame and protected.
    if length < HEADER_BYTES or view[5] != footer[6] & _SEALED or view[6:8] != footer[8:10]:
        raise Corrupt(
            f"Header and footer of pack {pack_id.hex()} differ", code=error_codes.PACK_DAMAGED, pack=pack_id.hex()
        )
    places = read_footer(footer, PackRef(pack_id, session.salt), keys)
    end = PACK_HEADER_BYTES
    for place in places:
        if place.offset != end:
            break
        end += place.record_length
    if not places or end != start:
        raise Corrupt(
            f"Pack {pack_id.hex()} holds other bytes than its footer lists",
            code=error_codes.PACK_DAMAGED,
            pack=pack_id.hex(),
        )
    return session, places


def merge_packs(copies: list[Buffer], pack_id: bytes, store_id: bytes, keys: FrameKeys) -> bytes | None:
    """An intact pack put together from damaged copies of it, or None where some part is intact in none of them.

    Header and footer come from one copy that has both; each record from any copy, since all have the same offsets.
    """
    for template in copies:
        try:
            states = list(check_pack(template, pack_id, store_id, keys))
        except Corrupt:
            continue
        session = read_header(template, pack_id, store_id)
        merged = bytearray(template)
        for place, intact in states:
            span = slice(place.offset, place.offset + place.record_length)
            if not intact:
                record = next((r for r in (bytes(c[span]) for c in copies) if _opens(r, place, session, keys)), None)
                if record is None:
                    break
                merged[span] = record
        else:
            return bytes(merged)
    return None


def _opens(record: Buffer, place: Place, session: PackSession, keys: FrameKeys) -> bool:
    try:
        open_record(record, place, session, keys)
    except (Corrupt, PermissionDenied):  # of a record the number of a key that is not there is damage: its pack's is
        return False
    return True


def _record_key(keys: FrameKeys, number: int, salt: bytes) -> bytes:
    return blake3(b"pack" + salt, key=keys.key(number).seal_key).digest()


def _tag(keys: FrameKeys, number: int, session: PackSession, header: bytes, encoded: Buffer) -> bytes:
    hasher = blake3(session.encoded + header, key=keys.key(number).mac_key)
    hasher.update(encoded)
    return hasher.digest(length=TAG_BYTES)


def _corrupt(place: Place, why: str) -> NoReturn:
    raise Corrupt(
        f"Chunk {place.chunk_id.hex()[:16]} in pack {place.pack_id.hex()} is damaged: {why}",
        code=error_codes.RECORD_DAMAGED,
        hint="Run `skyhold verify --deep`, then `skyhold repair`",
        chunk=place.chunk_id.hex(),
        pack=place.pack_id.hex(),
    )
