"""A world in which time, chance and threads are ours: the shipped driver runs in it, and one seed is one run.

Threads are greenlets: they switch only where the driver waits, in the order that the seed draws.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

from skyhold.consensus.runtime import Mailbox, Runtime

T = TypeVar("T")
EVENTS_MAX = 400_000


class World:
    """The clock, the dice, and what happens when."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_s = 0.0
        self._events: list[tuple[float, float, int, Callable[[], object]]] = []
        self._count = 0
        self._hub = getcurrent()
        self._over = False
        self._dead: list[greenlet] = []
        self._idle: list[greenlet] = []

    def at(self, delay_s: float, event: Callable[[], object]) -> None:
        """What happens at one time happens in a drawn order."""
        self._count += 1
        at_s = self.now_s + delay_s if delay_s > 0 else self.now_s
        heapq.heappush(self._events, (at_s, self.random.random(), self._count, event))

    def run(self) -> None:
        """Until nothing is left to happen."""
        self._hub = getcurrent()
        events = self._events
        try:
            while events:
                if self._count > EVENTS_MAX:
                    raise AssertionError(f"the world does not come to rest at {self.now_s:.1f} s")
                self.now_s, _, _, event = heapq.heappop(events)
                event()
        finally:
            self._over = True
        for thread in (*self._dead, *self._idle):
            if thread:
                thread.throw()

    def thread(self) -> greenlet:
        """A thread that runs the task which it is switched to with, and is here for another one after it: a new one
        costs more than most tasks do."""
        return self._idle.pop() if self._idle else greenlet(self._work, parent=self._hub)

    def _work(self, task: Callable[[], object]) -> None:
        while True:
            task()
            self._idle.append(getcurrent())
            task = self._hub.switch()

    def bury(self, thread: greenlet) -> None:
        """Keep a thread of a killed process: if nothing held it, Python would run what it does at its end."""
        self._dead.append(thread)

    def wait(self) -> Any:
        """Leave the running greenlet until another one switches to it."""
        if self._over:
            raise GreenletExit
        return self._hub.switch()


@dataclass(eq=False)
class Process:
    """A process of a machine: it can be paused, killed, and have its clock jump. `distances_s`: half a round trip to
    the clouds, by name, where it is not the cloud's own."""

    world: World
    name: str
    alive: bool = True
    paused_until_s: float = 0.0
    clock_s: float = 0.0
    distances_s: dict[str, float] = field(default_factory=dict)

    def resume(self, thread: greenlet, *values: object) -> None:
        if not self.alive:
            self.world.bury(thread)
            return
        if self.paused_until_s > self.world.now_s:
            self.world.at(self.paused_until_s - self.world.now_s, partial(self.resume, thread, *values))
            return
        thread.switch(*values)

    def start(self, task: Callable[[], object], delay_s: float = 0.0) -> None:
        thread = self.world.thread()
        self.world.at(delay_s, partial(self.resume, thread, task))

    def sleep(self, seconds: float) -> None:
        self.world.at(seconds, partial(self.resume, getcurrent()))
        self.world.wait()


class _SimulatedMailbox(Mailbox[T]):
    def __init__(self, process: Process) -> None:
        self._process = process
        self._items: deque[T] = deque()
        self._waiting: dict[int, greenlet] = {}
        self._waits = 0

    def put(self, item: T) -> None:
        self._items.append(item)
        if self._waiting:
            self._wake(next(iter(self._waiting)))

    def get(self, timeout_s: float) -> T | None:
        if not self._items and timeout_s > 0:
            self._waits += 1
            number = self._waits
            self._waiting[number] = getcurrent()
            self._process.world.at(timeout_s, partial(self._wake, number))
            self._process.world.wait()
        return self._items.popleft() if self._items else None

    def _wake(self, number: int) -> None:
        thread = self._waiting.pop(number, None)
        if thread is not None:
            self._process.world.at(0, partial(self._process.resume, thread))


class SimulatedLock:
    """A lock of a process whose holder may wait for something."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._held = False
        self._waiting: deque[greenlet] = deque()

    def __enter__(self) -> None:
        while self._held:
            self._waiting.append(getcurrent())
            self._process.world.wait()
        self._held = True

    def __exit__(self, *_exc: object) -> None:
        self._held = False
        if self._waiting:
            self._process.world.at(0, partial(self._process.resume, self._waiting.popleft()))


class SimulatedRuntime(Runtime):
    def __init__(self, process: Process) -> None:
        self.process = process
        self.world = process.world

    def monotonic(self) -> float:
        return self.world.now_s + self.process.clock_s

    def now(self) -> datetime:
        return datetime.fromtimestamp(1_800_000_000 + self.monotonic(), UTC)

    def sleep(self, seconds: float) -> None:
        self.process.sleep(seconds)

    def random(self) -> float:
        return self.world.random.random()

    def random_id(self) -> str:
        return f"{self.world.random.getrandbits(128):032x}"

    def start(self, task: Callable[[], None]) -> None:
        self.process.start(task)

    def lock(self) -> AbstractContextManager[object]:
        return nullcontext()  # nothing under a lock waits, so no other thread runs

    def mailbox(self) -> Mailbox[T]:
        return _SimulatedMailbox(self.process)
