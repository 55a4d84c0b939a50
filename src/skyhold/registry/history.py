"""The history of refs: every move of every ref is kept, hash-linked, and read from here by log, rollback and audit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from skyhold.errors import Corrupt
from skyhold.registry.names import Ref
from skyhold.registry.root import first_chain, next_chain
from skyhold.registry.snapshot import Snapshot
from skyhold.storage.canonical import Json, malformed


@dataclass(frozen=True, slots=True)
class Move:
    """One move of a ref: `old` is None where it was created, `new` where it was deleted; `previous` is the sequence of
    the ref's move before."""

    sequence: int
    ref: Ref
    old: str | None
    new: str | None
    author: str
    time: str
    reason: str
    previous: int | None


def ref_history(snapshot: Snapshot, ref: Ref) -> Iterator[Move]:
    """The moves of one ref, newest first, also of a deleted one. Empty where it never was."""
    state = snapshot.ref_state(ref)
    sequence = state.move if state else None
    while sequence is not None:
        move = _move(sequence, _record(snapshot, sequence))
        if move.ref != ref or (move.previous is not None and move.previous >= sequence):
            _broken(snapshot, sequence, "it is not a move of the ref that links to it", ref)
        yield move
        sequence = move.previous


def moves(snapshot: Snapshot, *, after: int = 0) -> Iterator[Move]:
    """All moves with a sequence over `after`, oldest first."""
    for key, value in snapshot.map.scan("move/", after=f"move/{after:016x}"):
        yield _move(_sequence(key), value)


def moves_reverse(snapshot: Snapshot) -> Iterator[Move]:
    """All moves, newest first."""
    for key, value in snapshot.map.scan_reverse("move/"):
        yield _move(_sequence(key), value)


def verify_chain(snapshot: Snapshot) -> int:
    """Check the whole history: the hash chain over all moves up to the root, the links between a ref's moves, and that
    every ref stands where its last move left it. Returns the number of moves.

    Raises `Corrupt` code `history_broken` naming the first move that is wrong, and its ref where it is known.
    """
    chain = first_chain(snapshot.root.repository_id)
    last: dict[Ref, tuple[int, str | None]] = {}
    count = 0
    for key, value in snapshot.map.scan("move/"):
        count += 1
        move = _move(_sequence(key), value)
        assert isinstance(value, dict)  # noqa: S101 (a move was read from it)
        if move.sequence != count:
            _broken(snapshot, count, "it is missing")
        chain = next_chain(chain, value)
        if value.get("chain") != chain:
            _broken(snapshot, count, "its hash does not follow from the moves before it", move.ref)
        if last.get(move.ref, (None, None)) != (move.previous, move.old):
            _broken(snapshot, count, "it does not begin where the ref's move before ended", move.ref)
        last[move.ref] = (count, move.new)
    if count != snapshot.root.moves or chain != snapshot.root.chain:
        _broken(snapshot, count, f"the root counts {snapshot.root.moves} moves, or ends in another hash")
    for ref, (sequence, version) in last.items():
        state = snapshot.ref_state(ref)
        if state is None or (state.move, state.version) != (sequence, version):
            _broken(snapshot, sequence, "the ref does not stand where it left it", ref)
    for key, _ in snapshot.map.scan("ref/"):
        ref = Ref.parse(key.removeprefix("ref/"))
        if ref not in last:
            _broken(snapshot, count, "the ref has no move", ref)
    return count


def _record(snapshot: Snapshot, sequence: int) -> Json:
    value = snapshot.map.get(f"move/{sequence:016x}")
    if not isinstance(value, dict):
        _broken(snapshot, sequence, "it is missing")
    return value


def _sequence(key: str) -> int:
    try:
        return int(key.removeprefix("move/"), 16)
    except ValueError:
        malformed(f"map entry {key}", "it is not the key of a move")


def _move(sequence: int, value: object) -> Move:
    what = f"move {sequence}"
    if not isinstance(value, dict):
        malformed(what, "it is not an object")
    ref, old, new, author, time, reason, previous = (
        value.get(name) for name in ("ref", "old", "new", "author", "time", "reason", "previous")
    )
    texts = isinstance(ref, str) and isinstance(author, str) and isinstance(time, str) and isinstance(reason, str)
    if not texts or not isinstance(old, str | None) or not isinstance(new, str | None):
        malformed(what, "a field has another type")
    if not isinstance(previous, int | None):
        malformed(what, "its link is not a sequence")
    return Move(sequence, Ref.parse(str(ref)), old, new, str(author), str(time), str(reason), previous)


def _broken(snapshot: Snapshot, sequence: int, why: str, ref: Ref | None = None) -> NoReturn:
    place = f"move {sequence}" if ref is None else f"move {sequence} of {ref}"
    raise Corrupt(
        f"The history of repository {snapshot.root.repository_id} is broken at {place}: {why}",
        code="history_broken",
        hint="A defect, or somebody who has the store's keys, wrote it so. Check where the refs stand",
        move=sequence,
        ref=None if ref is None else str(ref),
    )
