"""A few numbers that all processes of a run see, also of one that was killed: which registers are used now, and which
clients still work on older ones.

The registers of one *generation* are used together and then left, so that no history grows past what a checker can
judge. The coordinator begins the next generation once enough was done; a thread follows with its next operation.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Final

REGISTER_OPERATIONS: Final = 850
"""Once one register was used so often, all clients go on to others. What each has begun it ends, which leaves room to
the 1,000 that a checker is given at most."""
GENERATION: Final = 0
STOPPED: Final = 1
FIRST_SEAT: Final = 2


class Board:
    """Each client thread has a seat, which it alone writes: its generation, and how often it used each of its
    registers."""

    def __init__(self, path: Path, seats: int, registers: int) -> None:
        self._registers = registers
        self._seats = range(FIRST_SEAT, FIRST_SEAT + seats * (1 + registers), 1 + registers)
        size_bytes = 8 * self._seats.stop
        if not path.exists():
            path.write_bytes(bytes(size_bytes))
        with path.open("r+b") as file:
            self._numbers = memoryview(mmap.mmap(file.fileno(), size_bytes)).cast("q")

    @property
    def generation(self) -> int:
        return self._numbers[GENERATION]

    def begin_next_generation(self) -> None:
        self._numbers[GENERATION] += 1

    @property
    def stopped(self) -> bool:
        return bool(self._numbers[STOPPED])

    def stop(self) -> None:
        self._numbers[STOPPED] = 1

    def enter(self, seat: int, generation: int) -> None:
        """The client of this seat has left all earlier generations."""
        at = self._seats[seat]
        if self._numbers[at] != generation:  # else a client that was killed has counted in it
            for register in range(self._registers):
                self._numbers[at + 1 + register] = 0
            self._numbers[at] = generation

    def count(self, seat: int, register: int) -> None:
        """The client of this seat has used a register of its generation once more."""
        self._numbers[self._seats[seat] + 1 + register] += 1

    def used(self, register: int) -> int:
        """How often a register of the newest generation was used."""
        newest = self.generation
        return sum(self._numbers[at + 1 + register] for at in self._seats if self._numbers[at] == newest)

    def used_in_all(self) -> list[int]:
        """How often each register of the newest generation was used."""
        return [self.used(register) for register in range(self._registers)]

    def oldest(self) -> int:
        """The oldest generation that a client may still be at work on."""
        return min(self._numbers[at] for at in self._seats)
