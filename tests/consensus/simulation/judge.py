"""Whether a history of versioned registers contradicts itself: quick, since it does not search.

Every value of a register carries its version, and a version is set once, so what order the changes took is known: what
was seen is linearizable exactly if each version has one value, and no operation that ended before another began comes
after it in that order. (An order of intervals and a weak order contradict each other in a pair, if at all: Gibbons and
Korach, "Testing shared memories", 1997, for the case where it is known which write each read saw.) A version that no
client saw it does not judge; `histories/register_model.py` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FOREVER = float("inf")


@dataclass(frozen=True)
class Done:
    """An operation of a client on one register, from `called` to `returned` (seconds; `FOREVER`: no answer).

    `saw` is the version that it set or found (0: none), with its data; None where it shows nothing. `changes`: whether
    it set it. `data` of a change that is not known to have happened is what it would have set.
    """

    client: str
    what: str
    called: float
    returned: float
    saw: int | None = None
    data: bytes = b""
    changes: bool = False
    fate: str = "known"
    """`known`, `unknown` (may happen after `called`, or never), or `never` (it must not be seen)."""


def violation(history: Sequence[Done], moved: Sequence[float] = ()) -> str | None:
    """Why the history of one register is not linearizable; None where it is. `moved` is when each move of the store
    was begun: each may make one version more of the same data, not before it."""
    values: dict[int, bytes] = {}
    for done in history:
        if done.fate != "known" or done.saw is None or (not done.data and not done.changes):
            continue
        if values.setdefault(done.saw, done.data) != done.data:
            return f"version {done.saw} has two values: {values[done.saw]!r}, and {done}"
    changes = _changes(history, values, sorted(moved))
    if isinstance(changes, str):
        return changes
    ordered = [(done.saw, 0, done) for done in changes if done.saw is not None]
    ordered += [
        (done.saw, 1, done) for done in history if done.fate == "known" and done.saw is not None and not done.changes
    ]
    known = {done.saw for done in history if done.changes and done.fate == "known"}
    if not known <= values.keys():
        return f"changes without a value: {known - values.keys()}"
    return _out_of_order(ordered)


def _changes(history: Sequence[Done], values: Mapping[int, bytes], moved: Sequence[float]) -> list[Done] | str:
    """What set each version that was seen, or why nothing can have set one of them."""
    writers = {done.data: done for done in history if done.what == "compare_and_set"}
    changes: list[Done] = []
    written: set[bytes] = set()
    moves, before = 0, b""
    for version, data in sorted(values.items()):
        writer = writers.get(data)
        if writer is None:
            return f"no client wrote {data!r} of version {version}"
        if writer.fate == "never":
            return f"{writer} was reported as without effect, but became version {version}"
        if data not in written:
            returned = writer.returned if writer.fate == "known" else FOREVER
            changes.append(Done(writer.client, writer.what, writer.called, returned, version, data, True))
        elif data != before or moves == len(moved):
            return f"one change took effect twice: {values}"
        else:
            changes.append(Done("store", "move", moved[moves], FOREVER, version, data, True))
            moves += 1
        written.add(data)
        before = data
    return changes


def _out_of_order(ordered: Sequence[tuple[int, int, Done]]) -> str | None:
    """An operation that was over before another began must not come after it."""
    latest: tuple[int, int, Done] | None = None
    ends = sorted(ordered, key=lambda item: item[2].returned)
    position = 0
    for item in sorted(ordered, key=lambda item: item[2].called):
        while position < len(ends) and ends[position][2].returned < item[2].called:
            if latest is None or ends[position][:2] > latest[:2]:
                latest = ends[position]
            position += 1
        if latest is not None and latest[:2] > item[:2]:
            return f"{latest[2]} was over before {item[2]} began, but comes after it"
    return None
