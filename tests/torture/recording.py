"""What each client did, in files that outlive it: a line before each call, and a line after it.

One file for each client and generation. A client that was killed leaves a call without an answer: its operation may
have taken effect, or may still. `collect` makes of both lines one operation of the format that the checkers read
(docs/consensus.md).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

UNKNOWN: Final = {"kind": "unknown"}
Operation = dict[str, Any]
"""As the format has it."""


class Recorder:
    """Writes the file of one client in one generation. Each line is one write to the kernel: SIGKILL loses none."""

    def __init__(self, folder: Path, client: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(folder / f"{client}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        self._client = client
        self._calls = 0

    def called(self, operation: str, register: str, **arguments: object) -> int:
        """Note that an operation is called now; the number of the call."""
        self._calls += 1
        fields = {"register": register, "client": self._client, "operation": operation, **arguments}
        self._write({"call": self._calls, "called_ns": time.monotonic_ns(), **fields})
        return self._calls

    def returned(self, call: int, result: Operation) -> None:
        self._write({"call": call, "returned_ns": time.monotonic_ns(), "result": result})

    def close(self) -> None:
        os.close(self._file)

    def _write(self, fields: Operation) -> None:
        line = json.dumps(fields, separators=(",", ":")).encode() + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError("a line of the history was not written whole: no space left?")


def collect(folder: Path) -> list[Operation]:
    """All operations of a generation by time. Those of a killed client that have no answer are `unknown`, as are those
    whose client got that answer."""
    operations = [operation for file in folder.glob("*.jsonl") for operation in _read(file)]
    return sorted(operations, key=lambda operation: operation["called_ns"])


def pending(file: Path) -> list[Operation]:
    """The changes of one client with an unknown outcome: another client may send them again."""
    operations = list(_read(file)) if file.exists() else []
    changes = [operation for operation in operations if operation["operation"] == "compare_and_set"]
    known = {
        operation["operation_id"]
        for operation in operations
        if operation["operation"] in {"compare_and_set", "outcome"}
        and operation["result"]["kind"] not in {"unknown", "failed"}
    }
    return [operation for operation in changes if operation["operation_id"] not in known]


def _read(file: Path) -> Iterator[Operation]:
    calls: dict[int, Operation] = {}
    for line in file.read_bytes().splitlines():
        fields = json.loads(line)
        call = fields.pop("call")
        calls.setdefault(call, {"returned_ns": None, "result": UNKNOWN}).update(fields)
    for operation in calls.values():
        if operation["result"]["kind"] == "unknown":
            operation["returned_ns"] = None
        yield operation
