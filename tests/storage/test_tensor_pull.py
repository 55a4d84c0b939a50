"""Named tensors of a version, in one safetensors file that the real library opens."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Literal
from unittest import mock

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from skyhold.codec.tensors import Tensor
from skyhold.errors import Corrupt, InvalidInput, NotFound
from skyhold.storage.chunks import ChunkReader
from skyhold.storage.progress import Silence
from skyhold.storage.tensor_pull import PulledTensors, WantedTensors, pull_tensors
from skyhold.storage.version_files import VersionFiles
from tests.storage.fixtures import FlakyBucket, Setup

RANDOM = np.random.default_rng(5)
LAYERS = {
    "model.layers.0.weight": RANDOM.standard_normal((700, 1000)).astype(ml_dtypes.bfloat16),
    "model.layers.0.bias": RANDOM.standard_normal(1000).astype(np.float32),
    "model.layers.1.weight": RANDOM.standard_normal((700, 1000)).astype(ml_dtypes.bfloat16),
    "steps": np.array(7, np.int64),
    "none": np.zeros((0, 4), np.float16),
}


def sharded(folder: Path) -> Path:
    folder.mkdir()
    names = list(LAYERS)
    save_file({name: LAYERS[name] for name in names[:2]}, folder / "model-00001-of-00002.safetensors")
    save_file({name: LAYERS[name] for name in names[2:]}, folder / "model-00002-of-00002.safetensors")
    return folder


def pull(setup: Setup, version: VersionFiles, patterns: list[str], root: Path) -> PulledTensors:
    return pull_tensors(version, WantedTensors(patterns), root, ChunkReader(setup.space), Silence())


@pytest.mark.parametrize("patterns", [["*"], ["model.layers.1.weight"], ["*.bias", "steps"], ["none"], ["*.0.*"]])
def test_named_tensors_open_with_the_real_library(patterns: list[str], tmp_path: Path) -> None:
    setup = Setup(tmp_path / "state", [FlakyBucket("a")])
    version, _ = setup.push(sharded(tmp_path / "in"))
    pulled = pull(setup, version, patterns, tmp_path / "out")
    assert pulled.size_bytes == pulled.path.stat().st_size
    opened = load_file(pulled.path)
    assert set(opened) == set(pulled.names)
    assert opened
    for name, tensor in opened.items():
        assert tensor.dtype == LAYERS[name].dtype
        assert tensor.shape == LAYERS[name].shape
        assert tensor.tobytes() == LAYERS[name].tobytes()
    setup.close()


def test_the_rest_of_the_version_is_not_fetched(tmp_path: Path) -> None:
    bucket = FlakyBucket("a")
    setup = Setup(tmp_path / "state", [bucket])
    version, pushed = setup.push(sharded(tmp_path / "in"))
    fetched: list[int] = []
    bucket.damage = lambda body: fetched.append(len(body)) or body  # type: ignore[func-returns-value]
    pull(setup, version, ["model.layers.0.bias"], tmp_path / "out")
    assert 0 < sum(fetched) < pushed.stored_bytes / 10
    setup.close()


def test_a_name_that_is_missing_is_answered_with_the_nearest(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "state", [FlakyBucket("a")])
    version, _ = setup.push(sharded(tmp_path / "in"))
    with pytest.raises(NotFound, match=r"model\.layer\.0\.weight") as caught:
        pull(setup, version, ["model.layer.0.weight"], tmp_path / "out")
    assert caught.value.hint == "Did you mean `model.layers.0.weight`?"
    with pytest.raises(NotFound, match=r"zz\*"):
        pull(setup, version, ["steps", "zz*"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    setup.close()


def test_a_version_without_tensors_is_reported(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "state", [FlakyBucket("a")])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "config.json").write_text("{}")
    version, _ = setup.push(tmp_path / "in")
    with pytest.raises(NotFound, match="its files name no tensors"):
        pull(setup, version, ["w"], tmp_path / "out")
    setup.close()


def test_a_name_in_two_files_is_refused(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "state", [FlakyBucket("a")])
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        save_file({"w": np.ones(3, np.float32)}, tmp_path / "in" / f"{name}.safetensors")
    version, _ = setup.push(tmp_path / "in")
    with pytest.raises(InvalidInput, match=r"`w` .* more than once: in a\.safetensors and in b\.safetensors") as caught:
        pull(setup, version, ["w"], tmp_path / "out")
    assert caught.value.hint == "Choose its file with --include, beside --tensor"
    one = WantedTensors(["w"], ["b.*"])
    pull_tensors(version, one, tmp_path / "out", ChunkReader(setup.space), Silence())
    assert set(load_file(tmp_path / "out" / "tensors.safetensors")) == {"w"}
    setup.close()


def test_types_of_gguf_are_refused_by_name_and_left_out_of_a_glob(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="pip install gguf brings the library that writes the file")
    setup = Setup(tmp_path / "state", [FlakyBucket("a")])
    (tmp_path / "in").mkdir()
    writer = gguf.GGUFWriter(tmp_path / "in" / "model.gguf", "llama")
    norm = np.arange(64, dtype=np.float32)
    writer.add_tensor("norm", norm)
    writer.add_tensor("blk.0", RANDOM.integers(0, 255, (4, 34), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    version, _ = setup.push(tmp_path / "in")
    for patterns in (["blk.0"], ["blk*"], ["*", "blk.0"]):
        with pytest.raises(InvalidInput, match=r"Tensor `blk\.0` of model\.gguf has type Q8_0") as caught:
            pull(setup, version, patterns, tmp_path / "out")
        assert caught.value.code == "tensor_type"
        assert not (tmp_path / "out").exists()
    pulled = pull(setup, version, ["*"], tmp_path / "out")
    assert pulled.left_out == {"blk.0": "model.gguf has type Q8_0, which safetensors cannot hold"}
    assert pulled.names == ("norm",)
    assert load_file(pulled.path)["norm"].tobytes() == norm.tobytes()
    setup.close()


def test_a_damaged_tensor_leaves_no_file(tmp_path: Path) -> None:
    bucket = FlakyBucket("a")
    setup = Setup(tmp_path / "state", [bucket])
    version, _ = setup.push(sharded(tmp_path / "in"))
    bucket.damage = lambda body: body[:500] + bytes([body[500] ^ 1]) + body[501:]
    with pytest.raises(Corrupt, match="damaged"):
        pull(setup, version, ["model.layers.0.bias"], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    setup.close()


ARRAYS = st.tuples(
    st.sampled_from(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "c8", "b1"]),
    st.sampled_from("<>"),
    st.sampled_from("CF"),
    st.lists(st.integers(0, 7), max_size=4).map(tuple),
)


def drawn_array(element: str, byte_order: str, order: Literal["C", "F"], shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape))
    raw = RANDOM.integers(0, 2, size, np.uint8).tobytes() if element == "b1" else RANDOM.bytes(size * int(element[1:]))
    return np.asarray(np.frombuffer(raw, byte_order + element).reshape(shape), order=order)


@pytest.mark.slow
@settings(max_examples=40, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), ARRAYS, min_size=1, max_size=6), st.data())
def test_every_array_comes_as_numpy_loads_it(
    drawn: dict[str, tuple[str, str, Literal["C", "F"], tuple[int, ...]]], data: st.DataObject
) -> None:
    arrays = {name: drawn_array(*about) for name, about in drawn.items()}
    block_bytes = data.draw(st.sampled_from([8, 64, 1 << 20]))
    with tempfile.TemporaryDirectory() as name, mock.patch("skyhold.codec.row_major.BLOCK_BYTES", block_bytes):
        folder = Path(name)
        setup = Setup(folder / "state", [FlakyBucket("a")])
        (folder / "in").mkdir()
        np.savez(folder / "in" / "all.npz", **arrays)  # type: ignore[arg-type]
        for member, values in arrays.items():
            np.save(folder / "in" / f"{member}.npy", values)
        version, _ = setup.push(folder / "in")
        pulled = pull(setup, version, ["*"], folder / "out")
        opened = load_file(pulled.path)
        with np.load(folder / "in" / "all.npz") as archive:
            expected = dict(archive.items())
        expected |= {f"{member}.npy": np.load(folder / "in" / f"{member}.npy") for member in arrays}
        assert pulled.left_out == {}
        assert set(opened) == set(pulled.names) == set(expected)
        for tensor, values in expected.items():
            assert (opened[tensor].dtype, opened[tensor].shape) == (values.dtype.newbyteorder("<"), values.shape)
            assert opened[tensor].tobytes() == values.astype(opened[tensor].dtype).tobytes()
        assert sorted(path.name for path in (folder / "out").iterdir()) == ["tensors.safetensors"]
        setup.close()


def test_column_major_array_larger_than_what_is_held_in_memory_comes_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyhold.codec.row_major.BLOCK_BYTES", 1 << 20)
    setup = Setup(tmp_path / "state", [FlakyBucket("a")])
    (tmp_path / "in").mkdir()
    values = np.asfortranarray(RANDOM.standard_normal((3, 700_001, 2)).astype(">f4"))
    np.save(tmp_path / "in" / "w.npy", values)
    version, _ = setup.push(tmp_path / "in")
    pulled = pull(setup, version, ["w.npy"], tmp_path / "out")
    assert np.array_equal(load_file(pulled.path)["w.npy"], values)
    setup.close()


def test_what_safetensors_cannot_hold_is_named_with_its_file_and_stops_nothing_else(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "state", [FlakyBucket("a")])
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "words.npy", np.array(["a", "bc"]))
    np.save(tmp_path / "in" / "wide.npy", np.ones(2, ">c16"))
    np.save(tmp_path / "in" / "w.npy", np.ones(2, "f4"))
    version, _ = setup.push(tmp_path / "in")
    pulled = pull(setup, version, ["*"], tmp_path / "out")
    assert pulled.names == ("w.npy",)
    assert pulled.left_out == {
        "words.npy": "words.npy has type <U2, which safetensors cannot hold",
        "wide.npy": "wide.npy has type >c16, which safetensors cannot hold",
    }
    with pytest.raises(InvalidInput, match=r"Tensor `words\.npy` of words\.npy has type <U2"):
        pull(setup, version, ["words.npy"], tmp_path / "no")
    assert not (tmp_path / "no").exists()
    setup.close()


@pytest.mark.parametrize(
    "entry",
    [
        ("w", "F32", (2, 3), 0, 20),
        ("w", "F32:fortran", (5,), 0, 24),
        ("w", ">f4", (9,), 0, 24),
        ("w", "F4:fortran", (6, 8), 0, 24),
    ],
)
def test_tensor_of_another_size_than_its_shape_is_not_written(
    entry: tuple[str, str, tuple[int, ...], int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = Setup(tmp_path / "state", [FlakyBucket("a")])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "w.bin").write_bytes(bytes(24))
    version, _ = setup.push(tmp_path / "in")
    monkeypatch.setattr(VersionFiles, "tensors", {"w.bin": (Tensor(*entry),)})
    with pytest.raises(Corrupt, match=r"Tensor `w` of w\.bin is listed with other bytes than its shape needs"):
        pull(setup, version, ["*"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    setup.close()


def test_every_type_of_the_library_is_written_as_it_was(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "state", [FlakyBucket("a")])
    (tmp_path / "in").mkdir()
    data = RANDOM.bytes(24)
    widths = {"F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3FNUZ": 8, "C64": 64}
    for dtype, bits in widths.items():
        entry = {"dtype": dtype, "shape": [24 * 8 // bits], "data_offsets": [0, 24]}
        header = json.dumps({dtype: entry}).encode()
        (tmp_path / "in" / f"{dtype}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    version, _ = setup.push(tmp_path / "in")
    for dtype in widths:
        pulled = pull(setup, version, [dtype], tmp_path / dtype)
        with safe_open(pulled.path, "np") as opened:
            assert opened.get_slice(dtype).get_dtype() == dtype
        assert pulled.path.read_bytes().endswith(data)
    setup.close()


def test_existing_name_is_matched_before_any_glob(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "state", [FlakyBucket("a")])
    (tmp_path / "in").mkdir()
    named = {"params['k']": np.ones(3, np.float32), "params*": np.zeros(2, np.float32), "paramsk": np.ones(1, np.int8)}
    save_file(named, tmp_path / "in" / "m[fp16].safetensors")
    (tmp_path / "in" / "mf.safetensors").write_bytes(b"another")
    version, _ = setup.push(tmp_path / "in")
    assert pull(setup, version, ["params['k']"], tmp_path / "one").names == ("params['k']",)
    assert pull(setup, version, ["params*"], tmp_path / "two").names == ("params*",)
    assert set(pull(setup, version, ["param*"], tmp_path / "all").names) == set(named)
    assert [version.files[index].path for index in version.matching(["m[fp16].safetensors"])] == ["m[fp16].safetensors"]
    assert [version.files[index].path for index in version.matching(["m[f]*.safetensors"])] == ["mf.safetensors"]
    setup.close()
