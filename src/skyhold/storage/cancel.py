"""Ending long operations before they are done, from another thread or at a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from skyhold import error_codes
from skyhold.errors import Cancelled
from skyhold.storage.progress import Progress, Silence

CHECK_INTERVAL_S: Final = 0.5
"""How often an operation that waits for a bucket checks whether it was cancelled."""


class Cancel:
    """Ends the operations that it is passed to: by `cancel`, from any thread, or `timeout_s` after it was made.
    Thread-safe.

    The operation checks it after each chunk or object, and while it waits for a bucket. A request that is in flight
    ends in the background.
    """

    def __init__(self, timeout_s: float | None = None) -> None:
        self._cancelled = threading.Event()
        self._ends_s = None if timeout_s is None else time.monotonic() + timeout_s

    def cancel(self) -> None:
        """End the operations, as soon as they notice."""
        self._cancelled.set()

    def check(self) -> None:
        """Raise `Cancelled` where it was cancelled (code `cancelled`), or its time is over (`deadline_passed`)."""
        if self._cancelled.is_set():
            raise Cancelled(
                "It was cancelled before it was done", code=error_codes.CANCELLED, hint="Run it again: it goes on"
            )
        if self._ends_s is not None and time.monotonic() >= self._ends_s:
            raise Cancelled("Its deadline passed", code=error_codes.DEADLINE_PASSED, hint="Run it again: it goes on")


_current: ContextVar[Cancel | None] = ContextVar("cancel", default=None)


def current() -> Cancel | None:
    """The `Cancel` of the operation of this thread, if it has one."""
    return _current.get()


@contextmanager
def cancelled_by(cancel: Cancel | None, progress: Progress | None) -> Iterator[Progress]:
    """Run a block that `cancel` may end; gives the progress to report to, which checks it."""
    inner = progress or Silence()
    if cancel is None:
        yield inner
        return
    cancel.check()
    token = _current.set(cancel)
    try:
        yield _CheckingProgress(inner, cancel)
    finally:
        _current.reset(token)


class _CheckingProgress:
    def __init__(self, inner: Progress, cancel: Cancel) -> None:
        self._inner = inner
        self._cancel = cancel

    def begin(self, phase: str, total_bytes: int | None) -> None:
        self._cancel.check()
        self._inner.begin(phase, total_bytes)

    def advance(self, done_bytes: int, *, stored_bytes: int = 0) -> None:
        self._inner.advance(done_bytes, stored_bytes=stored_bytes)
        self._cancel.check()

    def note(self, message: str) -> None:
        self._inner.note(message)

    def end(self) -> None:
        self._inner.end()
