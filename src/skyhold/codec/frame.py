"""The frame around every small object: compressed, then sealed or authenticated, bound to its use (format.md, 5).

A frame is the unit in which blobs, pack footers, checkpoints and register values are kept. It carries a random salt,
so that two frames of one body differ: a blob's name, the keyed hash of its bytes, then never returns after a delete.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NoReturn

import zstandard
from blake3 import blake3

from skyhold import error_codes
from skyhold.codec.seal import open_sealed, seal
from skyhold.errors import Corrupt, InvalidInput, PermissionDenied
from skyhold.units import MIB, Buffer

BODY_BYTES_MAX: Final = 64 * MIB
HEADER_BYTES: Final = 36
MAC_BYTES: Final = 32
FRAME_BYTES_OVER_BODY_MAX: Final = HEADER_BYTES + MAC_BYTES
"""A frame is at most this much longer than its body: compression that does not shorten is left out."""

FRAME_BYTES_MAX: Final = BODY_BYTES_MAX + FRAME_BYTES_OVER_BODY_MAX

_HEADER: Final = struct.Struct("<4sBBBBHHI16sI")
_MAGIC: Final = b"SKYF"
_FORMAT: Final = 1
_ZSTD: Final = 1
_SEALED: Final = 2
_COMPRESS_FROM_BYTES: Final = 128


class Kind(IntEnum):
    """What a frame holds; part of the authenticated header."""

    VERSION = 1
    LAYOUT_HEAD = 2
    LAYOUT_PAGE = 3
    INDEX = 4
    MAP_NODE = 5
    ATTACHMENT = 6
    CHECKPOINT = 7
    TOMBSTONES = 8
    PACK_FOOTER = 9
    REGISTER = 10
    TENSORS = 11
    ACCEPTOR = 12
    RECORD = 13
    BELL = 14


@dataclass(frozen=True, slots=True, repr=False)
class DataKey:
    """The two 32-byte keys derived from one data key of the store (format.md, 4)."""

    mac_key: bytes
    seal_key: bytes


@dataclass(frozen=True, slots=True, repr=False)
class FrameKeys:
    """The data keys that open frames, by number, and the one that writes them."""

    by_number: dict[int, DataKey]
    number: int
    sealed: bool

    def key(self, number: int) -> DataKey:
        """The data key of a number. Raises `PermissionDenied` where the store's keys do not hold it."""
        try:
            return self.by_number[number]
        except KeyError:
            raise PermissionDenied(
                f"Data key {number} is not among the keys that were opened", code=error_codes.KEY_MISSING, number=number
            ) from None


def encode_frame(kind: Kind, body: Buffer, *, context: str, keys: FrameKeys) -> bytes:
    """Frame `body` for the use named by `context`. Raises `InvalidInput` for a body over 64 MiB."""
    if len(body) > BODY_BYTES_MAX:
        raise InvalidInput(
            f"Expected a body of at most {BODY_BYTES_MAX} bytes but got {len(body)}", code=error_codes.BODY_TOO_LARGE
        )
    flags, payload = 0, bytes(body)
    if len(payload) >= _COMPRESS_FROM_BYTES:
        compressed = zstandard.ZstdCompressor(level=3).compress(payload)
        if len(compressed) < len(payload):
            flags, payload = _ZSTD, compressed
    key = keys.key(keys.number)
    salt = os.urandom(16)
    stored_length = len(payload)
    if keys.sealed:
        flags |= _SEALED
        stored_length += 16
    header = _HEADER.pack(_MAGIC, _FORMAT, kind, flags, 0, keys.number, 0, len(body), salt, stored_length)
    if keys.sealed:
        return header + seal(_frame_key(key, salt), bytes(12), payload, _associated(context, header))
    return header + payload + _mac(key, context, header, payload)


def begins_frame(data: Buffer, kind: Kind) -> bool:
    """Whether bytes begin as a frame of this kind does, of whichever store: anyone can write such a header."""
    return bytes(data[:6]) == _MAGIC + bytes((_FORMAT, kind))


def decode_frame(data: Buffer, *, kind: Kind, context: str, keys: FrameKeys) -> bytes:
    """The body of a frame.

    Raises `Corrupt` for anything but an intact frame of this kind, context and store, and `PermissionDenied` where its
    data key is missing. Declared sizes are checked before memory is taken.
    """
    view = memoryview(data)
    if len(view) < HEADER_BYTES:
        _corrupt(context, "it is shorter than a header")
    header = bytes(view[:HEADER_BYTES])
    magic, format_, kind_, flags, zero1, number, zero2, body_length, salt, stored_length = _HEADER.unpack(header)
    if magic != _MAGIC or format_ != _FORMAT or kind_ != kind or zero1 or zero2 or flags & ~(_ZSTD | _SEALED):
        _corrupt(context, "its header is not that of such an object")
    sealed = bool(flags & _SEALED)
    if len(view) != HEADER_BYTES + stored_length + (0 if sealed else MAC_BYTES) or body_length > BODY_BYTES_MAX:
        _corrupt(context, "its lengths do not fit")
    if keys.sealed and not sealed:
        _corrupt(context, "it is in clear, but the store is sealed")
    key = keys.key(number)
    payload = view[HEADER_BYTES : HEADER_BYTES + stored_length]
    if sealed:
        plain: Buffer = open_sealed(_frame_key(key, salt), bytes(12), payload, _associated(context, header), context)
    else:
        if _mac(key, context, header, payload) != view[HEADER_BYTES + stored_length :]:
            _corrupt(context, "its authentication code does not match")
        plain = payload
    if flags & _ZSTD:
        plain = _decompress(plain, body_length, context)
    if len(plain) != body_length:
        _corrupt(context, "its body has another length than declared")
    return bytes(plain)


def _frame_key(key: DataKey, salt: bytes) -> bytes:
    return blake3(b"frame" + salt, key=key.seal_key).digest()


def _associated(context: str, header: bytes) -> bytes:
    return context.encode("ascii") + b"\0" + header


def _mac(key: DataKey, context: str, header: bytes, payload: Buffer) -> bytes:
    hasher = blake3(context.encode("ascii") + b"\0" + header, key=key.mac_key)
    hasher.update(payload)
    return hasher.digest()


def _decompress(payload: Buffer, body_length: int, context: str) -> bytes:
    try:
        if zstandard.frame_content_size(payload) != body_length:
            _corrupt(context, "its compressed size is not the declared one")
        return zstandard.ZstdDecompressor().decompress(payload, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Corrupt(
            f"Object {context} is damaged: {error}", code=error_codes.FRAME_DAMAGED, context=context
        ) from error


def _corrupt(context: str, why: str) -> NoReturn:
    raise Corrupt(
        f"Object {context} is damaged: {why}",
        code=error_codes.FRAME_DAMAGED,
        hint="Run `skyhold verify --deep`, then `skyhold repair`",
        context=context,
    )
