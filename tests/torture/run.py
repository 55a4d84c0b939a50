"""One stage of a run: start servers and workers, do to them what the plan says, and judge what the workers saw."""

from __future__ import annotations

import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

from tests.torture.board import REGISTER_OPERATIONS, Board
from tests.torture.clouds import Cloud, make_folders, provide_credentials
from tests.torture.engines import Engine, open_registers
from tests.torture.judging import Judge
from tests.torture.plan import KINDS, Misfortune, misfortunes
from tests.torture.processes import PROCESSES
from tests.torture.recording import Operation, pending
from tests.torture.report import Report
from tests.torture.worker import Job, keys_of, work

WAITING_MAX: Final = 4
"""No generation begins while so many wait for the judge: it sets the pace where an engine is faster."""
STEP_S: Final = 0.02
END_S_MAX: Final = 120.0

SETTINGS: Final[dict[str, tuple[str, ...]]] = {
    "mixed": ("versitygw", "azurite", "fake-gcs-server"),
    "versitygw": ("versitygw",) * 3,
    "azurite": ("azurite",) * 3,
    "fake-gcs-server": ("fake-gcs-server",) * 3,
    "folders": (),
    "sqlite": (),
}
"""The servers of the voters, by the name of the setting."""


@dataclass(frozen=True)
class Stage:
    """`operations` and `seconds`: whichever is reached first ends it. `fault_rate` is the share of the requests that
    meet a fault. `strip` is taken out of the first line of each request, so that a server is asked without condition:
    to plant a store that is no register."""

    setting: str
    seed: int
    operations: int
    seconds: float
    workers: int = 3
    threads: int = 16
    registers: int = 8
    fault_rate: float = 0.02
    strip: str = ""


def run_stage(stage: Stage, kept: Path) -> Report:
    """Run it whole. Histories with a violation are left in the folder `kept`."""
    provide_credentials()
    with tempfile.TemporaryDirectory(prefix="skyhold-torture-") as folder:
        return _Run(stage, Path(folder), kept).execute()


@dataclass
class _Worker:
    """A place for a worker; `process` is None between a death and the next birth."""

    number: int
    births: int = 0
    process: BaseProcess | None = None

    @property
    def name(self) -> str:
        return f"p{self.number}-{self.births}"


