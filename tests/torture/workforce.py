"""The workers of a run: processes that are born, paused and killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess

from tests.torture.processes import PROCESSES
from tests.torture.recording import Operation, pending
from tests.torture.worker import Job, work


@dataclass(eq=False)
class Worker:
    """A place for a worker; `process` is None between a death and the next birth. `job` is the settings of each; the
    successor of a killed worker has another name, and continues its changes."""

    job: Job
    births: int = 0
    process: BaseProcess | None = None

    @property
    def name(self) -> str:
        return f"{self.job.name}-{self.births}"

    def bear(self, generations: Iterable[int]) -> None:
        """Start it. `generations` are those in which its predecessor may have left something."""
        inherited = self._left(generations) if self.births else []
        self.births += 1
        job = replace(self.job, name=self.name, inherited=inherited)
        self.process = PROCESSES.Process(target=work, args=(job,), name=self.name, daemon=True)
        self.process.start()

    def signal(self, number: int) -> None:
        """Send it a signal, unless it was killed: its process id may be another's by now."""
        if self.process is not None and self.process.is_alive() and self.process.pid is not None:
            with suppress(ProcessLookupError):  # it ended just now
                os.kill(self.process.pid, number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None

    def ended(self, within_s: float = 0.0) -> int | None:
        """Its exit status, if it ended without being killed."""
        if self.process is None:
            return None
        self.process.join(within_s)
        return self.process.exitcode

    def end(self, within_s: float) -> bool:
        """Whether it ended with success, after it was asked to end."""
        self.signal(signal.SIGCONT)
        status = self.ended(within_s)
        gone = self.process is None
        self.kill()
        return gone or status == 0

    def _left(self, generations: Iterable[int]) -> list[Operation]:
        return [
            change
            for generation in generations
            for thread in range(len(self.job.seats))
            for change in pending(self.job.history / str(generation) / f"{self.name}.{thread}.jsonl")
        ]
