"""A payload of a given length is made within the format: every decoder of zstd reads it."""

from __future__ import annotations

import io

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from skyhold.codec.fit import fit
from skyhold.units import Buffer


def plane(seed: int, size: int, kinds: int) -> bytes:
    return np.random.default_rng(seed).integers(0, kinds, size, np.uint8).tobytes()


def plain(stored: Buffer, original: bytes) -> bytes:
    if len(stored) == len(original):
        return bytes(stored)
    assert zstandard.frame_content_size(stored) == len(original)
    whole = zstandard.ZstdDecompressor().decompress(stored, allow_extra_data=False)
    assert zstandard.ZstdDecompressor().stream_reader(io.BytesIO(stored)).read() == whole
    return whole


PLANES = st.builds(plane, st.integers(0, 99), st.integers(0, 200_000), st.integers(1, 256))


@settings(max_examples=60, deadline=None)
@given(PLANES, st.one_of(st.integers(8, 200), st.integers(8, 100_000)))
def test_frame_becomes_longer_by_any_number_of_bytes_from_eight_on(data: bytes, more_bytes: int) -> None:
    length = len(zstandard.ZstdCompressor(level=1).compress(data)) + more_bytes
    stored = fit([data], length, framed=True)
    assert stored is not None
    assert len(stored[0]) == length
    whole = zstandard.ZstdDecompressor().decompress(stored[0], allow_extra_data=False)
    assert whole == data
    assert zstandard.frame_content_size(stored[0]) == len(data)


@settings(max_examples=40, deadline=None)
@given(st.lists(PLANES, min_size=1, max_size=4), st.integers(-100, 2000))
def test_planes_have_the_length_in_all_and_their_content(planes: list[bytes], more_bytes: int) -> None:
    frames = [zstandard.ZstdCompressor(level=3).compress(data) for data in planes]
    length = sum(min(len(frame), len(data)) for frame, data in zip(frames, planes, strict=True)) + more_bytes
    stored = fit(planes, length, framed=False)
    if stored is None:
        return
    assert sum(map(len, stored)) == length
    assert [plain(item, data) for item, data in zip(stored, planes, strict=True)] == planes


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("level", [-3, 1, 3, 9, 19])
def test_planes_that_another_level_has_stored_fit(level: int, seed: int) -> None:
    planes = [plane(seed, 50_000, kinds) for kinds in (256, 256, 40, 5)]
    frames = [zstandard.ZstdCompressor(level=level).compress(data) for data in planes]
    length = sum(min(len(frame), len(data)) for frame, data in zip(frames, planes, strict=True))
    stored = fit(planes, length, framed=False)
    assert stored is not None
    assert [plain(item, data) for item, data in zip(stored, planes, strict=True)] == planes


def test_length_that_no_setting_gives_is_refused() -> None:
    noise = plane(1, 10_000, 256)
    assert fit([noise], 5_000, framed=True) is None
    assert fit([noise], 9_999, framed=False) is None
    assert fit([noise], 10_000, framed=False) == [noise]
    assert fit([noise], 10_001, framed=False) is None
    assert fit([], 0, framed=False) == []
