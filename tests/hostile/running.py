"""Runs of `skyhold` in this process, each with a deadline and with what it left behind."""

from __future__ import annotations

import io
import json
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from skyhold.cli.exits import MEANINGS
from skyhold.cli.main import main
from skyhold.units import GIB

DEADLINE_S: Final = 60.0
"""Of one command on folders. What takes longer hangs."""


MEMORY_BYTES: Final = 2 * GIB
"""Of address space, more than the process has already, beside an object or a reply that is larger."""


class Hung(BaseException):
    """A command that did not end in time."""


@dataclass(frozen=True)
class Answer:
    """One command: its exit status, the document on stdout and the error on stderr (each {} where there is none).
    `failure` is what no command may do: a foreign exception, a hang, an undocumented status."""

    command: tuple[str, ...]
    status: int
    document: dict[str, Any]
    error: dict[str, Any]
    seconds: float
    failure: str | None

    @property
    def code(self) -> str:
        return str(self.error.get("code", ""))

    @property
    def text(self) -> str:
        """All that it printed, to look for names in."""
        return json.dumps([self.document, self.error], ensure_ascii=False)

    def __str__(self) -> str:
        detail = f" {self.code}: {self.error.get('message')}" if self.error else ""
        return f"`{' '.join(self.command)}` ended with {self.status}{detail}"


def run(*arguments: object, deadline_s: float = DEADLINE_S) -> Answer:
    """Run a command with `--json`, on the machine that is at work."""
    command = tuple(map(str, arguments))
    # Bytes below text, as a process has them. Both are held: a wrapper that is collected closes what it wraps.
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    failure: str | None = None
    status = -1
    started_s = time.monotonic()
    try:
        with (
            _deadline(deadline_s),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            status = main([*command, "--json"])
    except Hung:
        failure = f"did not end within {deadline_s:.0f} s"
    except Exception as error:  # noqa: BLE001 - what leaves `main` is what is looked for
        failure = f"raised {type(error).__name__}: {error}"
    printed = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    seconds = time.monotonic() - started_s
    document, error = _parse(printed[0]), _parse(printed[1]).get("error", {})
    if failure is None and (status not in MEANINGS or error.get("code") == "defect"):
        failure = f"ended with {status}: {error.get('message')}"
    if failure is None and "Traceback" in printed[0] + printed[1]:
        failure = f"printed a traceback: {printed[1][-500:]}"
    return Answer(command, status, document, error, seconds, failure)


def _parse(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise `Hung` in this thread when the time is over, again and again: also out of what waits for threads."""

    def raise_hung(_number: int, _frame: FrameType | None) -> None:
        raise Hung

    handler = signal.signal(signal.SIGALRM, raise_hung)
    remaining_s, _ = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    started_s = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if remaining_s:  # of a deadline around this one
            signal.setitimer(signal.ITIMER_REAL, max(0.01, remaining_s - (time.monotonic() - started_s)))


@contextmanager
def little_memory() -> Iterator[None]:
    """The block gets a `MemoryError` beyond `MEMORY_BYTES`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    # A process that has run other tests before keeps the stacks of their threads and the pools of their allocators.
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def is_supported() -> bool:
    return hasattr(signal, "setitimer") and sys.platform != "win32"
