"""Chunks come back exactly, small where they can be, and a damaged payload is refused or decodes to as many bytes."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from skyhold.codec.squeeze import CHUNK_BYTES_MAX, Codec, Decoder, Encoder, is_delta
from skyhold.errors import Corrupt, InvalidInput
from tests.codec.strategies import DTYPES, bases, chunks

ENCODER, DECODER = Encoder(), Decoder()
MIB = 1 << 20


def weights(count: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(count) * 0.02).astype("<f4")


def bf16(values: np.ndarray) -> bytes:
    return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()


@given(st.data(), chunks(), st.sampled_from(DTYPES))
@settings(max_examples=300)
def test_any_chunk_of_any_type_with_any_base_comes_back(data: st.DataObject, chunk: bytes, dtype: str | None) -> None:
    base = data.draw(bases(chunk))
    encoded = ENCODER.encode(chunk, dtype=dtype, base=base)
    assert len(encoded.payload) <= len(chunk)
    assert DECODER.decode(encoded.codec, encoded.payload, len(chunk), base) == chunk
    out = memoryview(bytearray(len(chunk) + 3))[3:]
    assert DECODER.decode(encoded.codec, encoded.payload, len(chunk), base, out) is out
    assert out == chunk


@given(st.data(), chunks(50_000), st.sampled_from(DTYPES))
@settings(max_examples=300)
def test_a_damaged_payload_is_corrupt_or_as_long_as_declared(
    data: st.DataObject, chunk: bytes, dtype: str | None
) -> None:
    """A flipped byte may decode to other bytes: the chunk id, checked above this room, catches that."""
    base = data.draw(bases(chunk))
    encoded = ENCODER.encode(chunk, dtype=dtype, base=base)
    payload = bytearray(encoded.payload)
    if payload and data.draw(st.booleans()):
        payload[data.draw(st.integers(0, min(len(payload), 64) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        payload = payload[: data.draw(st.integers(0, len(payload)))] + data.draw(st.binary(max_size=4))
    codec = data.draw(st.sampled_from([encoded.codec, *Codec, 7, 255]))
    try:
        decoded = DECODER.decode(codec, payload, len(chunk), base)
    except Corrupt as error:
        assert error.code in {"malformed_payload", "unknown_codec", "wrong_base"}
        assert error.hint
    else:
        assert len(decoded) == len(chunk)


@given(st.sampled_from(list(Codec)), st.binary(max_size=200), st.integers(0, 64))
@settings(max_examples=500)
def test_any_bytes_as_a_payload_are_corrupt_or_as_long_as_declared(codec: int, payload: bytes, length: int) -> None:
    with contextlib.suppress(Corrupt):
        assert len(DECODER.decode(codec, payload, length, bytes(length))) == length


def test_bf16_weights_are_stored_as_planes() -> None:
    encoded = ENCODER.encode(bf16(weights(MIB // 2)), dtype="BF16")
    assert encoded.codec == Codec.PLANES_2
    assert 0.66 < len(encoded.payload) / MIB < 0.68


def test_a_fine_tune_is_stored_as_a_difference() -> None:
    base = weights(MIB // 2)
    tuned = base + weights(MIB // 2, seed=1) * 0.005
    encoded = ENCODER.encode(bf16(tuned), dtype="BF16", base=bf16(base))
    assert encoded.codec == Codec.DELTA_2
    assert is_delta(encoded.codec)
    assert len(encoded.payload) / MIB < 0.25


def test_unrelated_weights_are_no_base() -> None:
    encoded = ENCODER.encode(bf16(weights(MIB // 2)), dtype="BF16", base=bf16(weights(MIB // 2, seed=1)))
    assert encoded.codec == Codec.PLANES_2


def test_noise_is_stored_raw_and_not_copied() -> None:
    noise = np.random.default_rng(0).bytes(MIB)
    for dtype in DTYPES:
        encoded = ENCODER.encode(noise, dtype=dtype)
        assert encoded.codec == Codec.RAW
        assert encoded.payload is noise


def test_a_payload_survives_the_next_chunk() -> None:
    first = bf16(weights(MIB // 2))
    encoded = ENCODER.encode(first, dtype="BF16")
    ENCODER.encode(bytes(MIB), dtype="F32", base=bytes(MIB))
    assert DECODER.decode(encoded.codec, encoded.payload, MIB, None) == first


def test_too_long_a_chunk_is_refused_both_ways() -> None:
    with pytest.raises(InvalidInput):
        ENCODER.encode(bytes(CHUNK_BYTES_MAX + 1), dtype=None)
    with pytest.raises(Corrupt) as caught:
        DECODER.decode(Codec.RAW, b"", CHUNK_BYTES_MAX + 1, None)
    assert caught.value.code == "chunk_too_large"


def test_a_frame_that_declares_more_than_its_chunk_takes_no_memory() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(64 * MIB))
    for codec, payload in ((Codec.ZSTD, bomb), (Codec.PLANES_2, len(bomb).to_bytes(4, "little") + bytes(4) + bomb)):
        with pytest.raises(Corrupt):
            DECODER.decode(codec, payload, MIB, None)


@pytest.mark.parametrize("trailer", [b"\0", zstandard.ZstdCompressor().compress(b"")], ids=["byte", "frame"])
def test_bytes_after_a_frame_are_refused(trailer: bytes) -> None:
    frame = zstandard.ZstdCompressor().compress(bytes(1000))
    with pytest.raises(Corrupt):
        DECODER.decode(Codec.ZSTD, frame + trailer, 1000, None)


def test_a_frame_without_a_content_size_is_refused() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    with pytest.raises(Corrupt):
        DECODER.decode(Codec.ZSTD, frame, 1000, None)


def test_a_difference_without_its_base_is_refused() -> None:
    for base in (None, bytes(3)):
        with pytest.raises(Corrupt) as caught:
            DECODER.decode(Codec.DELTA_1, bytes(8), 4, base)
        assert caught.value.code == "wrong_base"


def test_a_wrong_output_buffer_is_refused() -> None:
    for out in (memoryview(bytearray(5)), memoryview(bytes(4))):
        with pytest.raises(InvalidInput):
            DECODER.decode(Codec.RAW, b"1234", 4, None, out)


# Golden payloads: planes are stored raw in them, because zstd may write other frames in its next version.
@pytest.mark.parametrize(
    ("codec", "payload", "base", "plain"),
    [
        (0x00, "616263", None, "616263"),
        (0x11, "02000000 02000000 0103 0204 ff", None, "01020304ff"),
        (0x12, "02000000 02000000 02000000 02000000 0105 0206 0307 0408 fefd", None, "0102030405060708fefd"),
        (0x13, "01000000" * 8 + "0102030405060708", None, "0102030405060708"),
        # elements 0x00ff, 0x0100 against 0x0100, 0x00ff: differences -1, +1 are 0x807f, 0x8081; then a tail
        (0x21, "02000000 02000000 7f81 8080 aa", "0001ff00bb", "ff000001aa"),
        (0x20, "03000000 80 7f 81", "0000ff", "00ff00"),
        (0x22, "01000000" * 4 + "80808000", "00000000", "00000080"),
        (0x23, "01000000" * 8 + "7e80808080808080", "0000000000000000", "feffffffffffffff"),
        # frames of zstd 1.5.7: "abc" 100 times; a plane of 64 zeros after a raw plane
        (0x01, "28b52ffd602c0055000018616263010026aa6e08", None, "616263" * 100),
        (0x11, "40000000 11000000" + "81" * 64 + "28b52ffd20404500001000000100930016", None, "8100" * 64),
    ],
)  # fmt: skip
def test_golden_payloads_decode(codec: int, payload: str, base: str | None, plain: str) -> None:
    decoded = Decoder().decode(
        codec, bytes.fromhex(payload), len(bytes.fromhex(plain)), bytes.fromhex(base) if base else None
    )
    assert decoded.tobytes().hex() == plain


def test_a_golden_difference_is_encoded_to_these_bytes() -> None:
    """Every plane but the lowest is constant, so the payload is raw bytes and a frame of one byte, again and again."""
    generator = np.random.default_rng(7)
    base = generator.integers(0, 1 << 16, 4096, dtype="<u2")
    steps = generator.integers(-128, 128, 4096)
    chunk = (base + steps).astype("<u2").tobytes() + b"t"
    encoded = ENCODER.encode(chunk, dtype="BF16", base=base.tobytes() + b"?")
    payload = bytes(encoded.payload)
    centred = (steps + 128).astype(np.uint8)
    upper_length = int.from_bytes(payload[4:8], "little")
    assert encoded.codec == 0x21
    assert payload[:4] == (4096).to_bytes(4, "little")
    assert payload[8 : 8 + 4096] == centred.tobytes()
    assert zstandard.ZstdDecompressor().decompress(payload[8 + 4096 : -1]) == b"\x80" * 4096
    assert upper_length == len(payload) - 8 - 4096 - 1
    assert payload[-1:] == b"t"


def test_codec_numbers_are_those_of_the_format() -> None:
    numbers = {codec.name: int(codec) for codec in Codec}
    assert numbers == {
        "RAW": 0, "ZSTD": 1, "PLANES_2": 17, "PLANES_4": 18, "PLANES_8": 19,
        "DELTA_1": 32, "DELTA_2": 33, "DELTA_4": 34, "DELTA_8": 35,
    }  # fmt: skip
    assert [codec for codec in range(256) if is_delta(codec)] == [32, 33, 34, 35]
