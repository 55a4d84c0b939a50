"""One stage of a run: start servers and workers, execute the plan on them, and judge what the workers saw."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.servers import program
from tests.torture.board import REGISTER_OPERATIONS, Board
from tests.torture.engines import open_registers
from tests.torture.injector import Injector
from tests.torture.judging import Judge
from tests.torture.report import Report
from tests.torture.settings import prepare
from tests.torture.worker import Job, keys_of
from tests.torture.workforce import Worker

WAITING_MAX: Final = 4
"""No generation begins while so many wait for the judge: it sets the pace where an engine is faster."""
STEP_S: Final = 0.02
END_S_MAX: Final = 120.0


@dataclass(frozen=True)
class Stage:
    """`operations`, a violation, or `seconds` (though not before `operations_min`): whichever comes first ends it.
    `fault_rate` is the share of the requests that meet a fault. `strip` is taken out of the first line of each request,
    so that a server is asked without condition: to plant a store that cannot vote."""

    setting: str
    seed: int
    operations: int
    seconds: float
    workers: int = 3
    threads: int = 16
    registers: int = 8
    operations_min: int = 0
    fault_rate: float = 0.02
    strip: str = ""


def run_stage(stage: Stage, kept: Path) -> Report:
    """Run it whole. Histories with a violation are left in the folder `kept`. Where a program is missing, the test that
    asked for it skips."""
    program("history-checker")
    with tempfile.TemporaryDirectory(prefix="skyhold-torture-") as folder:
        return _Run(stage, Path(folder), kept).execute()


class _Run:
    def __init__(self, stage: Stage, folder: Path, kept: Path) -> None:
        self._stage = stage
        self._setting = prepare(stage.setting, folder, stage.seed, stage.fault_rate, stage.strip)
        seats = stage.workers * stage.threads
        self._board = Board(folder / "board", seats, stage.registers)
        self._workers = [
            Worker(
                Job(
                    self._setting.engine,
                    f"p{number}",
                    stage.seed,
                    stage.registers,
                    range(number * stage.threads, (number + 1) * stage.threads),
                    folder / "board",
                    seats,
                    folder / "history",
                )
            )
            for number in range(stage.workers)
        ]
        name = f"{stage.setting}-{stage.seed}"
        self._judge = Judge(name, folder / "history", kept, open_registers(self._setting.direct, "judge"))
        self._report = Report(stage.setting, stage.seed, self._judge.findings)
        self._closed = self._done = 0

    def execute(self) -> Report:
        started_s = time.monotonic()
        injector = Injector(self._stage.seed, self._workers, self._setting.servers, self._bear)
        try:
            for worker in self._workers:
                self._bear(worker)
            while not self._over(time.monotonic() - started_s):
                time.sleep(STEP_S)
                injector.step()
                self._turn_the_page()
        finally:
            self._board.stop()
            injector.heal()
            self._finish()
        self._report.faults += injector.begun
        self._report.duration_s = time.monotonic() - started_s
        return self._report

    def _bear(self, worker: Worker) -> None:
        worker.bear(range(self._closed, self._board.generation + 1))

    def _over(self, elapsed_s: float) -> bool:
        """Also where a worker ended without being killed."""
        done = self._done + sum(self._board.used_in_all())
        ended = any(worker.ended() is not None for worker in self._workers)
        timely = elapsed_s >= self._stage.seconds and done >= self._stage.operations_min
        enough = done >= self._stage.operations or timely
        return enough or ended or bool(self._judge.findings.violations)

    def _turn_the_page(self) -> None:
        used = self._board.used_in_all()
        if max(used) >= REGISTER_OPERATIONS and self._judge.waiting < WAITING_MAX:
            self._done += sum(used)
            self._board.begin_next_generation()
        while self._closed < self._board.oldest():
            self._close_generation()

    def _close_generation(self) -> None:
        keys = keys_of(self._stage.seed, self._closed, self._stage.registers)
        self._judge.close_generation(self._closed, keys)
        self._closed += 1

    def _finish(self) -> None:
        self._report.broken += [worker.name for worker in self._workers if not worker.end(END_S_MAX)]
        while self._closed <= self._board.generation:
            self._close_generation()
        self._judge.finish()
        self._report.requests, faults = self._setting.close()
        self._report.faults += faults
