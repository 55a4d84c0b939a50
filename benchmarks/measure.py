"""Run one command to its end and report its cost: wall time, CPU time and the memory of its largest process.

This module and what imports it load no numpy: a child's peak memory as Linux reports it is never less than that of the
process that started it, so this process has to stay small (about 25 MiB).
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Sample:
    """The cost of one command with all of its children: wall and CPU (user + system) seconds, and the peak resident
    set of the largest single process in bytes."""

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True)
class Command:
    """A command line and what it needs around it; `env` is added to the caller's environment."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path | None = None


class CommandError(RuntimeError):
    """A measured command ended with another status than 0, or did not end in time. Its output is in the message."""


def run(command: Command, timeout_s: float = 300.0) -> Sample:
    """Run a command in a session of its own and measure it. Raises `CommandError`."""
    env = {**os.environ, **command.env}
    # Endpoints here are plain http or of our own; rclone and restic refuse a bundle that is not theirs.
    env.pop("AWS_CA_BUNDLE", None)
    # An installed program has its bytecode beside it; a shell that forbids Python to write it measures the compiler.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryFile() as output:
        begin_s = time.perf_counter()
        process = subprocess.Popen(
            command.argv, env=env, cwd=command.cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
        deadline = threading.Timer(timeout_s, os.killpg, (process.pid, signal.SIGKILL))
        deadline.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            os.waitpid(process.pid, 0)
            raise
        finally:
            deadline.cancel()
        wall_s = time.perf_counter() - begin_s
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            output.seek(0)
            text = output.read().decode(errors="replace")[-3000:]
            limit = f" (stopped after {timeout_s:.0f} s)" if wall_s >= timeout_s else ""
            raise CommandError(f"`{' '.join(command.argv)}` ended with {process.returncode}{limit}:\n{text}")
    return Sample(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def total(samples: Sequence[Sample]) -> Sample:
    """The cost of several commands that ran in turn."""
    return Sample(
        sum(sample.wall_s for sample in samples),
        sum(sample.cpu_s for sample in samples),
        max(sample.peak_rss_bytes for sample in samples),
    )


def median(samples: Sequence[Sample]) -> Sample:
    """The median wall and CPU time of runs of the same command, and the highest peak."""
    return Sample(
        statistics.median(sample.wall_s for sample in samples),
        statistics.median(sample.cpu_s for sample in samples),
        max(sample.peak_rss_bytes for sample in samples),
    )
