"""Judging a generation once all clients have left it, while the next ones run: so memory and disk stay bounded."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from skyhold.consensus.register import Registers
from skyhold.errors import Unavailable
from tests.consensus.histories.history import read_history
from tests.consensus.histories.watching import watch_violation
from tests.servers import program
from tests.torture.recording import Recorder, collect

REGISTER_OPERATIONS_MAX: Final = 1000
"""More of one register may be too much for a checker."""
REGISTER_S_MAX: Final = 60
"""Porcupine's time for each register."""
CHECK_S_MAX: Final = 3600.0
LAST_READ_S_MAX: Final = 90.0


@dataclass
class Findings:
    """What the histories held: `operations` by kind and result; `violations` name the file of the history."""

    operations: Counter[tuple[str, str]] = field(default_factory=Counter)
    registers: int = 0
    longest: int = 0
    violations: list[str] = field(default_factory=list)


class Judge:
    """A thread that takes one generation after the other. `registers` reach the voters without a fault between."""

    def __init__(self, name: str, history: Path, kept: Path, registers: Registers) -> None:
        self.findings = Findings()
        self._name = name
        self._history = history
        self._kept = kept
        self._registers = registers
        self._waiting: queue.SimpleQueue[tuple[int, Sequence[str]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="judge")
        self._thread.start()

    def close_generation(self, generation: int, keys: Sequence[str]) -> None:
        """All clients have left this generation."""
        self._waiting.put((generation, keys))

    @property
    def waiting(self) -> int:
        """How many generations are still to be judged."""
        return self._waiting.qsize()

    def finish(self) -> Findings:
        """What was found, once all that was closed is judged."""
        self._waiting.put(None)
        self._thread.join()
        self._registers.close()
        return self.findings

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            try:
                self._judge(*item)
            except BaseException:  # noqa: BLE001 - the run fails with it, after the workers were ended
                self.findings.violations.append(f"generation {item[0]} was not judged:\n{traceback.format_exc()}")

    def _judge(self, generation: int, keys: Sequence[str]) -> None:
        folder = self._history / str(generation)
        recorder = Recorder(folder, "last")
        for key in keys:
            self._read_at_last(recorder, key)
        recorder.close()
        file = self._kept / f"{self._name}-generation-{generation}.jsonl"
        operations = collect(folder)
        file.write_text("".join(json.dumps(operation) + "\n" for operation in operations))
        by_register = Counter(operation["register"] for operation in operations)
        self.findings.registers += len(by_register)
        longest = max(by_register.values())
        self.findings.longest = max(self.findings.longest, longest)
        self.findings.operations.update(
            (operation["operation"], operation["result"]["kind"]) for operation in operations
        )
        found = violation_in(file)
        if longest > REGISTER_OPERATIONS_MAX:
            found = found or f"a register had {longest} operations, so that the checkers may have met their limits"
        if found:
            self.findings.violations.append(
                f"{found}\nThe history was kept: {file} (see docs/consensus.md on how to read it)"
            )
        else:
            file.unlink()
        shutil.rmtree(folder)

    def _read_at_last(self, recorder: Recorder, key: str) -> None:
        """A voter may be away for a moment."""
        give_up_s = time.monotonic() + LAST_READ_S_MAX
        call = recorder.called("read", key)
        while True:
            try:
                value = self._registers.read(key)
                break
            except Unavailable:
                if time.monotonic() > give_up_s:
                    raise
                time.sleep(0.5)
        version, data = (value.version, value.data.decode()) if value else (0, "")
        recorder.returned(call, {"kind": "value", "version": version, "data": data})


def violation_in(file: Path) -> str | None:
    """What is wrong with the histories in a file: by Porcupine, which draws it beside the file, and by the checker of
    watches. That Porcupine does not come to an end is a violation, too."""
    watched = watch_violation(read_history(file))
    picture = file.with_suffix(".html")
    command = [program("history-checker"), "-timeout", f"{REGISTER_S_MAX}s", "-visualise", picture, file]
    judged = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_S_MAX, check=False)
    if judged.returncode == 0:
        return watched
    verdicts = [line for line in judged.stdout.splitlines() if '"verdict":"ok"' not in line]
    return f"history-checker ended with {judged.returncode}: {judged.stderr}" + "\n".join(verdicts)
