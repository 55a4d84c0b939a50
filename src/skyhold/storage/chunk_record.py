"""Records of chunks, as packs contain them (format.md, 6): sealed or authenticated under the key of the store. No I/O
here."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Final, NoReturn

from blake3 import blake3

from skyhold import error_codes
from skyhold.codec.frame import FrameKeys
from skyhold.codec.seal import TAG_BYTES, open_sealed, seal
from skyhold.errors import Corrupt
from skyhold.units import MIB, Buffer

RECORD_HEADER_BYTES: Final = 96
CHUNK_BYTES_MAX: Final = 4 * MIB
STORED_BYTES_OVER_RAW_MAX: Final = 1024
STORED_BYTES_MIN: Final = TAG_BYTES + 1
NO_BASE: Final = bytes(32)
SEALED: Final = 2
_RECORD_HEADER: Final = struct.Struct("<4sBBHII32s32s12sI")


@dataclass(frozen=True, slots=True)
class PackRef:
    """A pack by its 16-byte id, with the salt of its writing session, without which a sealed record does not open."""

    pack_id: bytes
    salt: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """Where one chunk is. `stored_length` counts the payload with its tag, without the record's header."""

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
    """Raise `ValueError` for impossible lengths of a record. For one that is about to be written they are a defect of
    Skyhold."""
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
            b"SKYC", codec, SEALED if sealed else 0, self._number, raw_length, stored_length,
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
    authenticated one the tag is checked only where the session is given: the caller that decodes the chunk checks its
    id. Raises `Corrupt`.
    """
    header = bytes(record[:RECORD_HEADER_BYTES])
    if len(record) != place.record_length:
        _corrupt(place, "its length differs from that of its place")
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
    if (magic, codec, raw_length, stored_length, chunk_id, base_id, zero) != expected or flags & ~SEALED:
        _corrupt(place, "its header is not that of this chunk")
    try:
        check_lengths(raw_length, stored_length)
    except ValueError as error:
        _corrupt(place, str(error))
    payload = memoryview(record)[RECORD_HEADER_BYTES:]
    if flags & SEALED:
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
