"""Carries out the plan: begins each misfortune when its time has come, and ends it."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from tests.torture.clouds import Cloud, EtcdNode
from tests.torture.network import Weather
from tests.torture.plan import Misfortune, misfortunes
from tests.torture.workforce import Worker

Server = Cloud | EtcdNode
End = Callable[[], object]
T = TypeVar("T")


class Injector:
    """`bear` restarts a worker. `begun` counts the misfortunes by kind, without those that had no target: because there
    is no server or network, or the one that was drawn has such a misfortune already, or would lose what it has
    acknowledged."""

    def __init__(
        self, seed: int, workers: Sequence[Worker], servers: Sequence[Server], bear: Callable[[Worker], None]
    ) -> None:
        self.begun: Counter[str] = Counter()
        self._workers = workers
        self._servers = servers
        self._bear = bear
        self._started_s = time.monotonic()
        self._plan = misfortunes(seed)
        self._coming = next(self._plan)
        self._ends: list[tuple[float, End]] = []
        self._killed: set[Server] = set()
        self._stormy: set[Server] = set()
        self._begin: dict[str, Callable[[int], End | None]] = {
            "worker paused (SIGSTOP)": self._pause_worker,
            "worker killed (SIGKILL)": self._kill_worker,
            "server paused (SIGSTOP)": self._pause_server,
            "server killed (SIGKILL)": self._kill_server,
            "network refuses connections": partial(self._storm, "refuses"),
            "network swallows requests": partial(self._storm, "swallows"),
            "network slow": partial(self._storm, "slow"),
        }

    def step(self) -> None:
        """Begin and end what is due now."""
        now_s = time.monotonic()
        while self._coming.at_s <= now_s - self._started_s:
            self._meet(self._coming)
            self._coming = next(self._plan)
        self._end([end for end in self._ends if end[0] <= now_s])

    def heal(self) -> None:
        """End all misfortunes."""
        self._end(list(self._ends))

    def _meet(self, misfortune: Misfortune) -> None:
        end = self._begin[misfortune.kind](misfortune.victim)
        if end is not None:
            self.begun[misfortune.kind] += 1
            self._ends.append((time.monotonic() + misfortune.lasts_s, end))

    def _end(self, over: Sequence[tuple[float, End]]) -> None:
        self._ends = [end for end in self._ends if end not in over]
        for _, end in over:
            end()

    def _pause_worker(self, victim: int) -> End | None:
        worker = _of(self._workers, victim)
        if worker is None or worker.process is None:
            return None
        worker.signal(signal.SIGSTOP)
        return partial(worker.signal, signal.SIGCONT)

    def _kill_worker(self, victim: int) -> End | None:
        worker = _of(self._workers, victim)
        if worker is None or worker.process is None:
            return None
        worker.kill()
        return partial(self._bear, worker)

    def _pause_server(self, victim: int) -> End | None:
        server = _of(self._servers, victim)
        if server is None or server in self._killed:
            return None
        server.pause()
        return server.go_on

    def _kill_server(self, victim: int) -> End | None:
        server = _of(self._servers, victim)
        if server is None or server in self._killed or not server.keeps:
            return None
        server.kill()
        self._killed.add(server)

        def start_again() -> None:
            server.start_again()
            self._killed.discard(server)

        return start_again

    def _storm(self, weather: Weather, victim: int) -> End | None:
        server = _of(self._servers, victim)
        if server is None or server in self._stormy or (network := server.network) is None:
            return None
        network.set_weather(weather)
        self._stormy.add(server)

        def clear_up() -> None:
            network.set_weather("fair")
            self._stormy.discard(server)

        return clear_up


def _of(those: Sequence[T], victim: int) -> T | None:
    return those[victim % len(those)] if those else None