class _Run:
    def __init__(self, stage: Stage, folder: Path, kept: Path) -> None:
        self._stage = stage
        self._folder = folder
        self._history = folder / "history"
        kinds = SETTINGS[stage.setting]
        self._clouds = [
            Cloud(f"cloud-{number}", kind, stage.seed + number, stage.fault_rate, strip=stage.strip)
            for number, kind in enumerate(kinds)
        ]
        engine, direct = self._engines()
        self._engine = engine
        self._seats = stage.workers * stage.threads
        self._board = Board(folder / "board", self._seats, stage.registers)
        self._judge = Judge(f"{stage.setting}-{stage.seed}", self._history, kept, open_registers(direct, "judge"))
        self._report = Report(stage.setting, stage.seed, self._judge.findings)
        self._workers = [_Worker(number) for number in range(stage.workers)]
        self._plan = misfortunes(stage.seed)
        self._ends: list[tuple[float, Callable[[], None]]] = []
        self._away: set[Cloud] = set()
        self._stormy: set[Cloud] = set()
        self._closed = self._done = 0

    def execute(self) -> Report:
        started_s = time.monotonic()
        try:
            for worker in self._workers:
                self._bear(worker)
            coming = next(self._plan)
            while not self._over(time.monotonic() - started_s):
                time.sleep(STEP_S)
                while coming.at_s <= time.monotonic() - started_s:
                    self._begin(coming)
                    coming = next(self._plan)
                self._end_what_is_over()
                self._mourn()
                self._turn_the_page()
        finally:
            self._finish()
        self._report.duration_s = time.monotonic() - started_s
        return self._report

    def _engines(self) -> tuple[Engine, Engine]:
        """As the workers reach the voters, and without a fault between."""
        if self._stage.setting == "sqlite":
            engine = Engine("sqlite", path=str(self._folder / "registers.sqlite"))
            return engine, engine
        if not self._clouds:
            engine = Engine("buckets", make_folders(self._folder, 3))
            return engine, engine
        return (
            Engine("buckets", tuple(cloud.place for cloud in self._clouds)),
            Engine("buckets", tuple(cloud.direct for cloud in self._clouds)),
        )

    def _over(self, elapsed_s: float) -> bool:
        done = self._done + sum(self._board.used_in_all())
        return self._board.stopped or done >= self._stage.operations or elapsed_s >= self._stage.seconds

    # ---- generations

    def _turn_the_page(self) -> None:
        used = self._board.used_in_all()
        if max(used) >= REGISTER_OPERATIONS and self._judge.waiting < WAITING_MAX:
            self._done += sum(used)
            self._board.begin_next_generation()
        while self._closed < self._board.oldest():
            self._close_generation()

    def _close_generation(self) -> None:
        self._judge.close_generation(self._closed, self._keys(self._closed))
        self._closed += 1

    def _keys(self, generation: int) -> list[str]:
        return keys_of(self._stage.seed, generation, self._stage.registers)

    # ---- workers

    def _bear(self, worker: _Worker) -> None:
        threads = self._stage.threads
        inherited = self._left_by(worker) if worker.births else []
        worker.births += 1
        job = Job(
            self._engine,
            worker.name,
            self._stage.seed,
            self._stage.registers,
            range(worker.number * threads, (worker.number + 1) * threads),
            self._folder / "board",
            self._seats,
            self._history,
            inherited,
        )
        worker.process = PROCESSES.Process(target=work, args=(job,), name=worker.name, daemon=True)
        worker.process.start()

    def _left_by(self, dead: _Worker) -> list[Operation]:
        """The changes that a killed worker did not get to know the fate of."""
        return [
            change
            for generation in range(self._closed, self._board.generation + 1)
            for thread in range(self._stage.threads)
            for change in pending(self._history / str(generation) / f"{dead.name}.{thread}.jsonl")
        ]

    def _mourn(self) -> None:
        """A worker that ended although nobody killed it."""
        for worker in self._workers:
            if worker.process is not None and worker.process.exitcode is not None and not self._board.stopped:
                self._report.broken.append(f"worker {worker.name} ended with {worker.process.exitcode}")
                self._board.stop()

    # ---- misfortunes

    def _begin(self, misfortune: Misfortune) -> None:
        begun = getattr(self, f"_{KINDS[misfortune.kind].victim}_{misfortune.kind.split()[1]}")(misfortune.victim)
        if begun is not None:
            self._report.faults[misfortune.kind] += 1
            self._ends.append((time.monotonic() + misfortune.lasts_s, begun))

    def _end_what_is_over(self, *, all_of_them: bool = False) -> None:
        now_s = time.monotonic()
        over = [end for end in self._ends if all_of_them or end[0] <= now_s]
        self._ends = [end for end in self._ends if end not in over]
        for _, end in over:
            end()

    def _worker_paused(self, victim: int) -> Callable[[], None] | None:
        process = self._workers[victim % len(self._workers)].process
        if process is None:
            return None
        _signal(process, signal.SIGSTOP)
        return partial(_signal, process, signal.SIGCONT)

    def _worker_killed(self, victim: int) -> Callable[[], None] | None:
        worker = self._workers[victim % len(self._workers)]
        if worker.process is None:
            return None
        worker.process.kill()
        worker.process.join()
        worker.process = None
        return partial(self._bear, worker)

    def _server_paused(self, victim: int) -> Callable[[], None] | None:
        cloud = self._cloud(victim, self._away)
        if cloud is None:
            return None
        cloud.pause()
        return cloud.go_on

    def _server_killed(self, victim: int) -> Callable[[], None] | None:
        cloud = self._cloud(victim, self._away)
        if cloud is None or not cloud.kind.keeps:
            return None
        cloud.kill()
        self._away.add(cloud)

        def begin_anew() -> None:
            cloud.start_again()
            self._away.discard(cloud)

        return begin_anew

    def _network_refuses(self, victim: int) -> Callable[[], None] | None:
        return self._storm(victim, "refuses")

    def _network_swallows(self, victim: int) -> Callable[[], None] | None:
        return self._storm(victim, "swallows")

    def _network_slow(self, victim: int) -> Callable[[], None] | None:
        return self._storm(victim, "slow")

    def _storm(self, victim: int, weather: str) -> Callable[[], None] | None:
        cloud = self._cloud(victim, self._stormy)
        if cloud is None:
            return None
        cloud.network.set_weather(weather)
        self._stormy.add(cloud)

        def clear_up() -> None:
            cloud.network.set_weather("fair")
            self._stormy.discard(cloud)

        return clear_up

    def _cloud(self, victim: int, but: set[Cloud]) -> Cloud | None:
        """The one that is picked, unless there is none, or it has such a misfortune already."""
        cloud = self._clouds[victim % len(self._clouds)] if self._clouds else None
        return None if cloud in but else cloud

    # ---- the end

    def _finish(self) -> None:
        self._board.stop()
        self._end_what_is_over(all_of_them=True)
        for worker in self._workers:
            if worker.process is not None:
                worker.process.join(END_S_MAX)
                if worker.process.exitcode != 0:
                    self._report.broken.append(f"worker {worker.name} ended with {worker.process.exitcode}")
                    worker.process.kill()
        while self._closed <= self._board.generation:
            self._close_generation()
        self._judge.finish()
        for cloud in self._clouds:
            requests, faults = cloud.close()
            self._report.requests += requests
            self._report.faults += Counter(faults)


def _signal(process: BaseProcess, number: int) -> None:
    """Unless it was killed, and its process id may be another's."""
    if process.is_alive() and process.pid is not None:
        import os

        os.kill(process.pid, number)
