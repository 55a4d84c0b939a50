"""What the driver of the bucket engine needs of the world: time, chance, threads. A simulation gives it another."""

from __future__ import annotations

import queue
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Final, Generic, TypeVar

T = TypeVar("T")
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux has a clock that counts suspension; elsewhere the monotonic one does."""


class Mailbox(ABC, Generic[T]):
    """A queue between threads of one runtime."""

    @abstractmethod
    def put(self, item: T) -> None: ...

    @abstractmethod
    def get(self, timeout_s: float) -> T | None:
        """The next item; None where none came in time."""


class Runtime(ABC):
    """See the module."""

    @abstractmethod
    def monotonic(self) -> float:
        """Seconds of a clock that only goes forward, also while the machine sleeps."""

    @abstractmethod
    def now(self) -> datetime:
        """The time of day, in UTC: for display only; decides nothing."""

    @abstractmethod
    def sleep(self, seconds: float) -> None: ...

    @abstractmethod
    def random(self) -> float:
        """A number in [0, 1)."""

    @abstractmethod
    def random_id(self) -> str:
        """32 hex digits that are unique: 128 random bits."""

    @abstractmethod
    def start(self, task: Callable[[], None]) -> None:
        """Run a task beside the caller."""

    @abstractmethod
    def lock(self) -> AbstractContextManager[object]: ...

    @abstractmethod
    def mailbox(self) -> Mailbox[T]: ...


class _ThreadMailbox(Mailbox[T]):
    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[T] = queue.SimpleQueue()

    def put(self, item: T) -> None:
        self._queue.put(item)

    def get(self, timeout_s: float) -> T | None:
        try:
            return self._queue.get(timeout=max(timeout_s, 0))
        except queue.Empty:
            return None


class ThreadRuntime(Runtime):
    """The real world. Its threads end with the process: a bucket that hangs does not delay its end."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def monotonic(self) -> float:
        return time.clock_gettime(_CLOCK)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def random(self) -> float:
        return self._random.random()

    def random_id(self) -> str:
        return f"{self._random.getrandbits(128):032x}"

    def start(self, task: Callable[[], None]) -> None:
        threading.Thread(target=task, name="voter", daemon=True).start()

    def lock(self) -> AbstractContextManager[object]:
        return threading.Lock()

    def mailbox(self) -> Mailbox[T]:
        return _ThreadMailbox()
