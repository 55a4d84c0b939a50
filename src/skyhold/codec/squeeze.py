"""Compression of one chunk: raw, zstd, byte planes, or the difference to a base in byte planes (format.md, 13).

Weights compress badly as bytes: the exponents of a tensor are few, its mantissas are noise. Split into planes (byte `k`
of every element), the exponent plane is entropy-coded and the rest kept as it is. A fine-tuned tensor differs little
from its base, so the upper planes of the integer difference of the bit patterns are almost constant. Which codec serves
is decided on a sample of the chunk; settings and measurements: `docs/decisions/010-codec.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NoReturn

import numpy as np
import zstandard

from skyhold import error_codes
from skyhold.codec.fit import fit
from skyhold.codec.formats.tensor import element_width_bytes
from skyhold.codec.planes import WIDTHS, Bytes, Words, difference, merge, split, undo_difference, words_of
from skyhold.errors import Corrupt, InvalidInput
from skyhold.units import Buffer

CHUNK_BYTES_MAX: Final = 4 << 20
"""The longest chunk, and so the most that a decoder allocates for one."""

GAIN_MIN: Final = 0.03
"""A codec, and each plane, must save this share of its bytes; a difference must save as much more than planes do."""

SAMPLE_ELEMENTS: Final = 16 << 10
_SAMPLE_RUNS: Final = 4
_PLANE_LENGTH_BYTES: Final = 4

# No match search worth the name, fast Huffman: an exponent plane has no repeats, only a skewed distribution.
_ENTROPY: Final = zstandard.ZstdCompressionParameters(
    window_log=17, min_match=7, target_length=0, strategy=1, hash_log=6, chain_log=6, search_log=1
)
_GENERAL_LEVEL: Final = 3


class Codec(IntEnum):
    """The codec byte of a chunk. Numbers are never reused; `PLANES` and `DELTA` are codes for one width each."""

    RAW = 0x00
    ZSTD = 0x01
    PLANES_2 = 0x11
    PLANES_4 = 0x12
    PLANES_8 = 0x13
    DELTA_1 = 0x20
    DELTA_2 = 0x21
    DELTA_4 = 0x22
    DELTA_8 = 0x23


_PLANES: Final = {2: Codec.PLANES_2, 4: Codec.PLANES_4, 8: Codec.PLANES_8}
_DELTA: Final = {1: Codec.DELTA_1, 2: Codec.DELTA_2, 4: Codec.DELTA_4, 8: Codec.DELTA_8}
_WIDTH: Final = {int(codec): width for table in (_PLANES, _DELTA) for width, codec in table.items()}


def is_delta(codec: int) -> bool:
    """Whether a chunk of this codec needs its base to be decoded."""
    return codec in _DELTA.values()


@dataclass(frozen=True, slots=True)
class Encoded:
    """A chunk as it is stored. For `Codec.RAW` the payload is the caller's own buffer, else fresh bytes."""

    codec: int
    payload: Buffer


@dataclass(frozen=True, slots=True)
class _Choice:
    """What the sample promises: a codec, the share of bytes that it leaves, and the planes worth compressing."""

    codec: Codec
    share: float
    squeezed: tuple[bool, ...] = ()
    level: int | None = None


