"""What the data of every register of the store has: a size, counters, an epoch of gc (format.md, 10)."""

from __future__ import annotations

from typing import Final

from skyhold import error_codes
from skyhold.errors import Conflict, InvalidInput
from skyhold.storage.canonical import INTEGER_MAX, is_counter
from skyhold.units import KIB

ROOT_BYTES_MAX: Final = 16 * KIB


def check_counters(*counters: int) -> None:
    """Raise `InvalidInput` code `counter_used_up` for a counter that readers would refuse."""
    for counter in counters:
        if not is_counter(counter):
            raise InvalidInput(
                f"Expected a counter up to {INTEGER_MAX} but got {counter!r}", code=error_codes.COUNTER_USED_UP
            )


def check_gc_epoch(began: int | None, now: int, hint: str) -> None:
    """Raise `Conflict` code `gc_epoch_risen` where a change began in another epoch of gc (None: it relies on none)."""
    if began is not None and began != now:
        raise Conflict(
            f"Garbage was collected (epoch {now}) since this change began in epoch {began}: "
            "objects that it relies on may be gone",
            code=error_codes.GC_EPOCH_RISEN,
            hint=hint,
            gc_epoch=now,
        )
