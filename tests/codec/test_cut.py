"""Files are covered exactly by regions, and byte regions are cut alike through any windows."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyhold.codec.cut import (
    CDC_BYTES_MAX,
    CDC_BYTES_MIN,
    TENSOR_BYTES_MIN,
    TENSOR_CHUNK_BYTES,
    Region,
    cut_bytes,
    regions,
)
from skyhold.codec.tensors import Tensor

NOISE = np.random.default_rng(3).bytes(24 << 20)


@st.composite
def tensors_in_order(draw: st.DrawFn) -> tuple[int, list[Tensor]]:
    position, tensors = 0, []
    for number in range(draw(st.integers(0, 8))):
        start = position + draw(st.sampled_from([0, 0, 1, 5000]))
        position = start + draw(st.sampled_from([0, 1, TENSOR_BYTES_MIN - 1, TENSOR_BYTES_MIN, 3 << 20]))
        tensors.append(Tensor(f"t{number}", "U8", (position - start,), start, position))
    return position + draw(st.integers(0, 100)), tensors


def assert_covers(found: list[Region], size_bytes: int) -> None:
    assert all(region.start < region.end for region in found)
    assert [region.start for region in found] + [size_bytes] == [0] + [region.end for region in found]
    assert not any(a.tensor is None and b.tensor is None for a, b in pairwise(found))


@given(tensors_in_order())
def test_regions_cover_the_file_and_name_every_large_tensor(drawn: tuple[int, list[Tensor]]) -> None:
    size_bytes, tensors = drawn
    found = regions(size_bytes, tensors)
    assert_covers(found, size_bytes)
    large = [tensor for tensor in tensors if tensor.end - tensor.start >= TENSOR_BYTES_MIN]
    assert [region.tensor for region in found if region.tensor] == large
    assert all((r.start, r.end) == (r.tensor.start, r.tensor.end) for r in found if r.tensor)


@given(st.lists(st.tuples(st.integers(-5, 20_000), st.integers(-5, 20_000))), st.integers(0, 15_000))
def test_tensors_in_disorder_leave_a_file_of_bytes(places: list[tuple[int, int]], size_bytes: int) -> None:
    found = regions(size_bytes, [Tensor("t", "U8", (), start, end) for start, end in places])
    assert_covers(found, size_bytes)


def test_an_unknown_format_is_one_region_and_an_empty_file_none() -> None:
    assert regions(10, None) == [Region(0, 10, None)]
    assert regions(0, None) == []
    assert regions(10, [Tensor("t", "U8", (11,), 0, 11)]) == [Region(0, 10, None)]


def cut_through_windows(data: bytes, window_sizes: list[int]) -> list[int]:
    """The caller's loop: what a window leaves out is passed again with more."""
    lengths, start, step = [], 0, 0
    window_bytes = 0
    while start < len(data):
        window_bytes = min(len(data) - start, window_bytes + window_sizes[step % len(window_sizes)])
        step += 1
        found = cut_bytes(memoryview(data)[start : start + window_bytes], start + window_bytes == len(data))
        lengths += found
        start += sum(found)
        window_bytes -= sum(found)
    return lengths


@pytest.mark.slow
@given(
    st.lists(st.integers(1, 6 << 20), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 100_000),
    st.integers(0, 8 << 20),
    st.sampled_from([NOISE, NOISE[: 5 << 20] + bytes(9 << 20) + NOISE[: 3 << 20], bytes(12 << 20)]),
)
@settings(max_examples=40)
def test_cuts_do_not_depend_on_the_windows(window_sizes: list[int], drop: int, source: bytes) -> None:
    data = source[drop : drop + (10 << 20)]
    whole = cut_bytes(data, final=True)
    assert sum(whole) == len(data)
    assert cut_through_windows(data, window_sizes) == whole


@given(st.integers(CDC_BYTES_MAX, CDC_BYTES_MAX + 9), st.booleans())
@settings(max_examples=20)
def test_a_full_window_always_yields_a_chunk(window_bytes: int, final: bool) -> None:
    for data in (bytes(window_bytes), NOISE[:window_bytes]):
        lengths = cut_bytes(data, final)
        assert lengths
        assert all(CDC_BYTES_MIN <= length <= CDC_BYTES_MAX for length in lengths[:-1])


def test_an_insertion_moves_only_the_cuts_near_it() -> None:
    edited = NOISE[: 8 << 20] + b"inserted" + NOISE[8 << 20 :]

    def ids(data: bytes) -> set[bytes]:
        found, start = set(), 0
        for length in cut_bytes(data, final=True):
            found.add(hashlib.sha256(data[start : start + length]).digest())
            start += length
        return found

    assert len(ids(edited) - ids(NOISE)) <= 3


def test_cuts_of_a_known_text_stay_where_they_are() -> None:
    """Golden: another gear table or mask would break sharing with every version already stored."""
    data = b"".join(hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(1 << 16))
    assert cut_bytes(data, final=True) == GOLDEN_LENGTHS


GOLDEN_LENGTHS = [289018, 242244, 401660, 123425, 317664, 127663, 546462, 49016]


@pytest.mark.parametrize("width", [1, 2, 4, 8, 16])
def test_chunks_inside_a_tensor_hold_whole_elements(width: int) -> None:
    assert TENSOR_CHUNK_BYTES % width == 0