class Encoder:
    """Encodes chunks. Has buffers of its own: one per thread."""

    def __init__(self) -> None:
        self._entropy = zstandard.ZstdCompressor(compression_params=_ENTROPY)
        self._general = zstandard.ZstdCompressor(level=_GENERAL_LEVEL)
        self._planes = np.empty(CHUNK_BYTES_MAX, np.uint8)
        self._difference = np.empty(CHUNK_BYTES_MAX, np.uint8)

    def encode(self, data: Buffer, *, dtype: str | None, base: Buffer | None = None) -> Encoded:
        """Encode one chunk of at most `CHUNK_BYTES_MAX` bytes.

        `dtype` names the elements that start at the first byte, None for bytes. `base` is the chunk that a difference
        may be taken to; it is left out where it has another length or does not help. The result decodes to exactly
        `data`, whatever `dtype` and `base` are. Raises `InvalidInput` for a longer chunk.
        """
        if len(data) > CHUNK_BYTES_MAX:
            raise InvalidInput(
                f"Expected a chunk of at most {CHUNK_BYTES_MAX} bytes but got {len(data)}",
                code=error_codes.CHUNK_TOO_LARGE,
            )
        chunk = np.frombuffer(data, np.uint8)
        against = np.frombuffer(base, np.uint8) if base is not None and len(base) == len(data) else None
        choice = self._choose(chunk, dtype, against)
        if choice.codec is Codec.RAW:
            return Encoded(Codec.RAW, data)
        if choice.codec is Codec.ZSTD:
            payload = (self._entropy if choice.level is None else self._general).compress(data)
        else:
            payload = self._planes_payload(chunk, against if is_delta(choice.codec) else None, choice)
        if len(payload) > len(data) * (1 - GAIN_MIN):
            return Encoded(Codec.RAW, data)
        return Encoded(choice.codec, payload)

    def encode_as(self, codec: int, data: Buffer, base: Buffer | None, length: int) -> Buffer | None:
        """The payload of a chunk in a given codec and length, or None where there is none; `base` is the chunk that a
        difference is taken to. An encoder of the same settings makes the bytes again that were stored."""
        chunk = np.frombuffer(data, np.uint8)
        if codec == Codec.RAW:
            return data if len(data) == length else None
        if codec == Codec.ZSTD:
            for compressor in (self._entropy, self._general):
                payload = compressor.compress(data)
                if len(payload) == length:
                    return payload
            fitted = fit([data], length, framed=True)
            return fitted[0] if fitted else None
        if codec not in _WIDTH:
            return None
        width = _WIDTH[codec]
        against = np.frombuffer(base, np.uint8) if is_delta(codec) and base is not None else None
        sample = words_of(_sample(chunk, width), width)
        if against is not None:
            sample = self._differences(sample, words_of(_sample(against, width), width))
        payload = self._planes_payload(chunk, against, self._plane_choice(Codec(codec), sample))
        return payload if len(payload) == length else self._planes_of_length(chunk, against, width, length)

    def _choose(self, chunk: Bytes, dtype: str | None, base: Bytes | None) -> _Choice:
        """The best codec for a sample of the chunk."""
        width = min(element_width_bytes(dtype) if dtype else 0, WIDTHS[-1])
        step = max(width, 1)
        sample = _sample(chunk, step)
        best = _Choice(Codec.RAW, 1 - GAIN_MIN)
        if not len(sample):
            return best
        candidates = []
        if width > 1:
            candidates.append(self._plane_choice(_PLANES[width], words_of(sample, width)))
        if width < 2 or not (dtype and _is_float(dtype)):
            candidates.append(_Choice(Codec.ZSTD, len(self._entropy.compress(sample.data)) / len(sample)))
            # Repeats need the slower search; it has to earn its time.
            general = len(self._general.compress(sample.data)) / len(sample)
            candidates.append(_Choice(Codec.ZSTD, general, level=_GENERAL_LEVEL))
        for candidate in candidates:
            if candidate.share < best.share:
                best = candidate
        if base is not None:
            words, base_words = words_of(sample, step), words_of(_sample(base, step), step)
            delta = self._plane_choice(_DELTA[step], self._differences(words, base_words))
            if delta.share < best.share - GAIN_MIN:
                best = delta
        return best

    def _plane_choice(self, codec: Codec, words: Words) -> _Choice:
        planes = self._split(words)
        sizes = [min(len(self._entropy.compress(plane.data)), len(plane)) for plane in planes]
        squeezed = tuple(size < len(plane) * (1 - GAIN_MIN) for size, plane in zip(sizes, planes, strict=True))
        return _Choice(codec, sum(sizes) / max(words.nbytes, 1), squeezed)

    def _planes_payload(self, chunk: Bytes, base: Bytes | None, choice: _Choice) -> bytes:
        planes, tail = self._planes_of(chunk, base, _WIDTH[choice.codec])
        parts: list[Buffer] = []
        for plane, squeeze in zip(planes, choice.squeezed, strict=True):
            stored: Buffer = plane.data
            if squeeze:
                packed = self._entropy.compress(plane.data)
                stored = packed if len(packed) < len(plane) else stored
            parts.append(stored)
        return _joined(parts, tail)

    def _planes_of_length(self, chunk: Bytes, base: Bytes | None, width: int, length: int) -> bytes | None:
        planes, tail = self._planes_of(chunk, base, width)
        left_bytes = length - width * _PLANE_LENGTH_BYTES - len(tail)
        parts = fit([plane.data for plane in planes], left_bytes, framed=False)
        return None if parts is None else _joined(parts, tail)

    def _planes_of(self, chunk: Bytes, base: Bytes | None, width: int) -> tuple[list[Bytes], Bytes]:
        """The planes of a chunk, or of its difference to a base, and its tail."""
        words = words_of(chunk, width)
        tail = chunk[words.nbytes :]
        if base is not None:
            words = self._differences(words, words_of(base, width))
        return self._split(words), tail

    def _split(self, words: Words) -> list[Bytes]:
        planes = [self._planes[k * len(words) : (k + 1) * len(words)] for k in range(words.itemsize)]
        split(words, planes)
        return planes

    def _differences(self, words: Words, base: Words) -> Words:
        out = words_of(self._difference[: words.nbytes], words.itemsize)
        difference(words, base, out)
        return out


