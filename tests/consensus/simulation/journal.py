"""What a long run of the simulation has done, so that it can be ended at any time and continued."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path

from tests.consensus.simulation.campaign import Tally

_ROOT = Path(__file__).parents[3]


class Journal:
    """The parts that were run of the sources that are loaded now, a line each. A line that was cut short by the end of
    a run counts for nothing."""

    def __init__(self, folder: Path, digest: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{digest or sources_digest()}.jsonl"
        self.done: dict[range, Tally] = {}
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        for line in whole:
            part, found = _parse(line)
            self.done[part] = found
        if len(whole) != len(lines):
            self.path.write_bytes(b"".join(whole))

    def add(self, part: range, found: Tally) -> None:
        self.done[part] = found
        with self.path.open("ab") as journal:
            journal.write(_to_line(part, found))


def sources_digest() -> str:
    """Of every module of this project that is loaded: a result holds for the sources that gave it."""
    files = {Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    digest = hashlib.sha256()
    for path in sorted(file for file in files if _is_ours(file)):
        digest.update(f"{path.relative_to(_ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _is_ours(file: Path) -> bool:
    return any(file.is_relative_to(_ROOT / folder) for folder in ("src", "tests"))


def _to_line(part: range, found: Tally) -> bytes:
    fields = {
        "seeds": [part.start, part.stop],
        "injected": [[fault, phase, count] for (fault, phase), count in found.injected.items()],
        "operations": found.operations,
        "errors": found.errors,
        "epochs": list(found.epochs.items()),
        "violations": found.violations,
    }
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _parse(line: bytes) -> tuple[range, Tally]:
    fields = json.loads(line)
    part = range(*fields["seeds"])
    return part, Tally(
        seeds=len(part),
        injected=Counter({(fault, phase): count for fault, phase, count in fields["injected"]}),
        operations=Counter(fields["operations"]),
        errors=Counter(fields["errors"]),
        epochs=Counter(dict(fields["epochs"])),
        violations=fields["violations"],
    )
