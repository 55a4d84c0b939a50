"""Refusing voters that show an older state of a register than this machine has seen.

The bucket engine compares and notes by it, where the machine keeps `Sightings`; without them nothing is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from skyhold.consensus.acceptor import Ballot
from skyhold.consensus.no_majority import register_lost, rolled_back
from skyhold.consensus.operation import Kept
from skyhold.consensus.sightings import Sighting, Sightings, contradiction, sighting


class RollbackGuard:
    """Of the registers of one epoch. Thread-safe as its sightings are; the same news is written once."""

    def __init__(self, sightings: Sightings | None, epoch: int) -> None:
        self._sightings = sightings
        self._epoch = epoch
        self._noted: dict[str, object] = {}

    def promised(self, key: str) -> Mapping[str, Ballot]:
        """The greatest ballots that the voters are known to have promised of a register, by incarnation."""
        return {} if self._sightings is None else self._sightings.promised(self._epoch, key)

    def newest(self, key: str) -> Sighting | None:
        """The newest value of a register that this machine has seen: read before the voters are asked, as what another
        process notes meanwhile does not concern this operation."""
        return None if self._sightings is None else self._sightings.newest(key)

    def refuse(self, key: str, seen: Sighting | None, kept: Kept, shown_by: Iterable[str]) -> None:
        """Raise `Corrupt` where `kept`, which these voters show, cannot follow on what was `seen` before."""
        why = contradiction(key, seen, self._epoch, kept)
        if why is not None and not kept:
            raise register_lost(key)
        if why is not None:
            raise rolled_back(key, why, list(shown_by))

    def note(self, key: str, kept: Kept, promised: Mapping[str, Ballot]) -> None:
        """Note a value that was chosen, and what the voters have promised, by incarnation."""
        if self._sightings is None:
            return
        news = sighting(self._epoch, kept), promised
        if self._noted.get(key) != news:
            self._sightings.note(key, self._epoch, *news)
            self._noted[key] = news
