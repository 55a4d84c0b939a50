"""Programs that read a file while `skyhold pull` replaces it: they see whole files only, the old one or the new one."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import skyhold
from tests.cli.models import write_model
from tests.cli.running import PROGRAM
from tests.endtoend.machines import Scene

READER = """
import hashlib, json, sys, threading
path, ended = sys.argv[1], threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()

def digest(file):
    file.seek(0)
    return hashlib.sha256(file.read()).hexdigest()

held, opened, last = [], [], False
with open(path, "rb") as old:
    while not last:
        last = ended.is_set()
        held.append(digest(old))
        with open(path, "rb") as now:
            opened.append(digest(now))
        if len(opened) == 1:
            print("reading", flush=True)
print(json.dumps({"held": held, "opened": opened}))
"""
"""Keeps the file open that it found, reads it again and again, and each time opens and reads what has its name now; at
the end it prints the digests of both."""


def pull(version: str, target: Path) -> None:
    subprocess.run([*PROGRAM, "pull", f"fraud/scorer@{version}", target, "--quiet"], check=True, timeout=60)


def test_file_is_whole_for_readers_that_have_it_open_and_that_open_it_during_a_pull(
    scene: Scene, tmp_path: Path
) -> None:
    digests = {}
    with skyhold.init(scene.clouds()) as store:
        repository = store.repository("fraud/scorer", create=True)
        for version, noise in (("v1", 0.0), ("v2", 0.001)):
            model = write_model(tmp_path / "model", rows=16384, noise=noise)
            digests[version] = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
            repository.push(model, tags=[version])
    served = tmp_path / "served"
    pull("v1", served)
    with subprocess.Popen(
        [sys.executable, "-c", READER, served / "model.safetensors"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        try:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "reading\n"
            for version in ("v2", "v1", "v2"):
                pull(version, served)
            output, _ = reader.communicate(timeout=60)
        finally:
            reader.kill()
    seen = json.loads(output)
    assert set(seen["held"]) == {digests["v1"]}
    assert set(seen["opened"]) == {digests["v1"], digests["v2"]}
    assert (seen["opened"][0], seen["opened"][-1]) == (digests["v1"], digests["v2"])
    assert len(seen["opened"]) > 4
    assert sorted(path.name for path in served.iterdir()) == ["README.md", "config.json", "model.safetensors"]
