"""Frames: bodies come back, everything else is `Corrupt`."""

from __future__ import annotations

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from skyhold.codec import frame as frame_module
from skyhold.codec.frame import BODY_BYTES_MAX, Kind, decode_frame, encode_frame
from skyhold.errors import Corrupt, InvalidInput, PermissionDenied
from tests.storage.fixtures import frame_keys

MAC = "a832ac12dd8959a50b33f94fb314fe2ce58f0eb074703a16c12326792a04d454"
SEALED = "3ca63606369c1667e86cf1d177598944bf17"


@pytest.mark.parametrize("sealed", [False, True])
@given(body=st.binary(max_size=400), kind=st.sampled_from(Kind))
def test_a_body_comes_back(sealed: bool, body: bytes, kind: Kind) -> None:
    keys = frame_keys(sealed=sealed)
    frame = encode_frame(kind, body, context="nodes", keys=keys)
    assert decode_frame(frame, kind=kind, context="nodes", keys=keys) == body
    assert encode_frame(kind, body, context="nodes", keys=keys) != frame, "a frame must never be written twice alike"


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("body", [b"", b"short", b"compressible " * 40])
def test_every_flipped_byte_and_every_truncation_is_found(sealed: bool, body: bytes) -> None:
    keys = frame_keys(sealed=sealed)
    frame = encode_frame(Kind.VERSION, body, context="versions", keys=keys)
    for at in range(len(frame)):
        damaged = bytearray(frame)
        damaged[at] ^= 1
        with pytest.raises((Corrupt, PermissionDenied)):  # the number of a key that does not exist may come out
            decode_frame(damaged, kind=Kind.VERSION, context="versions", keys=keys)
        with pytest.raises(Corrupt):
            decode_frame(frame[:at], kind=Kind.VERSION, context="versions", keys=keys)
    with pytest.raises(Corrupt):
        decode_frame(frame + b"\0", kind=Kind.VERSION, context="versions", keys=keys)


@pytest.mark.parametrize("sealed", [False, True])
def test_a_frame_is_bound_to_kind_context_and_store(sealed: bool) -> None:
    keys = frame_keys(sealed=sealed)
    frame = encode_frame(Kind.VERSION, b"body", context="versions", keys=keys)
    for kind, context, others in (
        (Kind.MAP_NODE, "versions", keys),
        (Kind.VERSION, "nodes", keys),
        (Kind.VERSION, "versions", frame_keys(sealed=sealed, seed=7)),
    ):
        with pytest.raises(Corrupt):
            decode_frame(frame, kind=kind, context=context, keys=others)


def test_a_frame_in_clear_is_refused_where_the_store_is_sealed() -> None:
    frame = encode_frame(Kind.VERSION, b"body", context="versions", keys=frame_keys(sealed=False))
    with pytest.raises(Corrupt):
        decode_frame(frame, kind=Kind.VERSION, context="versions", keys=frame_keys(sealed=True))


def test_a_declared_size_is_checked_before_memory_is_taken() -> None:
    keys = frame_keys(sealed=False)
    bomb = zstandard.ZstdCompressor().compress(bytes(BODY_BYTES_MAX + 1))
    header = frame_module._HEADER.pack(b"SKYF", 1, Kind.VERSION, 1, 0, 0, 0, 10, bytes(16), len(bomb))
    mac = frame_module._mac(keys.key(0), "versions", header, bomb)  # any holder of the key could write this
    with pytest.raises(Corrupt, match="compressed size"):
        decode_frame(header + bomb + mac, kind=Kind.VERSION, context="versions", keys=keys)


def test_a_body_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidInput):
        encode_frame(Kind.VERSION, bytes(BODY_BYTES_MAX + 1), context="versions", keys=frame_keys(sealed=False))


def test_a_key_that_was_not_opened_is_named() -> None:
    keys = frame_keys(sealed=True)
    frame = bytearray(encode_frame(Kind.VERSION, b"body", context="versions", keys=keys))
    frame[8] = 3
    with pytest.raises(PermissionDenied, match="Data key 3"):
        decode_frame(frame, kind=Kind.VERSION, context="versions", keys=keys)


def test_the_bytes_of_a_frame_are_those_of_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_module.os, "urandom", lambda count: b"\xa5" * count)
    frame = encode_frame(Kind.TENSORS, b"{}", context="tensors", keys=frame_keys(sealed=False))
    assert frame[:38] == bytes.fromhex("534b5946 01 0b 00 00 0000 0000 02000000") + b"\xa5" * 16 + b"\x02\0\0\0{}"
    assert frame[38:].hex() == MAC
    sealed = encode_frame(Kind.TENSORS, b"{}", context="tensors", keys=frame_keys(sealed=True))
    assert sealed[6:8] == b"\x02\0"
    assert sealed[36:].hex() == SEALED
