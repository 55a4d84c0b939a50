"""Runs `tools/second_reader.py`, like a user who has the buckets and docs/format.md, but not Skyhold."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

READER = Path(__file__).parents[1] / "tools" / "second_reader.py"


def read_again(
    buckets: Iterable[Path], *, output: Path | None = None, key_file: Path | None = None, passphrase: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Verify a store by folders of its buckets' objects, or restore all its versions into `output`."""
    mode = ["--verify"] if output is None else ["--output", str(output)]
    keys = [] if key_file is None else ["--key-file", str(key_file)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SKYHOLD_")}
    if passphrase is not None:
        environment["SKYHOLD_PASSPHRASE"] = passphrase
    command = [sys.executable, str(READER), *mode, *keys, *map(str, buckets)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
