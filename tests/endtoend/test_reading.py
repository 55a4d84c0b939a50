"""Reading of a version what is wanted: a range of a file, a tensor, lists."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import skyhold
from skyhold.buckets.folder import FolderBucket
from skyhold.errors import AlreadyExists, Corrupt, InvalidInput, NotFound, Unavailable
from skyhold.registry.repository import Repository
from skyhold.registry.store import Store
from skyhold.storage import file_stream
from tests.cli.running import PROGRAM, Shell
from tests.endtoend.machines import Scene

BIG = random.Random(1).randbytes(6 << 20)
ARRAYS: dict[str, Any] = {
    "f32": np.arange(6, dtype=np.float32).reshape(2, 3), "f64": np.array(1.5), "i8": np.array([-1, 2], np.int8),
    "bool": np.array([True, False]), "c64": np.array([1 + 2j], np.complex64), "none": np.zeros((0, 3), np.int32),
    "bf16": np.array([1.5, -2, np.nan], ml_dtypes.bfloat16), "u64": np.array([2**64 - 1], np.uint64),
    "f8": np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn), "layer.0 [w]/é'\"\\*": np.ones(3, np.float16),
}  # fmt: skip


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "scene")
    with made.machine.at_work():
        yield made


@pytest.fixture
def store(scene: Scene) -> Iterator[Store]:
    with skyhold.init(scene.clouds()) as made:
        yield made


@pytest.fixture
def repository(store: Store, tmp_path: Path) -> Repository:
    npz = io.BytesIO()
    turned = {"turned": np.asfortranarray(np.arange(12.0).reshape(3, 4)), "big": np.arange(3, dtype=">i4"),
              "words": np.array(["a", "bc"])}  # fmt: skip
    np.savez(npz, **turned)
    npz.seek(0)
    made = store.repository("team/model", create=True)
    made.push(
        {"big.bin": BIG, "empty": b"", "model.safetensors": ARRAYS, "more.npz": npz, "other.safetensors":
         {"f32": np.zeros(1, np.float32)}}, message="One", tags=["v1"],
    )  # fmt: skip
    return made


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what was read of packs from buckets, or listed there as whole."""
    sizes: list[int] = []
    read = FolderBucket.read

    def counted(bucket: FolderBucket, key: str, start: int = 0, length: int | None = None) -> Any:
        data = read(bucket, key, start, length)
        if key.startswith("packs/"):
            sizes.append(len(data))
        return data

    monkeypatch.setattr(FolderBucket, "read", counted)
    return sizes


def test_open_file_reads_as_the_file_at_any_place(repository: Repository) -> None:
    draw = random.Random(2)
    with repository.open("main", "big.bin") as file:
        assert (file.readable(), file.seekable(), file.writable(), file.name) == (True, True, False, "big.bin")
        for _ in range(60):
            start, length = draw.randrange(len(BIG) + 1000), draw.choice((0, 1, 4095, 300_000, 3 << 20))
            assert file.seek(start) == start
            assert file.read(length) == BIG[start : start + length]
            assert file.tell() == max(start, min(start + length, max(start, len(BIG))))
        assert (file.seek(-5, io.SEEK_END), file.read()) == (len(BIG) - 5, BIG[-5:])
        file.seek(0)
        assert file.read() == BIG
        with pytest.raises(ValueError, match="place"):
            file.seek(-1)
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")
    with pytest.raises(ValueError, match="closed"):
        file.read()
    with repository.open("v1", "empty") as file:
        assert file.read() == b""


def test_open_file_serves_libraries_that_want_one(repository: Repository) -> None:
    with repository.open("main", "more.npz") as file, np.load(file) as arrays:
        assert arrays["turned"].tolist() == np.arange(12.0).reshape(3, 4).tolist()


def test_only_the_chunks_that_are_read_are_fetched(repository: Repository, fetched: list[int]) -> None:
    with repository.open("main", "big.bin") as file:
        file.seek(3 << 20)
        file.read(10)
        assert sum(fetched) < 2 << 20
        file.seek(3 << 20)
        file.read(10)
        assert len(fetched) <= 2
    fetched.clear()
    assert repository.read_tensor("main", "i8").tolist() == [-1, 2]
    assert sum(fetched) < 2 << 20


def test_lists_fetch_no_weights(repository: Repository, fetched: list[int]) -> None:
    files, tensors = repository.files(), repository.tensors("v1")
    assert [file.path for file in files] == ["big.bin", "empty", "model.safetensors", "more.npz", "other.safetensors"]
    assert {tensor.name for tensor in tensors} == {*ARRAYS, "turned", "big", "words"}
    (turned,) = [tensor for tensor in tensors if tensor.name == "turned"]
    assert (turned.dtype, turned.shape, turned.file, turned.size_bytes) == ("F64", (3, 4), "more.npz", 96)
    assert repository.show().tensor_count == len(tensors)
    assert fetched == []


