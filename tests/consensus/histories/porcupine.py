"""Porcupine's verdicts, by the program `history-checker` (`tools/servers/porcupine`)."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from tests import servers
from tests.consensus.histories.history import Operation, write_history
from tests.consensus.histories.linearizability import Verdict

PROGRAM = "history-checker"
REGISTER_TIMEOUT_S = 30
JUDGED_STATUS_MAX = 2


def is_built() -> bool:
    """Whether the program is there, or has to be (`SKYHOLD_REQUIRE_ALL=1`)."""
    return os.environ.get("SKYHOLD_REQUIRE_ALL") == "1" or (servers.PROGRAMS / PROGRAM).exists()


def porcupine(operations: Iterable[Operation]) -> dict[str, Verdict]:
    """The verdict on each register; where the program is missing the test skips. One process judges them all."""
    program = servers.program(PROGRAM)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.jsonl"
        write_history(path, operations)
        command = [str(program), "-timeout", f"{REGISTER_TIMEOUT_S}s", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    if done.returncode > JUDGED_STATUS_MAX or done.returncode < 0:
        raise AssertionError(f"history-checker ended with {done.returncode}: {done.stderr}")
    judgements = [json.loads(line) for line in done.stdout.splitlines()]
    return {judgement["register"]: Verdict(judgement["verdict"]) for judgement in judgements}


def renamed(histories: Mapping[str, Iterable[Operation]]) -> list[Operation]:
    """Histories of one register each as one history of many, for one process to judge."""
    return [replace(operation, register=name) for name, history in histories.items() for operation in history]
