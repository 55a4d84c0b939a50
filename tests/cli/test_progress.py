"""Progress on terminals and elsewhere."""

from __future__ import annotations

import sys

import pytest

from skyhold.cli.progress import LINE_INTERVAL_S, Lines
from skyhold.units import MIB
from tests.cli.running import run_on_terminal


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def written() -> list[str]:
    return []


@pytest.fixture
def lines(written: list[str], clock: Clock) -> Lines:
    return Lines(written.append, clock)


def test_small_transfer_gets_no_line(lines: Lines, written: list[str], clock: Clock) -> None:
    lines.begin("push", MIB - 1)
    clock.now_s += 60
    lines.advance(MIB - 1)
    lines.end()
    assert written == []


def test_large_transfer_gets_a_line_every_few_seconds_and_a_last_one(
    lines: Lines, written: list[str], clock: Clock
) -> None:
    lines.begin("push", 100 * MIB)
    for _ in range(100):
        clock.now_s += 0.11
        lines.advance(MIB, stored_bytes=MIB // 4)
    lines.end()
    assert len(written) == int(11 / LINE_INTERVAL_S) + 1
    assert written[0] == "push: 46.0 MiB of 100 MiB (46 %), 9.09 MiB/s, 34.5 MiB saved, 5.9 s left"
    assert written[-1] == "push: 100 MiB in 11 s (9.09 MiB/s), 75.0 MiB saved"


def test_transfer_that_stopped_reports_its_progress(lines: Lines, written: list[str], clock: Clock) -> None:
    lines.begin("pull", 10 * MIB)
    clock.now_s += 2
    lines.advance(4 * MIB, stored_bytes=4 * MIB)
    lines.end()
    assert written == ["pull: stopped at 4.00 MiB of 10.0 MiB in 2.0 s (2.00 MiB/s)"]


def test_transfer_of_unknown_size_gets_lines_once_it_is_large(lines: Lines, written: list[str], clock: Clock) -> None:
    lines.begin("verify", None)
    clock.now_s += 6
    lines.advance(MIB // 2)
    assert written == []
    lines.advance(MIB, stored_bytes=3 * MIB // 2)
    assert written == ["verify: 1.50 MiB, 256 KiB/s"]


def test_note_is_written_at_once_and_cannot_drive_the_terminal(lines: Lines, written: list[str]) -> None:
    lines.note("Bucket `a\x1b[1m` is skipped")
    assert written == ["Bucket `a\\x1b[1m` is skipped"]


def test_progress_that_has_not_begun_is_no_error(lines: Lines, written: list[str]) -> None:
    lines.advance(5 * MIB)
    lines.end()
    assert written == []


BAR = """
import time
from skyhold.cli.output import Output
from skyhold.cli.progress import open_progress
with open_progress(Output()) as progress:
    progress.begin("push", 8 << 20)
    for _ in range(8):
        progress.advance(1 << 20, stored_bytes=1 << 18)
        time.sleep(0.03)
    progress.note("Bucket b is skipped")
    time.sleep(0.15)
    progress.end()
"""


@pytest.mark.parametrize("columns", [40, 60, 120])
def test_bar_is_drawn_on_one_line_of_a_terminal_and_vanishes(columns: int) -> None:
    run = run_on_terminal(program=[sys.executable, "-c", BAR], environ={"COLUMNS": str(columns)})
    assert run.status == 0
    assert "push" in run.out
    assert "Bucket b is skipped" in run.out
    assert "\x1b[1A" not in run.out, "the bar needs a second line"
    assert run.out.rstrip("\r\n").removesuffix("\x1b[?25h").endswith("\x1b[2K"), "the bar's line is erased at the end"
    if columns == 120:
        assert "8.00 MiB of 8.00 MiB" in run.out
        assert "6.00 MiB saved" in run.out
