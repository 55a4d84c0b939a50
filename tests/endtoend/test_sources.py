"""Pushes of what is no folder, from the command line and from Python."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import skyhold
from skyhold.errors import Conflict, InvalidInput
from skyhold.registry.store import Store
from skyhold.storage.progress import Silence
from tests.cli.models import contents, write_model
from tests.cli.running import PROGRAM
from tests.endtoend.machines import Scene


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
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", rows=64)


def tar_of(folder: Path, mode: str = "w") -> bytes:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode=mode) as made:  # type: ignore[call-overload]
        made.add(folder, ".")
    return body.getvalue()


def test_folder_archive_and_mapping_of_the_same_bytes_are_one_version(
    store: Store, model: Path, tmp_path: Path
) -> None:
    repository = store.repository("team/model", create=True)
    first = repository.push(model, message="One", author="Ada")
    (tmp_path / "m.tar.gz").write_bytes(tar_of(model, "w:gz"))
    mapping = {path.relative_to(model).as_posix(): path for path in model.rglob("*") if path.is_file()}
    for given in (tmp_path / "m.tar.gz", io.BytesIO(tar_of(model)), mapping):
        again = repository.push(given, message="One", author="Ada")
        assert (again.version, again.unchanged, again.stored_bytes) == (first.version, True, 0)


def test_arrays_are_pushed_without_a_file_and_come_back(store: Store, tmp_path: Path) -> None:
    repository = store.repository("team/model", create=True)
    weights = np.random.default_rng(1).normal(size=(300, 700)).astype("float32")
    repository.push({"model.safetensors": {"w": weights, "b": weights[0]}, "config.json": b"{}"}, message="One")
    repository.pull("main", tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(np.array_equal(found[name], array) for name, array in {"w": weights, "b": weights[0]}.items())
    tuned = repository.push({"model.safetensors": {"b": weights[0], "w": weights * 1.0001}, "config.json": b"{}"})
    assert tuned.delta_bytes > 0


def test_push_that_begins_again_reads_a_pipe_once(store: Store, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repository that it makes is made by another push meanwhile."""
    from skyhold.registry import committing

    body, repository = tar_of(model), store.repository("team/model", create=True)
    other = store.repository("team/model", create=True)
    create, raced = committing.Repositories.create, False

    def slower(*arguments: object, **options: object) -> object:
        nonlocal raced
        if not raced:
            raced = True
            other.push({"a": b"1"}, branch="first")
        return create(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(committing.Repositories, "create", slower)

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    pushed = repository.push(Pipe(body), message="One")
    assert pushed.files == len(contents(model))


def test_file_that_lies_about_its_size_moves_no_ref(store: Store) -> None:
    class Growing(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.reads += 1
            if self.reads == 3:
                at = self.tell()
                self.seek(0, io.SEEK_END)
                self.write(b"more")
                self.seek(at)
            return super().read(size)

    repository = store.repository("team/model", create=True)
    repository.push({"a": b"1"}, message="One")
    with pytest.raises(Conflict) as changed:
        repository.push({"a": Growing(bytes(4 << 20))}, message="Two")
    assert changed.value.code == "source_changed"
    assert [entry.message for entry in repository.log()] == ["One"]


def test_progress_and_dry_run_count_the_bytes_of_members(store: Store, model: Path) -> None:
    seen: list[int | None] = []

    class Lines(Silence):
        def begin(self, phase: str, total_bytes: int | None) -> None:
            seen.append(total_bytes)

    repository = store.repository("team/model", create=True)
    planned = repository.push(io.BytesIO(tar_of(model)), dry_run=True, progress=Lines())
    assert seen == [planned.total_bytes] == [sum(len(data) for data in contents(model).values())]
    assert store.repositories() == []


def test_unknown_keyword_and_what_is_no_source_are_refused(store: Store) -> None:
    repository = store.repository("team/model", create=True)
    with pytest.raises(TypeError, match="mesage"):
        repository.push({"a": b""}, mesage="One")  # type: ignore[call-arg]
    for given in (3, None, b"bytes", ["a"]):
        with pytest.raises(InvalidInput) as refused:
            repository.push(given)  # type: ignore[arg-type]
        assert refused.value.code == "invalid_argument"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_archive_comes_on_stdin(scene: Scene, store: Store, model: Path, pack: object, tmp_path: Path) -> None:
    body = pack(tar_of(model))  # type: ignore[operator]
    command = [*PROGRAM, "push", "team/model", "-", "-m", "One", "--store", scene.clouds()[0]]
    ended = subprocess.run(command, input=body, capture_output=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    store.repository("team/model").pull("main", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(model)


@pytest.mark.parametrize("body", [b"", b"no archive" * 99])
def test_stdin_that_is_no_archive_is_refused(scene: Scene, store: Store, body: bytes) -> None:
    command = [*PROGRAM, "push", "team/model", "-", "--store", scene.clouds()[0]]
    ended = subprocess.run(command, input=body, capture_output=True, timeout=60, check=False)
    assert (ended.returncode, b"archive" in ended.stderr, b"Traceback" in ended.stderr) == (2, True, False)
    assert store.repositories() == []


def test_memory_of_a_large_push_from_a_pipe_is_bounded(scene: Scene, store: Store) -> None:
    """400 MB through a pipe; the memory of the process stays below them."""
    program = (
        "import sys, skyhold\n"
        "class Pipe:\n"
        "    left = 400 << 20\n"
        "    def read(self, size):\n"
        "        size = min(size, self.left)\n"
        "        self.left -= size\n"
        "        return bytes(size)\n"
        f"with skyhold.open({scene.clouds()[0]!r}) as store:\n"
        "    store.repository('team/model', create=True).push({'weights.bin': Pipe()}, dry_run=True)\n"
        "status = open('/proc/self/status').read()\n"  # what `getrusage` reports may be its parent's
        "print(status.partition('VmHWM:')[2].split()[0])\n"
    )
    peak_kib = int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
    assert peak_kib < 300 << 10
