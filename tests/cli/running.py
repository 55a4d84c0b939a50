"""Runs of `skyhold` for the tests: in this process where that is enough, in one of its own where the terminal, signals
or pipes matter."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from skyhold.cli.main import main

PROGRAM = [sys.executable, "-m", "skyhold.cli.main"]


@dataclass(frozen=True)
class Run:
    """What one command left behind."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document

    @property
    def error(self) -> dict[str, Any]:
        """The JSON error on stderr."""
        error = json.loads(self.err)["error"]
        assert isinstance(error, dict)
        return error


class Shell:
    """Calls `main` in this process, in the environment and folder of the test."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *arguments: object, status: int = 0) -> Run:
        """Run a command and check its exit status."""
        self._capture.readouterr()
        ended = main([str(argument) for argument in arguments])
        out, err = self._capture.readouterr()
        assert ended == status, f"status {ended}\n{out}\n{err}"
        return Run(ended, out, err)


def run_on_terminal(
    *arguments: object,
    program: Sequence[str] = PROGRAM,
    environ: Mapping[str, str] | None = None,
    answers: Sequence[tuple[str, str]] = (),
    timeout_s: float = 60,
) -> Run:
    """Run a command whose stdin, stdout and stderr are a terminal, of 100 columns unless `environ` sets it; `out`
    is all that it printed. Each of `answers` is typed once its prompt has appeared, in their order."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*program, *map(str, arguments)],
        stdin=child,
        stdout=child,
        stderr=child,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **(environ or {})},
        start_new_session=True,
    )
    os.close(child)
    printed, waiting, read_to = bytearray(), list(answers), 0
    deadline_s = time.monotonic() + timeout_s
    try:
        while time.monotonic() < deadline_s:
            if select.select([parent], [], [], 0.1)[0]:
                try:
                    printed += os.read(parent, 65536)
                except OSError:  # the terminal of a process that has ended
                    break
                if waiting and waiting[0][0] in printed[read_to:].decode(errors="replace"):
                    read_to = len(printed)
                    os.write(parent, f"{waiting.pop(0)[1]}\n".encode())
        return Run(process.wait(timeout=max(1.0, deadline_s - time.monotonic())), printed.decode(), "")
    finally:
        process.kill()
        process.wait()
        os.close(parent)
