"""Packs: building, walking and checking them (format.md, 6). No I/O here.

A record's payload is sealed, or authenticated, before (`RecordSealer`, safe to use from several threads); a
`PackBuilder` only writes records one after another, and the footer.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from skyhold import error_codes
from skyhold.codec.frame import FRAME_BYTES_OVER_BODY_MAX, HEADER_BYTES, FrameKeys, Kind, decode_frame, encode_frame
from skyhold.errors import Corrupt, PermissionDenied
from skyhold.storage.chunk_record import (
    NO_BASE,
    RECORD_HEADER_BYTES,
    SEALED,
    PackRef,
    PackSession,
    Place,
    Record,
    check_lengths,
    open_record,
)
from skyhold.units import MIB, Buffer

PACK_BYTES_TARGET: Final = 16 * MIB
"""What a writer fills at most, footer included."""

PACK_BYTES_MAX: Final = 64 * MIB
PACK_HEADER_BYTES: Final = 64

_PACK_HEADER: Final = struct.Struct("<4sBBH16s16s8s16s")
_ENTRY: Final = struct.Struct("<32s32sIIIB3x")
_TRAILER: Final = struct.Struct("<I4s")
TRAILER_BYTES: Final = _TRAILER.size
_FOOTER_BYTES: Final = FRAME_BYTES_OVER_BODY_MAX + TRAILER_BYTES


class PackBuilder:
    """Appends records to one buffer of `PACK_BYTES_TARGET` until the pack is full. The buffer is the caller's."""

    def __init__(self, buffer: bytearray, session: PackSession, keys: FrameKeys, pack_id: bytes | None = None) -> None:
        self.pack = PackRef(pack_id or os.urandom(16), session.salt)
        self.places: list[Place] = []
        self._keys = keys
        self._view = memoryview(buffer)
        flags = SEALED if keys.sealed else 0
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
        """Whether the record still fits into this pack, with the footer; an empty pack takes every record."""
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
    decoded chunk). Raises `Corrupt` where header or footer are damaged, so that the places are not known, and where
    other bytes are between the two: bytes that the footer does not list are never checked."""
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
    if length < HEADER_BYTES or view[5] != footer[6] & SEALED or view[6:8] != footer[8:10]:
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
    """An intact pack assembled from damaged copies of it, or None where some part is intact in none of them.

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
    except (Corrupt, PermissionDenied):  # an unknown key number in a record is damage: the pack's own is known
        return False
    return True
