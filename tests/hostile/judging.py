"""The stores of a process, made when the first cell needs them, and the verdicts on cells."""

from __future__ import annotations

import faulthandler
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Final

from tests.endtoend.machines import CLOUDS
from tests.hostile.cells import Cell, Trial, Verdict
from tests.hostile.restoring import SecondReader
from tests.hostile.world import World


class Court:
    """Judges cells, one after the other, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._worlds: dict[tuple[str, bool], tuple[World, SecondReader]] = {}

    @staticmethod
    def memory_folder() -> str | None:
        """A folder in memory where there is one: a cell writes a hundred small files, each made durable."""
        place = "/dev/shm"
        return place if os.access(place, os.W_OK) else None

    def judge(self, cell: Cell) -> Verdict:
        place = cell.engine, cell.sealed
        if place not in self._worlds:
            world = World(self._folder / f"{cell.engine}-{cell.sealed}", engine=cell.engine, sealed=cell.sealed)
            self._worlds[place] = world, _second_reader(world)
        return Trial(*self._worlds[place], cell).run()


def _second_reader(world: World) -> SecondReader:
    """One that restores every version of every bucket while nothing is damaged: else its verdicts would be void."""
    second = SecondReader(world.scene.cloud("a"), world.key_file if world.sealed else None)
    for cloud in CLOUDS:
        if second.restorable(world.scene.cloud(cloud)) != world.trees.keys():
            raise AssertionError(f"the second reader does not give back what bucket {cloud} holds")
    return second


@dataclass(frozen=True)
class Outcome:
    """A cell as the table shows it."""

    cell: Cell
    applies: bool
    complaints: tuple[str, ...]
    seconds: float


CELL_S: Final = 600.0
"""More than the deadlines of its commands together would be a hang."""
_courts: list[Court] = []


def open_court(folder: str, opened: Synchronized[int]) -> None:
    """In each process of a pool, before its first cell; `opened` counts them.

    Each has a core of its own: threads of one interpreter that move between cores cost a sixth more."""
    with opened:
        number, opened.value = opened.value, opened.value + 1
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})
    _courts.append(Court(Path(tempfile.mkdtemp(dir=folder))))


def judge(cell: Cell) -> Outcome:
    started_s = time.monotonic()
    # The deadline of a command ends what waits in Python. What does not even end so is named, with all of its threads.
    named = threading.Timer(CELL_S, lambda: print(f"hangs: {cell.name}", file=sys.stderr, flush=True))
    named.daemon = True
    named.start()
    faulthandler.dump_traceback_later(CELL_S + 1, exit=True)
    try:
        verdict = _courts[0].judge(cell)
    finally:
        named.cancel()
        faulthandler.cancel_dump_traceback_later()
    return Outcome(cell, verdict.applies, tuple(verdict.complaints), time.monotonic() - started_s)
