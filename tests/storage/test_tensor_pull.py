"""Named tensors of a version, in one safetensors file that the real library opens."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from skyhold.errors import Corrupt, InvalidInput, NotFound
from skyhold.storage.chunks import ChunkReader
from skyhold.storage.progress import Silence
from skyhold.storage.tensor_pull import PulledTensors, pull_tensors
from skyhold.storage.version_files import VersionFiles
from tests.storage.fixtures import FlakyBucket, Stand

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


def pull(stand: Stand, version: VersionFiles, patterns: list[str], root: Path) -> PulledTensors:
    return pull_tensors(version, patterns, root, ChunkReader(stand.space), Silence())


@pytest.mark.parametrize("patterns", [["*"], ["model.layers.1.weight"], ["*.bias", "steps"], ["none"], ["*.0.*"]])
def test_named_tensors_open_with_the_real_library(patterns: list[str], tmp_path: Path) -> None:
    stand = Stand(tmp_path / "state", [FlakyBucket("a")])
    version, _ = stand.push(sharded(tmp_path / "in"))
    pulled = pull(stand, version, patterns, tmp_path / "out")
    assert pulled.size_bytes == pulled.path.stat().st_size
    opened = load_file(pulled.path)
    assert set(opened) == set(pulled.names)
    assert opened
    for name, tensor in opened.items():
        assert tensor.dtype == LAYERS[name].dtype
        assert tensor.shape == LAYERS[name].shape
        assert tensor.tobytes() == LAYERS[name].tobytes()
    stand.close()


def test_the_rest_of_the_version_is_not_fetched(tmp_path: Path) -> None:
    bucket = FlakyBucket("a")
    stand = Stand(tmp_path / "state", [bucket])
    version, pushed = stand.push(sharded(tmp_path / "in"))
    fetched: list[int] = []
    bucket.damage = lambda body: fetched.append(len(body)) or body  # type: ignore[func-returns-value]
    pull(stand, version, ["model.layers.0.bias"], tmp_path / "out")
    assert 0 < sum(fetched) < pushed.stored_bytes / 10
    stand.close()


def test_a_name_that_is_missing_is_answered_with_the_nearest(tmp_path: Path) -> None:
    stand = Stand(tmp_path / "state", [FlakyBucket("a")])
    version, _ = stand.push(sharded(tmp_path / "in"))
    with pytest.raises(NotFound, match=r"model\.layer\.0\.weight") as caught:
        pull(stand, version, ["model.layer.0.weight"], tmp_path / "out")
    assert caught.value.hint == "Did you mean `model.layers.0.weight`?"
    with pytest.raises(NotFound, match=r"zz\*"):
        pull(stand, version, ["steps", "zz*"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    stand.close()


def test_a_version_without_tensors_says_so(tmp_path: Path) -> None:
    stand = Stand(tmp_path / "state", [FlakyBucket("a")])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "config.json").write_text("{}")
    version, _ = stand.push(tmp_path / "in")
    with pytest.raises(NotFound, match="its files name no tensors"):
        pull(stand, version, ["w"], tmp_path / "out")
    stand.close()


def test_a_name_in_two_files_is_refused(tmp_path: Path) -> None:
    stand = Stand(tmp_path / "state", [FlakyBucket("a")])
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        save_file({"w": np.ones(3, np.float32)}, tmp_path / "in" / f"{name}.safetensors")
    version, _ = stand.push(tmp_path / "in")
    with pytest.raises(InvalidInput, match="more than once"):
        pull(stand, version, ["w"], tmp_path / "out")
    stand.close()


def test_types_of_gguf_are_refused_and_plain_ones_come(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="pip install gguf brings the library that writes the file")
    stand = Stand(tmp_path / "state", [FlakyBucket("a")])
    (tmp_path / "in").mkdir()
    writer = gguf.GGUFWriter(tmp_path / "in" / "model.gguf", "llama")
    norm = np.arange(64, dtype=np.float32)
    writer.add_tensor("norm", norm)
    writer.add_tensor("blk.0", RANDOM.integers(0, 255, (4, 34), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    version, _ = stand.push(tmp_path / "in")
    with pytest.raises(InvalidInput, match=r"blk\.0") as caught:
        pull(stand, version, ["*"], tmp_path / "out")
    assert caught.value.code == "tensor_type"
    pulled = pull(stand, version, ["norm"], tmp_path / "out")
    assert load_file(pulled.path)["norm"].tobytes() == norm.tobytes()
    stand.close()


def test_a_damaged_tensor_leaves_no_file(tmp_path: Path) -> None:
    bucket = FlakyBucket("a")
    stand = Stand(tmp_path / "state", [bucket])
    version, _ = stand.push(sharded(tmp_path / "in"))
    bucket.damage = lambda body: body[:500] + bytes([body[500] ^ 1]) + body[501:]
    with pytest.raises(Corrupt, match="damaged"):
        pull(stand, version, ["model.layers.0.bias"], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    stand.close()


def test_array_of_the_other_order_is_refused_by_name_and_its_file_comes_whole(tmp_path: Path) -> None:
    """safetensors is row-major: written as they lie, the bytes would be those of the transposed array."""
    stand = Stand(tmp_path / "state", [FlakyBucket("a")])
    (tmp_path / "in").mkdir()
    values = np.asfortranarray(np.arange(6, dtype="f4").reshape(2, 3))
    np.save(tmp_path / "in" / "w.npy", values)
    version, _ = stand.push(tmp_path / "in")
    with pytest.raises(InvalidInput, match="fortran") as caught:
        pull(stand, version, ["*"], tmp_path / "out")
    assert caught.value.code == "tensor_type"
    assert not (tmp_path / "out").exists()
    stand.close()


def test_every_type_of_the_library_is_written_as_it_was(tmp_path: Path) -> None:
    stand = Stand(tmp_path / "state", [FlakyBucket("a")])
    (tmp_path / "in").mkdir()
    data = RANDOM.bytes(24)
    widths = {"F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3FNUZ": 8, "C64": 64}
    for dtype, bits in widths.items():
        entry = {"dtype": dtype, "shape": [24 * 8 // bits], "data_offsets": [0, 24]}
        header = json.dumps({dtype: entry}).encode()
        (tmp_path / "in" / f"{dtype}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    version, _ = stand.push(tmp_path / "in")
    for dtype in widths:
        pulled = pull(stand, version, [dtype], tmp_path / dtype)
        with safe_open(pulled.path, "np") as opened:
            assert opened.get_slice(dtype).get_dtype() == dtype
        assert pulled.path.read_bytes().endswith(data)
    stand.close()


def test_name_that_is_there_is_meant_before_any_glob(tmp_path: Path) -> None:
    stand = Stand(tmp_path / "state", [FlakyBucket("a")])
    (tmp_path / "in").mkdir()
    named = {"params['k']": np.ones(3, np.float32), "params*": np.zeros(2, np.float32), "paramsk": np.ones(1, np.int8)}
    save_file(named, tmp_path / "in" / "m[fp16].safetensors")
    (tmp_path / "in" / "mf.safetensors").write_bytes(b"another")
    version, _ = stand.push(tmp_path / "in")
    assert pull(stand, version, ["params['k']"], tmp_path / "one").names == ("params['k']",)
    assert pull(stand, version, ["params*"], tmp_path / "two").names == ("params*",)
    assert set(pull(stand, version, ["param*"], tmp_path / "all").names) == set(named)
    assert [version.files[index].path for index in version.matching(["m[fp16].safetensors"])] == ["m[fp16].safetensors"]
    assert [version.files[index].path for index in version.matching(["m[f]*.safetensors"])] == ["mf.safetensors"]
    stand.close()
