"""Stale reads: what is known of a store while no majority of its voters answers, reported with its age."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf

from skyhold.consensus.epochs import StoreRegisters
from skyhold.consensus.migration import Succession
from skyhold.consensus.register import EngineRegisters, Known, Versioned


class StaleRegisters(StoreRegisters):
    """Registers whose reads accept a value that was the newest within the last `max_age_s` seconds. Without a bound
    (`math.inf`), where no majority answers, they also accept the newest that some voter has accepted: its age is
    unknown, and it may not have been decided. Changes are not affected.

    `on_stale(key, known)` is called with every answer that was not the newest for sure.
    """

    def __init__(
        self,
        first: EngineRegisters,
        succession: Succession,
        *,
        max_age_s: float,
        on_stale: Callable[[str, Known], None],
        lent: bool = False,
    ) -> None:
        super().__init__(first, succession, lent=lent)
        self._max_age_s = max_age_s
        self._on_stale = on_stale

    def read(self, key: str) -> Versioned | None:
        found = self.read_known(key, max_age_s=0.0 if self._max_age_s == inf else self._max_age_s)
        if found.age_s is None and self._max_age_s != inf:
            return super().read(key)  # raises the reason
        if found.age_s != 0:
            self._on_stale(key, found)
        newest = found.value if found.age_s is not None else found.undecided or found.value
        return None if newest is None else replace(newest, next_configuration=None)
