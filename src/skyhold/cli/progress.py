"""Progress of long work on stderr: a bar on a terminal, a few plain lines elsewhere, nothing with `--quiet`."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from skyhold.cli.output import Output, print_stderr, printable
from skyhold.cli.phase_counts import PhaseCounts
from skyhold.storage.progress import Progress, Silence
from skyhold.units import MIB

LINE_INTERVAL_S: Final = 5.0
LINES_FROM_BYTES: Final = 1 * MIB
"""Smaller transfers stay silent where there is no terminal, so that logs stay short."""


class Lines:
    """Plain lines: at most one every few seconds, and a last one, for transfers worth a line."""

    def __init__(self, write: Callable[[str], None], now_s: Callable[[], float] = time.monotonic) -> None:
        self._write, self._now_s = write, now_s
        self._lock = threading.Lock()
        self._counts: PhaseCounts | None = None
        self._line_due_s = 0.0

    def begin(self, phase: str, total_bytes: int | None) -> None:
        with self._lock:
            self._counts = PhaseCounts(phase, total_bytes, self._now_s)
            self._line_due_s = self._now_s() + LINE_INTERVAL_S

    def advance(self, done_bytes: int, *, stored_bytes: int = 0) -> None:
        with self._lock:
            if self._counts is None:
                return
            self._counts.add(done_bytes, stored_bytes)
            now_s = self._now_s()
            if now_s >= self._line_due_s and self._is_large(self._counts):
                self._line_due_s = now_s + LINE_INTERVAL_S
                self._write(self._counts.describe())

    def note(self, message: str) -> None:
        with self._lock:
            self._write(printable(message))

    def end(self) -> None:
        with self._lock:
            if self._counts is not None and self._counts.done_bytes and self._is_large(self._counts):
                self._write(self._counts.summarize())
            self._counts = None

    @staticmethod
    def _is_large(counts: PhaseCounts) -> bool:
        return max(counts.total_bytes or 0, counts.done_bytes) >= LINES_FROM_BYTES


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
        yield Lines(print_stderr)
