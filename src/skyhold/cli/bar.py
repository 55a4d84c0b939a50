"""The progress bar of a terminal: bytes, rate, what was saved, time left."""

from __future__ import annotations

import threading

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from skyhold.cli.output import printable
from skyhold.units import format_bytes


class _SavedColumn(ProgressColumn):
    """Bytes that were done without being stored or fetched."""

    def render(self, task: Task) -> Text:
        saved_bytes = max(0, int(task.completed) - int(task.fields["stored_bytes"]))
        return Text(f"{format_bytes(saved_bytes)} saved" if saved_bytes else "", style="green")


class Bar:
    """One bar at a time on stderr; it vanishes when its phase ends, and the command then says what came of it."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            _SavedColumn(),
            TimeRemainingColumn(compact=True),
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