def test_open_file_stays_that_of_its_version_and_outlives_a_move(repository: Repository) -> None:
    with repository.open("main", "big.bin") as file:
        repository.push({"big.bin": b"other"}, message="Two")
        assert file.read(5) == BIG[:5]
        with repository.open("main", "big.bin") as newer:
            assert newer.read() == b"other"


def test_version_by_its_digest_is_read_while_no_bucket_is_there(
    repository: Repository, scene: Scene, store: Store
) -> None:
    digest = repository.show().digest
    with (
        skyhold.open(scene.clouds()[0]) as online,
        online.repository("team/model").open(digest, "model.safetensors") as file,
    ):
        whole = file.read()
    for name in ("a", "b", "c"):
        scene.lose(name)
    with (
        skyhold.open(scene.clouds()[0], offline=True) as offline,
        offline.repository("team/model").open(digest, "model.safetensors") as file,
    ):
        assert file.read() == whole


def test_damaged_chunk_is_never_returned(repository: Repository, scene: Scene, fetched: list[int]) -> None:
    for pack in (path for path in scene.place.joinpath("clouds").rglob("packs/**/*") if path.is_file()):
        data = bytearray(pack.read_bytes())
        for at in range(len(data) // 3, len(data), 100_000):
            data[at] ^= 1
        pack.write_bytes(data)
    for cached in (path for path in scene.machine.folder.joinpath("cache").rglob("*") if path.is_file()):
        cached.unlink()
    read = b""
    with pytest.raises(Corrupt), repository.open("main", "big.bin") as file:
        while data := file.read(100_000):
            read += data
    assert BIG.startswith(read)


def test_file_whose_chunks_are_sound_and_whose_hash_is_another_is_refused(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = file_stream.StoredFile.__init__

    def other(self: Any, *arguments: Any) -> None:
        made(self, *arguments)
        self.sha256 = "0" * 64

    monkeypatch.setattr(file_stream.StoredFile, "__init__", other)
    with repository.open("main", "big.bin") as file, pytest.raises(Corrupt) as refused:
        file.read()
    assert refused.value.code == "file_damaged"


def test_what_is_not_there_is_named_with_what_is_near(repository: Repository) -> None:
    with pytest.raises(NotFound) as refused:
        repository.open("main", "bigbin")
    assert (refused.value.code, "big.bin" in str(refused.value.hint)) == ("file_not_found", True)
    with pytest.raises(NotFound) as refused:
        repository.read_tensor("main", "turne")
    assert (refused.value.code, "turned" in str(refused.value.hint)) == ("tensor_not_found", True)
    with pytest.raises(InvalidInput) as ambiguous:
        repository.read_tensor("main", "f32")
    assert ambiguous.value.code == "tensor_ambiguous"
    assert repository.read_tensor("main", "f32", file="other.safetensors").tolist() == [0]
    with pytest.raises(NotFound):
        repository.read_tensor("main", "f32", file="none")
    for wrong in (None, 3, b"f32"):
        with pytest.raises(InvalidInput):
            repository.read_tensor("main", wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput):
            repository.open("main", wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ARRAYS)
def test_tensor_comes_back_with_its_values_shape_and_type(name: str, repository: Repository) -> None:
    given = ARRAYS[name]
    found = repository.read_tensor("main", name, file="model.safetensors")
    wanted = given.astype(np.float32) if given.dtype.name in {"bfloat16", "float8_e4m3fn"} else given
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(found, wanted)


def test_tensors_of_other_formats_come_in_the_form_of_numpy(repository: Repository) -> None:
    turned = repository.read_tensor("main", "turned")
    assert (turned.tolist(), turned.flags.f_contiguous) == (np.arange(12.0).reshape(3, 4).tolist(), True)
    big = repository.read_tensor("main", "big")
    assert (big.tolist(), big.dtype) == ([0, 1, 2], np.dtype("=i4"))
    assert repository.read_tensor("main", "words").tolist() == ["a", "bc"]


def test_summary_counts_what_is_no_number_and_skips_it(repository: Repository) -> None:
    values = np.array([1, np.nan, np.inf, -np.inf, -3, np.nan], np.float32)
    repository.push(
        {"m.safetensors": {"w": values, "b": np.array([True, True, False]), "n": np.zeros(0)}}, branch="odd"
    )
    found = repository.summarize_tensor("odd", "w", first=3)
    assert (found.elements, found.nans, found.infinities) == (6, 2, 2)
    assert (found.minimum, found.maximum, found.mean) == (-3, 1, -1)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["first"] == [1, "nan", "inf"]
    truths = repository.summarize_tensor("odd", "b")
    assert (truths.minimum, truths.maximum, truths.mean) == (0, 1, pytest.approx(2 / 3))
    empty = repository.summarize_tensor("odd", "n")
    assert (empty.elements, empty.minimum, empty.mean, empty.first) == (0, None, None, ())
    assert repository.summarize_tensor("main", "words").minimum is None
    assert repository.summarize_tensor("main", "u64").maximum == 2**64 - 1
    assert repository.summarize_tensor("main", "c64").nans == 0


@pytest.mark.parametrize("name", ["turned", "big", "words", "bf16", "f64", "none"])
def test_tensor_is_written_as_numpy_reads_it(name: str, repository: Repository, tmp_path: Path) -> None:
    repository.summarize_tensor("main", name, npy=tmp_path / "t.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "t.npy"), repository.read_tensor("main", name))
    with pytest.raises(AlreadyExists):
        repository.summarize_tensor("main", name, npy=tmp_path / "t.npy")
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(("npy", "part"))] == ["t.npy"]


def test_file_of_values_does_not_appear_where_the_read_fails(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> bytes:
        raise Unavailable("away")

    monkeypatch.setattr(file_stream.StoredFile, "read", fails)
    with pytest.raises(Unavailable):
        repository.summarize_tensor("main", "f64", npy=tmp_path / "t.npy")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


@pytest.fixture
def command(repository: Repository, scene: Scene, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Shell]:
    os.environ["SKYHOLD_STORE"] = scene.clouds()[0]
    before = Path.cwd()
    os.chdir(tmp_path)
    yield Shell(capfd)
    os.chdir(before)


def test_cat_writes_the_very_bytes(command: Shell) -> None:
    ended = subprocess.run([*PROGRAM, "cat", "team/model@v1", "big.bin"], capture_output=True, timeout=60, check=True)
    assert ended.stdout == BIG
    assert command("cat", "team/model", "nothing", status=3).out == ""
    assert command("cat", "team/model", "empty").out == ""


@pytest.mark.parametrize("environ", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
def test_cat_writes_all_or_ends_clean_where_its_reader_goes(command: Shell, environ: dict[str, str]) -> None:
    """Without a buffer, one write may take a part only."""

    def run(line: str) -> tuple[list[str], str]:
        program = f"{' '.join(PROGRAM)} cat team/model big.bin"
        own = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        ended = subprocess.run(
            ["bash", "-c", f"{program} {line}; echo ${{PIPESTATUS[0]}}"],
            capture_output=True, text=True, timeout=60, check=False, env=own | environ,
        )  # fmt: skip
        return ended.stdout.split(), ended.stderr

    assert run("| head -c 100000 | wc -c") == (["100000", "141"], "")
    assert run("| (sleep 0.1; cat) | wc -c") == ([str(len(BIG)), "0"], "")
    status, message = run(">/dev/full")
    assert (status, "cannot be written" in message) == (["1"], True)


def test_tensor_is_shown(command: Shell) -> None:
    shown = command("tensor", "team/model", "bf16")
    assert all(text in shown.out for text in ("BF16", "model.safetensors", "NaN", "1.5, -2, nan", "mean"))
    document = command("tensor", "team/model", "f32", "--file", "model.safetensors", "--json").document
    assert (document["shape"], document["minimum"], document["maximum"], document["mean"]) == ([2, 3], 0, 5, 2.5)
    assert command("tensor", "team/model", "big", "--npy", "big.npy").err == ""
    assert np.load("big.npy").tolist() == [0, 1, 2]
    command("tensor", "team/model", "big", "--npy", "big.npy", status=4)
    command("tensor", "team/model", "f32", status=2)
    command("tensor", "team/model", "none at all", status=3)


def test_files_and_tensors_are_listed(command: Shell) -> None:
    assert "big.bin" in command("show", "team/model", "--files").out
    assert "3×4" in command("show", "team/model", "--tensors").out
    both = command("show", "team/model", "--files", "--tensors", "--json").document
    assert {file["path"] for file in both["files"]} >= {"big.bin", "more.npz"}
    assert {"name": "big", "dtype": "I32", "shape": [3], "file": "more.npz", "size_bytes": 12} in both["tensors"]
    assert command("show", "team/model", "--tensors", "--quiet").out.splitlines()[0] == "c64"
    assert command("show", "team/model", "--json").document["tensor_count"] == len(both["tensors"])


def test_reader_that_fails_after_it_was_opened_leaves_no_thread(repository: Repository) -> None:
    import threading

    before = threading.active_count()
    for _ in range(5):
        with suppress(NotFound):
            repository.open("main", "none")
        with repository.open("main", "empty"):
            pass
    assert threading.active_count() <= before + 2
