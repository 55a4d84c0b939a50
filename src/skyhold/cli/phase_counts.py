"""What a phase of a transfer has done so far, as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from skyhold.units import format_bytes, format_duration_s

PHASES_THAT_SAVE: Final = {"push", "pull"}
"""Phases of which the difference between done and stored bytes is reported."""


class PhaseCounts:
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
