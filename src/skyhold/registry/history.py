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
            _broken(snapshot, sequence, "it is not a move of the ref that links to it")
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

    Raises `Corrupt` code `history_broken` naming the first move that is wrong.
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
            _broken(snapshot, count, "its hash does not follow from the moves before it")
        if last.get(move.ref, (None, None)) != (move.previous, move.old):
            _broken(snapshot, count, "it does not begin where the ref's move before ended")
        last[move.ref] = (count, move.new)
    if count != snapshot.root.moves or chain != snapshot.root.chain:
        _broken(snapshot, count, f"the root counts {snapshot.root.moves} moves, or ends in another hash")
    for ref, (sequence, version) in last.items():
        state = snapshot.ref_state(ref)
        if state is None or (state.move, state.version) != (sequence, version):
            _broken(snapshot, sequence, f"{ref} does not stand where it left it")
    refs_count = sum(1 for _ in snapshot.map.scan("ref/"))
    if refs_count != len(last):
        _broken(snapshot, count, "a ref has no move")
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


def _broken(snapshot: Snapshot, sequence: int, why: str) -> NoReturn:
    raise Corrupt(
        f"The history of repository {snapshot.root.repository_id} is broken at move {sequence}: {why}",
        code="history_broken",
        hint="Take the refs from the checkpoints in the buckets: `skyhold recover URL`",
        move=sequence,
    )
