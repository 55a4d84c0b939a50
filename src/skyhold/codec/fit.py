"""Planes stored in a given number of bytes, so that a payload fits in the place of an old one (rebuilding a pack).

Another version of the program, or of zstd, compresses a plane to another length. A frame that is shorter is made
longer within the format (RFC 8878, 3.1.1): its header may store the content size in more bytes and name a window, and
an empty raw block takes three bytes. Where it is longer, other settings are tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import zstandard

from skyhold.units import Buffer

_MAGIC_BYTES: Final = 4
_EMPTY_BLOCK: Final = bytes(3)
"""The header of a raw block of no bytes that is not the last one."""
_SIZE_FLAGS: Final = {1: 0, 2: 1, 4: 2, 8: 3}
"""By how many bytes the content size has."""
_SINGLE_SEGMENT: Final = 0x20
_CHECKSUM: Final = 0x04
_WINDOW_LOG_MIN: Final = 10

_ENTROPY: Final = tuple(
    zstandard.ZstdCompressionParameters(
        window_log=window_log, min_match=7, target_length=0, strategy=strategy, hash_log=6, chain_log=6, search_log=1
    )
    for window_log in (17, 16, 15, 14, 13, 12, 11)
    for strategy in (1, 2)
)
"""For planes without repeats; a block is not longer than the window."""
_LEVELS: Final = (1, 3, 6, 9, 12, 15, 17, 19, 20, 21, 22)


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame in parts: `headers` are all that it may have, the shortest one first."""

    headers: tuple[bytes, ...]
    blocks: bytes

    def __len__(self) -> int:
        return len(self.headers[0]) + len(self.blocks)

    def of_length(self, length: int) -> bytes | None:
        for header in self.headers:
            empty, rest = divmod(length - len(header) - len(self.blocks), len(_EMPTY_BLOCK))
            if empty >= 0 and rest == 0:
                return header + _EMPTY_BLOCK * empty + self.blocks
        return None


def fit(planes: Sequence[Buffer], length: int, *, framed: bool) -> list[Buffer] | None:
    """The planes as they are or as zstd frames, of `length` bytes in all, or None where no setting gives that. A frame
    is shorter than its plane; or `framed`: each plane is a frame, of whatever length."""
    for compressor in _compressors():
        frames = [_frame_of(plane, compressor) for plane in planes]
        for chosen in _choices(planes, frames, framed=framed):
            room = {k: length if framed else len(planes[k]) - 1 - len(frames[k]) for k in chosen}
            kept_bytes = sum(len(plane) for k, plane in enumerate(planes) if k not in chosen)
            missing_bytes = length - kept_bytes - sum(len(frames[k]) for k in chosen)
            stored = _stored({k: frames[k] for k in chosen}, room, missing_bytes)
            if stored is not None:
                return [stored.get(k, plane) for k, plane in enumerate(planes)]
    return None


def _compressors() -> Iterator[zstandard.ZstdCompressor]:
    for parameters in _ENTROPY:
        yield zstandard.ZstdCompressor(compression_params=parameters)
    for level in _LEVELS:
        yield zstandard.ZstdCompressor(level=level)


def _frame_of(plane: Buffer, compressor: zstandard.ZstdCompressor) -> _Frame:
    frame, size = compressor.compress(plane), len(plane)
    header, blocks = frame[: zstandard.frame_header_size(frame)], frame[zstandard.frame_header_size(frame) :]
    descriptor = header[_MAGIC_BYTES]
    has_window = not descriptor & _SINGLE_SEGMENT
    window_log = max(_WINDOW_LOG_MIN, (size - 1).bit_length())
    window = header[_MAGIC_BYTES + 1 :][:1] if has_window else bytes([(window_log - _WINDOW_LOG_MIN) << 3])
    headers = []
    for size_bytes, flag in _SIZE_FLAGS.items():
        value = size - 256 if size_bytes == 2 else size
        if not 0 <= value < 1 << (8 * size_bytes):
            continue
        for single in (_SINGLE_SEGMENT, 0):
            if single or flag:  # flag 0 without a single segment is no content size
                start = bytes([flag << 6 | single | descriptor & _CHECKSUM]) + (b"" if single else window)
                headers.append(header[:_MAGIC_BYTES] + start + value.to_bytes(size_bytes, "little"))
    return _Frame(tuple(sorted(headers, key=len)), blocks)


def _choices(planes: Sequence[Buffer], frames: Sequence[_Frame], *, framed: bool) -> Iterator[frozenset[int]]:
    """Which planes are stored as frames."""
    if framed:
        yield frozenset(range(len(planes)))
        return
    shorter = [k for k, plane in enumerate(planes) if len(frames[k]) < len(plane)]
    for taken in product((True, False), repeat=len(shorter)):
        yield frozenset(k for k, take in zip(shorter, taken, strict=True) if take)


def _stored(frames: dict[int, _Frame], room: dict[int, int], missing_bytes: int) -> dict[int, Buffer] | None:
    """The frames, longer by `missing_bytes` in all and none by more than its room; None where that cannot be."""
    if not frames:
        return None if missing_bytes else {}
    widest = max(room, key=lambda k: room[k])
    stored: dict[int, Buffer] = {}
    for k in frames.keys() - {widest}:
        beyond = -(-max(0, missing_bytes - room[widest]) // len(_EMPTY_BLOCK))
        more_bytes = min(beyond, room[k] // len(_EMPTY_BLOCK)) * len(_EMPTY_BLOCK)
        grown = frames[k].of_length(len(frames[k]) + more_bytes)
        if grown is None:
            raise AssertionError("empty blocks fit into every frame")
        stored[k] = grown
        missing_bytes -= more_bytes
    last = frames[widest].of_length(len(frames[widest]) + missing_bytes) if missing_bytes <= room[widest] else None
    return None if last is None else stored | {widest: last}
