"""Differences between versions."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyhold.codec.floats import decode_floats
from skyhold.codec.tensors import Tensor
from skyhold.json_form import as_json
from skyhold.registry.diff import DiffSide, diff_versions
from skyhold.registry.tensor_change import BLOCK_BYTES

NUMPY_OF = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2, "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz, "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}  # fmt: skip


@dataclass
class MemoryFile:
    path: str
    body: bytes
    tensors: tuple[Tensor, ...] | None = None
    chunk_bytes: int = 64
    reads: list[tuple[int, int]] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        return len(self.body)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()

    def read(self, start: int, length: int) -> bytes:
        assert 0 <= start <= start + length <= len(self.body)
        self.reads.append((start, length))
        return self.body[start : start + length]

    def chunks(self) -> Sequence[tuple[int, int, bytes]]:
        step = self.chunk_bytes
        return [
            (start, len(part), hashlib.sha256(part).digest())
            for start in range(0, len(self.body), step)
            if (part := self.body[start : start + step])
        ]


def tensor_file(
    path: str, arrays: dict[str, np.ndarray], dtype: str = "F32", lead: int = 0, chunk: int = 64
) -> MemoryFile:
    body, tensors = b"h" * lead, []
    for name, array in arrays.items():
        start = len(body)
        body += array.tobytes()
        tensors.append(Tensor(name, dtype, array.shape, start, len(body)))
    return MemoryFile(path, body, tuple(tensors), chunk)


def test_files_added_removed_changed_and_renamed() -> None:
    a = [MemoryFile("keep", b"k"), MemoryFile("edit", b"1"), MemoryFile("old", b"same"), MemoryFile("gone", b"x")]
    b = [MemoryFile("keep", b"k"), MemoryFile("edit", b"22"), MemoryFile("new", b"same"), MemoryFile("plus", b"y")]
    diff = diff_versions(DiffSide(a), DiffSide(b))
    assert [(d.kind, d.old_path, d.path) for d in diff.files] == [
        ("changed", "edit", "edit"),
        ("removed", "gone", None),
        ("renamed", "old", "new"),
        ("added", None, "plus"),
    ]
    assert (diff.files[0].old_size_bytes, diff.files[0].size_bytes) == (1, 2)


def test_one_removed_file_is_renamed_to_one_added_file_only() -> None:
    diff = diff_versions(DiffSide([MemoryFile("a", b"s")]), DiffSide([MemoryFile("b", b"s"), MemoryFile("c", b"s")]))
    assert [(d.kind, d.path) for d in diff.files] == [("renamed", "b"), ("added", "c")]


@given(st.sampled_from(sorted(NUMPY_OF)), st.binary(min_size=8, max_size=256).map(lambda b: b[: len(b) // 8 * 8]))
def test_floats_decode_as_the_reference_does(dtype: str, data: bytes) -> None:
    with np.errstate(all="ignore"):
        expected = np.frombuffer(data, NUMPY_OF[dtype]).astype(np.float64)
    np.testing.assert_array_equal(decode_floats(dtype, data), expected)


@pytest.mark.parametrize("dtype", [name for name in NUMPY_OF if name.startswith("F8")])
def test_every_code_of_the_8_bit_floats_decodes(dtype: str) -> None:
    codes = bytes(range(256))
    expected = np.frombuffer(codes, NUMPY_OF[dtype]).astype(np.float64)
    np.testing.assert_array_equal(decode_floats(dtype, codes), expected)


@given(
    st.sampled_from(["F64", "F32", "F16", "BF16"]),
    st.integers(1, 300),
    st.lists(st.integers(0, 299), max_size=5),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.integers(8, 700),
)
def test_values_agree_with_a_naive_comparison(
    dtype: str, count: int, touched: list[int], leads: tuple[int, int], chunk: int
) -> None:
    generator = np.random.default_rng(count)
    before = (generator.standard_normal(count) + 3).astype(NUMPY_OF[dtype])
    after = before.copy()
    for index in touched:
        after[index % count] = -after[index % count]
    diff = diff_versions(
        DiffSide([tensor_file("m", {"w": before}, dtype, leads[0], chunk)]),
        DiffSide([tensor_file("m", {"w": after}, dtype, leads[1], chunk)]),
    )
    old, new = before.astype(np.float64), after.astype(np.float64)
    if (old == new).all():
        assert (diff.tensors, diff.tensors_unchanged) == ((), 1)
        return
    (tensor,) = diff.tensors
    assert tensor.kind == "values"
    assert tensor.changed_share == pytest.approx(np.mean(old != new))
    assert tensor.relative_norm == pytest.approx(np.linalg.norm(new - old) / np.linalg.norm(old))


def test_equal_chunks_are_read_on_the_old_side_only_and_blocks_are_bounded() -> None:
    before = np.ones(1 << 20, np.float32)
    after = before.copy()
    after[-1] = 2
    a, b = (tensor_file("m", {"w": array}, chunk=1 << 20) for array in (before, after))
    (tensor,) = diff_versions(DiffSide([a]), DiffSide([b])).tensors
    assert tensor.changed_share == 1 / (1 << 20)
    assert tensor.relative_norm == pytest.approx(1 / 1024)
    assert b.reads == [(3 << 20, 1 << 20)]
    assert sorted(a.reads) == [(index << 20, 1 << 20) for index in range(4)]
    assert max(length for _, length in a.reads) <= BLOCK_BYTES


def test_tensors_of_an_unchanged_file_or_of_equal_chunks_are_not_read() -> None:
    w, v = np.ones(64, np.float32), np.zeros(64, np.float32)
    a, b = tensor_file("m", {"w": w, "v": v}), tensor_file("m", {"w": w, "v": v + 1})
    diff = diff_versions(DiffSide([a]), DiffSide([b]))
    assert [tensor.name for tensor in diff.tensors] == ["v"]
    assert all(start >= 256 for start, _ in a.reads + b.reads)
    same = tensor_file("m", {"w": w})
    assert diff_versions(DiffSide([same]), DiffSide([same])).is_empty
    assert not same.reads


def test_a_tensor_is_followed_into_another_shard() -> None:
    w, v = np.ones(4, np.float32), np.zeros(4, np.float32)
    diff = diff_versions(
        DiffSide([tensor_file("model", {"w": w, "v": v})]),
        DiffSide([tensor_file("model-1", {"w": w}), tensor_file("model-2", {"v": v})]),
    )
    assert (diff.tensors, diff.tensors_unchanged) == ((), 2)


def test_one_name_in_two_files_is_compared_within_each_file() -> None:
    one, two = np.ones(4, np.float32), np.full(4, 2, np.float32)
    a = [tensor_file("x", {"w": one}), tensor_file("y", {"w": two})]
    b = [tensor_file("x", {"w": one}), tensor_file("y", {"w": one})]
    diff = diff_versions(DiffSide(a), DiffSide(b))
    assert [(t.name, t.path, t.relative_norm) for t in diff.tensors] == [("w", "y", 0.5)]


def test_shape_type_added_and_removed_tensors_are_reported_without_reading() -> None:
    a = tensor_file(
        "m", {"grown": np.ones((2, 2), np.float32), "cast": np.ones(3, np.float32), "gone": np.ones(1, "f4")}
    )
    half = tensor_file("h", {"cast": np.ones(3, np.float16)}, "F16")
    b = tensor_file("m", {"grown": np.ones((3, 2), np.float32), "plus": np.ones(1, "f4")})
    diff = diff_versions(DiffSide([a]), DiffSide([b, half]))
    assert [(t.kind, t.name) for t in diff.tensors] == [
        ("dtype", "cast"),
        ("removed", "gone"),
        ("shape", "grown"),
        ("added", "plus"),
    ]
    assert diff.tensors[2].old_shape == (2, 2)
    assert not a.reads + b.reads + half.reads


def test_nan_and_a_zero_start_have_no_norm_but_a_share() -> None:
    zeros, ones = np.zeros(4, np.float32), np.ones(4, np.float32)
    broken = ones.copy()
    broken[1] = math.nan
    for before, after, share in ((zeros, ones, 1.0), (ones, broken, 0.25)):
        (tensor,) = diff_versions(
            DiffSide([tensor_file("m", {"w": before})]), DiffSide([tensor_file("m", {"w": after})])
        ).tensors
        assert (tensor.changed_share, tensor.relative_norm) == (share, None)


def test_integers_have_a_share_and_quantised_blocks_neither() -> None:
    for dtype, share in (("I32", 0.25), ("Q4_K", None)):
        before, after = np.zeros(4, "<i4"), np.array([0, 7, 0, 0], "<i4")
        (tensor,) = diff_versions(
            DiffSide([tensor_file("m", {"w": before}, dtype)]), DiffSide([tensor_file("m", {"w": after}, dtype)])
        ).tensors
        assert (tensor.kind, tensor.changed_share, tensor.relative_norm) == ("values", share, None)


def test_metrics_and_parameters_differ_by_value_and_type() -> None:
    diff = diff_versions(
        DiffSide([], {"accuracy": 0.9, "loss": 1}, {"flag": True, "same": [1, {"a": 2}], "was": 1}),
        DiffSide([], {"accuracy": 0.92, "loss": 1}, {"flag": 1, "same": [1, {"a": 2}], "now": None}),
    )
    assert [(d.kind, d.name, d.old, d.new) for d in diff.metrics] == [("changed", "accuracy", 0.9, 0.92)]
    assert [(d.kind, d.name) for d in diff.parameters] == [("changed", "flag"), ("added", "now"), ("removed", "was")]


def test_json_form_is_json() -> None:
    w = np.ones((2, 2), np.float32)
    diff = diff_versions(
        DiffSide([tensor_file("m", {"w": w})]), DiffSide([tensor_file("m", {"w": w * 2})], {"f1": 0.5})
    )
    document = as_json(diff)
    assert json.loads(json.dumps(document)) == document
    assert document["tensors"][0]["shape"] == [2, 2]  # type: ignore[index]
