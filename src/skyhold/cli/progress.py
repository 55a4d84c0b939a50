"""Progress of long work on stderr: a bar on a terminal, a few plain lines elsewhere, nothing where nobody looks."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from skyhold.cli.output import Output, printable, say
from skyhold.storage.progress import Progress, Silence
from skyhold.units import MIB, format_bytes, format_duration_s

LINE_INTERVAL_S: Final = 5.0
LINES_FROM_BYTES: Final = 1 * MIB
"""Smaller transfers stay silent where there is no terminal, so that logs stay short."""
PHASES_THAT_SAVE: Final = {"push", "pull"}
"""Where a difference between done and stored bytes means something to a person."""


@contextmanager
def open_progress(output: Output) -> Iterator[Progress]:
    """The progress that suits the output and the terminal."""
    if output.json or output.quiet:
        yield Silence()
    elif sys.stderr.isatty():
        from skyhold.cli.bar import Bar

        bar = Bar()
        try:
            yield bar
        finally:
            bar.end()
    else:
        yield Lines(say)


class Tally:
    """The counts of one phase. `now_s` is a monotonic clock. Not locked: its owner is."""

    def __init__(self, phase: str, total_bytes: int | None, now_s: Callable[[], float]) -> None:
        self.phase, self.total_bytes = phase, total_bytes
        self.done_bytes = self.stored_bytes = 0
        self._now_s = now_s
        self._began_s = now_s()

    def add(self, done_bytes: int, stored_bytes: int) -> None:
        self.done_bytes += done_bytes
        self.stored_bytes += stored_bytes

    @property
    def elapsed_s(self) -> float:
        return self._now_s() - self._began_s

    def describe(self) -> str:
        """`push: 120 MiB of 378 MiB (31 %), 310 MiB/s, 40.0 MiB saved, 1.2 s left`."""
        elapsed_s = self.elapsed_s
        rate = self.done_bytes / elapsed_s if elapsed_s > 0 else 0.0
        parts = [format_bytes(self.done_bytes)]
        if self.total_bytes:
            parts[0] += f" of {format_bytes(self.total_bytes)} ({100 * self.done_bytes // self.total_bytes} %)"
        if rate:
            parts.append(f"{format_bytes(rate)}/s")
        if self.saved_bytes:
            parts.append(f"{format_bytes(self.saved_bytes)} saved")
        if self.total_bytes and rate and self.done_bytes < self.total_bytes:
            parts.append(f"{format_duration_s((self.total_bytes - self.done_bytes) / rate)} left")
        return f"{self.phase}: {', '.join(parts)}"

    def summarize(self) -> str:
        """`push: 378 MiB in 1.2 s (315 MiB/s), 310 MiB saved`, or how far it came."""
        elapsed_s = self.elapsed_s
        short = self.total_bytes is not None and self.done_bytes < self.total_bytes
        amount = format_bytes(self.done_bytes)
        if short:
            amount = f"stopped at {amount} of {format_bytes(self.total_bytes or 0)}"
        rate = f" ({format_bytes(self.done_bytes / elapsed_s)}/s)" if elapsed_s > 0 else ""
        saved = f", {format_bytes(self.saved_bytes)} saved" if self.saved_bytes else ""
        return f"{self.phase}: {amount} in {format_duration_s(elapsed_s)}{rate}{saved}"

    @property
    def saved_bytes(self) -> int:
        """Bytes that were done without being stored or fetched; nothing is saved where nothing is moved."""
        return max(0, self.done_bytes - self.stored_bytes) if self.phase in PHASES_THAT_SAVE else 0


class Lines:
    """Plain lines: at most one every few seconds, and a last one, for transfers worth a line."""

    def __init__(self, write: Callable[[str], None], now_s: Callable[[], float] = time.monotonic) -> None:
        self._write, self._now_s = write, now_s
        self._lock = threading.Lock()
        self._tally: Tally | None = None
        self._line_due_s = 0.0

    def begin(self, phase: str, total_bytes: int | None) -> None:
        with self._lock:
            self._tally = Tally(phase, total_bytes, self._now_s)
            self._line_due_s = self._now_s() + LINE_INTERVAL_S

    def advance(self, done_bytes: int, *, stored_bytes: int = 0) -> None:
        with self._lock:
            if self._tally is None:
                return
            self._tally.add(done_bytes, stored_bytes)
            now_s = self._now_s()
            if now_s >= self._line_due_s and self._is_large(self._tally):
                self._line_due_s = now_s + LINE_INTERVAL_S
                self._write(self._tally.describe())

    def note(self, message: str) -> None:
        with self._lock:
            self._write(printable(message))

    def end(self) -> None:
        with self._lock:
            if self._tally is not None and self._tally.done_bytes and self._is_large(self._tally):
                self._write(self._tally.summarize())
            self._tally = None

    @staticmethod
    def _is_large(tally: Tally) -> bool:
        return max(tally.total_bytes or 0, tally.done_bytes) >= LINES_FROM_BYTES
