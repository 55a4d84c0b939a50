"""What is known of a register where no majority answers: the pure part of `read_known` of the bucket engine."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from skyhold.consensus.acceptor_object import AcceptorObject
from skyhold.consensus.operation import Kept, newest
from skyhold.consensus.register import Known


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A value of a register that was chosen, and the newest at some moment after `since_s` (of the runtime's clock)."""

    since_s: float
    kept: Kept


def known(
    held: Mapping[str, AcceptorObject], silent: Collection[str], confirmed: Confirmed | None, now_s: float
) -> Known:
    """What the acceptors that answered show, and what this process saw confirmed before.

    A change is durable where the writer of some acceptor knew it to be decided: by Paxos it is then in every value that
    was accepted since. What came after it is of unknown fate: accepted there, decided or not.
    """
    value = newest(confirmed.kept) if confirmed else None
    origin: AcceptorObject | None = None
    for found in held.values():
        decided = next(
            (change.value for change in found.state.value or () if change.value.version == found.decided), None
        )
        if decided is not None and (value is None or decided.version > value.version):
            value, origin = decided, found
    accepted = max(held.values(), key=lambda found: found.state.accepted, default=None)
    undecided = newest(accepted.state.value or ()) if accepted else None
    if undecided is not None and value is not None and undecided.version <= value.version:
        undecided = None
    source = origin or accepted
    return Known(
        value,
        now_s - confirmed.since_s if confirmed else None,
        undecided,
        source.writer if source else "",
        source.time if source else "",
        tuple(sorted(silent)),
    )