class Decoder:
    """Decodes chunks. One per thread, as its decompressor is."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor()

    def decode(
        self, codec: int, payload: Buffer, raw_length: int, base: Buffer | None, out: memoryview | None = None
    ) -> memoryview:
        """The `raw_length` bytes of a chunk, in `out` where it is given (writable, exactly as long).

        A result is only as good as its payload: a flipped byte may decode to other bytes, which the chunk id above
        catches. `base` is needed where `is_delta(codec)`, and ignored elsewhere. Raises `Corrupt` (codes
        `unknown_codec`, `malformed_payload`, `wrong_base`, `chunk_too_large`) before memory is taken for what a
        payload declares.
        """
        if not 0 <= raw_length <= CHUNK_BYTES_MAX:
            _corrupt(
                error_codes.CHUNK_TOO_LARGE,
                f"A chunk declares {raw_length} bytes; at most {CHUNK_BYTES_MAX} are allowed",
            )
        if out is not None and (out.nbytes != raw_length or out.readonly):
            raise InvalidInput(
                f"Expected a writable buffer of {raw_length} bytes but got {out.nbytes}", code=error_codes.WRONG_BUFFER
            )
        if codec in (Codec.RAW, Codec.ZSTD):
            plain = payload if codec == Codec.RAW else self._unpack(payload, raw_length)
            if len(plain) != raw_length:
                _malformed(f"{len(plain)} bytes are stored for a chunk of {raw_length}")
            if out is None:
                return memoryview(plain)
            np.copyto(np.frombuffer(out, np.uint8), np.frombuffer(plain, np.uint8))
            return out
        if codec not in _WIDTH:
            _corrupt(error_codes.UNKNOWN_CODEC, f"A chunk names codec {codec}, which does not exist")
        against = None
        if is_delta(codec):
            if base is None or len(base) != raw_length:
                _corrupt(error_codes.WRONG_BASE, f"A chunk of {raw_length} bytes needs a base of the same length")
            against = np.frombuffer(base, np.uint8)
        target = out if out is not None else np.empty(raw_length, np.uint8).data
        self._planes_into(target, codec, payload, against)
        return target

    def _planes_into(self, out: memoryview, codec: int, payload: Buffer, base: Bytes | None) -> None:
        width = _WIDTH[codec]
        raw = np.frombuffer(out, np.uint8)
        words = words_of(raw, width)
        planes, tail = self._planes_of(np.frombuffer(payload, np.uint8), width, len(words))
        if len(tail) != len(raw) - words.nbytes:
            _malformed(f"{len(tail)} bytes follow the planes of a chunk of {len(raw)}")
        merge(planes, words)
        if base is not None:
            undo_difference(words, words_of(base, width))
        np.copyto(raw[words.nbytes :], tail)

    def _planes_of(self, payload: Bytes, width: int, count: int) -> tuple[list[Bytes], Bytes]:
        """The planes of `count` bytes each, and what follows them."""
        position = width * _PLANE_LENGTH_BYTES
        if len(payload) < position:
            _malformed("the lengths of the planes are missing")
        planes = []
        for length in payload[:position].view("<u4").tolist():
            stored = payload[position : position + length]
            if length > count or len(stored) != length:
                _malformed(f"a plane of {count} bytes is stored in {length}")
            planes.append(stored if length == count else np.frombuffer(self._unpack(stored.data, count), np.uint8))
            position += length
        return planes, payload[position:]

    def _unpack(self, payload: Buffer, length: int) -> bytes:
        """The one zstd frame that a payload is. Its declared size is checked before memory is taken for it."""
        try:
            if zstandard.frame_content_size(payload) != length:
                _malformed(f"a zstd frame does not declare {length} bytes")
            plain = self._zstd.decompress(payload, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise Corrupt(f"A chunk is damaged: {error}", code=error_codes.MALFORMED_PAYLOAD, hint=_HINT) from error
        if len(plain) != length:
            _malformed(f"a zstd frame holds {len(plain)} bytes instead of {length}")
        return plain


_HINT: Final = "Run `skyhold verify --deep`, then `skyhold repair`"


def _malformed(what: str) -> NoReturn:
    _corrupt(error_codes.MALFORMED_PAYLOAD, f"A chunk is damaged: {what}")


def _corrupt(code: str, message: str) -> NoReturn:
    raise Corrupt(message, code=code, hint=_HINT)


def _joined(parts: Sequence[Buffer], tail: Bytes) -> bytes:
    """The payload of stored planes."""
    lengths = b"".join(len(part).to_bytes(_PLANE_LENGTH_BYTES, "little") for part in parts)
    return b"".join([lengths, *parts, tail.data])


def _is_float(dtype: str) -> bool:
    return dtype.startswith(("BF", "F", "C"))


def _sample(data: Bytes, width: int) -> Bytes:
    """Up to `SAMPLE_ELEMENTS` elements in runs spread evenly over the chunk: matches inside a run stay visible."""
    count = len(data) // width
    if count <= SAMPLE_ELEMENTS:
        return data[: count * width]
    run = SAMPLE_ELEMENTS // _SAMPLE_RUNS
    starts = [k * (count - run) // (_SAMPLE_RUNS - 1) for k in range(_SAMPLE_RUNS)]
    return np.concatenate([data[start * width : (start + run) * width] for start in starts])
