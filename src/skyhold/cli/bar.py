"""The progress bar of a terminal: bytes, rate, what was saved, time left."""

from __future__ import annotations

import threading
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from skyhold.cli.output import printable
from skyhold.cli.phase_counts import PHASES_THAT_SAVE
from skyhold.units import format_bytes, format_duration_s

BAR_COLUMNS: Final = 24


class _Figures(ProgressColumn):
    """`120 MiB of 378 MiB, 310 MiB/s, 40.0 MiB saved, 1.2 s left`; saved is what was done without being stored or
    fetched."""

    def render(self, task: Task) -> Text:
        done = format_bytes(task.completed)
        parts = [done if task.total is None else f"{done} of {format_bytes(task.total)}"]
        if task.speed:
            parts.append(f"{format_bytes(task.speed)}/s")
        if task.description in PHASES_THAT_SAVE and task.completed > task.fields["stored_bytes"]:
            parts.append(f"{format_bytes(task.completed - task.fields['stored_bytes'])} saved")
        if task.time_remaining:
            parts.append(f"{format_duration_s(task.time_remaining)} left")
        return Text(", ".join(parts))


class Bar:
    """One bar at a time on stderr; it vanishes when its phase ends, and the command then prints the result."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(BAR_COLUMNS),
            _Figures(Column(no_wrap=True, overflow="ellipsis")),
            console=self._console,
            transient=True,
        )
        self._lock = threading.Lock()
        self._task: TaskID | None = None
        self._stored_bytes = 0

    def begin(self, phase: str, total_bytes: int | None) -> None:
        self.end()
        with self._lock:
            self._stored_bytes = 0
            self._task = self._progress.add_task(phase, total=total_bytes, stored_bytes=0)
            self._progress.start()

    def advance(self, done_bytes: int, *, stored_bytes: int = 0) -> None:
        with self._lock:
            if self._task is not None:
                self._stored_bytes += stored_bytes
                self._progress.update(self._task, advance=done_bytes, stored_bytes=self._stored_bytes)

    def note(self, message: str) -> None:
        self._console.print(Text(printable(message)))

    def end(self) -> None:
        with self._lock:
            if self._task is not None:
                self._progress.remove_task(self._task)
                self._task = None
            self._progress.stop()
