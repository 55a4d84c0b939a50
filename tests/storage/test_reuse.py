"""What a push may build on: never a pack that a gc may delete, deltas as the policy allows, tensors of any kind."""

from __future__ import annotations

import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from skyhold.storage.bases import DeltaBases
from skyhold.storage.chunks import ChunkReader
from skyhold.storage.progress import Silence
from skyhold.storage.push import Push, Pushed, PushOptions
from skyhold.storage.sources.folder import find_source
from skyhold.storage.version_files import VersionFiles
from tests.storage.fixtures import CLASS, FlakyBucket, Setup
from tests.storage.test_push_pull import model, tree_of

Tensors = dict[str, np.ndarray]

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.int64, np.int8, np.uint8, np.bool_]


def push_despite(setup: Setup, path: Path, parent: VersionFiles, dead: frozenset[bytes]) -> Pushed:
    bases = DeltaBases([parent], CLASS.hex(), ChunkReader(setup.space))
    with Push(setup.space, setup.chunk_index, bases, PushOptions(), Silence(), dead) as push:
        return push.run(find_source(path).files)


def test_no_chunk_of_a_tombstoned_pack_is_reused(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "state", [FlakyBucket("a")])
    path = model(tmp_path / "in", seed=1)
    version, _ = setup.push(path)
    dead = frozenset(version.pack_ids())
    pushed = push_despite(setup, path, version, dead)
    assert pushed.reused_bytes == pushed.delta_bytes == 0
    assert pushed.packs_sent
    assert not dead & (pushed.packs_reused | pushed.packs_sent.keys())
    setup.close()


def test_no_delta_is_made_to_a_tombstoned_pack(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "state", [FlakyBucket("a")])
    base, _ = setup.push(model(tmp_path / "base", seed=1))
    tuned = model(tmp_path / "tuned", seed=1, noise=0.001)
    assert push_despite(setup, tuned, base, frozenset(base.pack_ids())).delta_bytes == 0
    setup.close()


def test_a_delta_whose_base_is_tombstoned_is_not_reused(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "state", [FlakyBucket("a")])
    base, _ = setup.push(model(tmp_path / "base", seed=1))
    tuned = model(tmp_path / "tuned", seed=1, noise=0.001)
    version, first = setup.push(tuned, parent=base)
    assert first.delta_bytes > 0
    dead = frozenset(base.pack_ids())
    again = push_despite(setup, tuned, version, dead)
    assert again.delta_bytes == 0
    assert not dead & (again.packs_reused | again.packs_sent.keys())
    setup.close()


def test_policy_off_makes_no_delta(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "state", [FlakyBucket("a")])
    base, _ = setup.push(model(tmp_path / "base", seed=1))
    near = model(tmp_path / "near", seed=1, noise=0.001)
    version, pushed = setup.push(near, parent=base, options=PushOptions(delta="off"))
    assert pushed.delta_bytes == 0
    assert all(chunk.base is None for chunk in version.chunks(0))
    setup.close()


def test_policy_egress_makes_the_delta_that_costs_a_cold_pull_little(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "state", [FlakyBucket("a")])
    weights = np.random.default_rng(1).normal(0, 0.02, (3000, 400)).astype(np.float32)
    for name in ("base", "near"):
        (tmp_path / name).mkdir()
        save_file({"w": weights}, tmp_path / name / "model.safetensors")
        weights[::50] *= 1.001  # a row in fifty has moved
    base, _ = setup.push(tmp_path / "base")
    version, pushed = setup.push(tmp_path / "near", parent=base, options=PushOptions(delta="egress"))
    assert pushed.delta_bytes > 0.9 * pushed.read_bytes
    assert pushed.stored_bytes < pushed.read_bytes / 8
    setup.pull(version, tmp_path / "out")
    assert tree_of(tmp_path / "out") == tree_of(tmp_path / "near")
    setup.close()


@st.composite
def tensors(draw: st.DrawFn) -> Tensors:
    """A few tensors of mixed types, none, some or all of them empty or without dimensions."""
    names = draw(st.lists(st.text("abc.", min_size=1, max_size=4), min_size=1, max_size=5, unique=True))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    made = {}
    for name in names:
        shape = draw(st.lists(st.sampled_from([0, 1, 3, 40, 300]), max_size=2))
        made[name] = np.asarray(generator.normal(0, 3, shape)).astype(draw(st.sampled_from(DTYPES)))
    return made


@st.composite
def derived(draw: st.DrawFn, base: Tensors) -> Tensors:
    """A next version: values moved, tensors left out, a first dimension that grew or shrank, another order."""
    made: Tensors = {}
    for name in draw(st.permutations(sorted(base))):
        kind, tensor = draw(st.sampled_from(["same", "moved", "grown", "shrunk", "gone"])), base[name]
        if kind == "moved" and tensor.dtype.kind != "b":
            made[name] = np.asarray(tensor.astype(np.float64) * 1.01).astype(tensor.dtype)
        elif kind == "grown" and tensor.ndim:
            made[name] = np.concatenate([tensor, tensor[:1], tensor[:1]])
        elif kind == "shrunk" and tensor.ndim:
            made[name] = tensor[:-1]
        elif kind != "gone":
            made[name] = tensor
    return made


def write_shards(folder: Path, made: Tensors, shards: int) -> Path:
    folder.mkdir()
    names = list(made)
    for shard in range(shards):
        save_file({name: made[name] for name in names[shard::shards]}, folder / f"model-{shard}.safetensors")
    return folder


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("delta", ["storage", "egress", "off"])
@settings(max_examples=12)
@given(data=st.data())
def test_any_tensors_and_their_descendants_come_back(sealed: bool, delta: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        setup = Setup(root / "state", [FlakyBucket("a")], sealed=sealed)
        made, parent = data.draw(tensors()), None
        for number in range(3):
            path = write_shards(root / f"in{number}", made, data.draw(st.integers(1, 3)))
            parent, _ = setup.push(path, parent=parent, options=PushOptions(delta=delta))
            setup.pull(parent, root / f"out{number}")
            assert tree_of(root / f"out{number}") == tree_of(path)
            made = data.draw(derived(made))
        setup.close()
