"""What a push and a pull take of the machine: each byte of the payload is read once, and memory has a bound that does
not depend on the size of the model."""

from __future__ import annotations

import filecmp
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import skyhold
from skyhold.units import KIB, MIB
from tests.endtoend.machines import Scene

READ_BYTES = 64 * MIB
LARGE_BYTES = 400 * MIB
PEAK_BYTES_MAX = 200 * MIB
BEGINNING_BYTES = 1 * MIB
SMALL_READS_BYTES = 64 * KIB

PUSH_OF_TWO = """
import sys
import skyhold

def count():
    with open("/proc/self/io") as io:
        return int(io.readline().removeprefix("rchar: "))

with skyhold.init(["memory://bounds"]) as store:
    repository = store.repository("team/model", create=True)
    for path in sys.argv[1:]:
        before = count()
        repository.push(path)
        read_bytes = count() - before
print(read_bytes)
"""

COMMAND = """
import sys
from skyhold.cli.main import main
status = main([*sys.argv[1:], "--quiet"])
with open("/proc/self/status") as process:
    print(next(line for line in process if line.startswith("VmHWM:")).split()[1])
sys.exit(status)
"""

needs_proc = pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the kernel reports reads in /proc")


def last_number(script: str, *arguments: object) -> int:
    """The number that a script prints last, run in a process of its own, which has to end well."""
    run = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return int(run.stdout.split()[-1])


def peak_bytes(*arguments: object) -> int:
    """The most memory that a command of `skyhold` had. (`ru_maxrss` would count what its parent had before it.)"""
    return last_number(COMMAND, *arguments) * 1024


def write_model(path: Path, size_bytes: int, *, seed: int = 1) -> Path:
    """A model of tensors of 64 MiB at most, in random bf16 that nothing compresses, written a tensor at a time."""
    path.parent.mkdir()
    tensors, at = {}, 0
    while at < size_bytes:
        end = min(size_bytes, at + 64 * MIB)
        tensors[f"layer.{len(tensors)}"] = {"dtype": "BF16", "shape": [(end - at) // 2], "data_offsets": [at, end]}
        at = end
    header = json.dumps(tensors).encode()
    random = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for tensor in tensors.values():
            file.write(random.bytes(tensor["shape"][0] * 2))
    return path


@needs_proc
def test_push_reads_each_byte_of_the_payload_once(scene: Scene, tmp_path: Path) -> None:
    """Counted by the kernel, in a process that has pushed before, to a bucket of memory. The beginning, which names the
    tensors, is read twice."""
    small = write_model(tmp_path / "small" / "model.safetensors", MIB)
    large = write_model(tmp_path / "large" / "model.safetensors", READ_BYTES, seed=2)
    read_bytes = last_number(PUSH_OF_TWO, small, large)
    assert 0 <= read_bytes - large.stat().st_size <= BEGINNING_BYTES + SMALL_READS_BYTES


@needs_proc
def test_memory_of_push_and_pull_does_not_grow_with_the_model(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skyhold.init([str(scene.cloud("a"))]).close()
    monkeypatch.setenv("SKYHOLD_STORE", str(scene.cloud("a")))
    model = write_model(tmp_path / "model" / "model.safetensors", LARGE_BYTES)
    peaks = {
        "push": peak_bytes("push", "team/model", model),
        "pull": peak_bytes("pull", "team/model", tmp_path / "pulled"),
    }
    print({name: f"{peak // MIB} MiB" for name, peak in peaks.items()})
    assert filecmp.cmp(tmp_path / "pulled" / "model.safetensors", model, shallow=False)
    assert {name: peak for name, peak in peaks.items() if peak > PEAK_BYTES_MAX} == {}
