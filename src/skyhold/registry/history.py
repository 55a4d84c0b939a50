"""The history of a repository: its events, which log, rollback and audit read from here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from skyhold.errors import InvalidInput
from skyhold.registry.names import Ref
from skyhold.registry.repository_names import RepositoryNames
from skyhold.registry.snapshot import Snapshot
from skyhold.storage.canonical import Json, is_counter, malformed
from skyhold.store.document import Document
from skyhold.store.event import Event, EventLog
from skyhold.store.record import UNRECORDED, hash_of


@dataclass(frozen=True, slots=True)
class Move:
    """One move of a ref: `old` is None where it was created, `new` where it was deleted; `previous` is the sequence of
    the event of the ref's move before."""

    event: Event
    ref: Ref
    old: str | None
    new: str | None
    previous: int | None


def moves_in(event: Event) -> list[Move]:
    """The moves of refs that an event made together, in order. Raises `Corrupt`."""
    return [_move(event, part) for part in event.what if part["kind"] == "ref"]


def move_in(event: Event, ref: Ref) -> Move | None:
    """The move of this ref in an event, or None."""
    return next((move for move in moves_in(event) if move.ref == ref), None)


def moves_reverse(snapshot: Snapshot) -> Iterator[Move]:
    """The moves of all refs, newest first."""
    for event in snapshot.log.backward():
        yield from reversed(moves_in(event))


def ref_history(snapshot: Snapshot, ref: Ref) -> Iterator[Move]:
    """The moves of one ref, newest first, also of a deleted one. Empty where it never was."""
    state = snapshot.ref_state(ref)
    sequence = state.event if state else None
    while sequence is not None:
        move = move_in(snapshot.log.read(sequence), ref)
        if move is None or (move.previous is not None and move.previous >= sequence):
            snapshot.log.broken(sequence, "it is not a move of the ref that links to it", str(ref))
        yield move
        sequence = move.previous


def verify_history(snapshot: Snapshot, verified: tuple[int, str] | None = None) -> int:
    """Check the whole history: the hash chain over all events up to the root, the links between a ref's moves, and that
    the map is the result of the events: every ref, version, attachment and record. Returns the number of
    events. Where the history was `verified` up to an event (its sequence, and the chain after it), only the chain over
    later events is checked.

    Raises `Corrupt` code `history_broken` naming the first wrong event, and the part of it if known.
    """
    if verified is None:
        return _verify(snapshot.log)
    sequence, chain = verified
    for _ in snapshot.log.verified(after=sequence, chain=chain if sequence else None):
        pass
    return snapshot.log.count


def verify_document(document: Document) -> int:
    """As `verify_history`, of a document."""
    return _verify(document.log)


def _verify(log: EventLog) -> int:
    made = _Made()
    for event in log.verified():
        for part in event.what:
            made.enter(log, event, part)
    made.compare(log)
    return log.count


def verify_names(names: RepositoryNames) -> int:
    """As `verify_history`, of the register of names."""
    made: dict[str, tuple[int, object]] = {}
    for event in names.log.verified():
        for part in event.what:
            for key, value in _named(part):
                made[key] = (event.sequence, value)
    last = names.log.count
    seen = set()
    for key, value in names.map.scan():
        kind = key.partition("/")[0]
        if kind == "event":
            continue
        seen.add(key)
        sequence, wanted = made.get(key, (last, None))
        if wanted is None or (kind != "deleted" and wanted != value):
            names.log.broken(sequence, "the entry is not what this event made of it", key)
    for key, (sequence, value) in made.items():
        if value is not None and key not in seen:
            names.log.broken(sequence, "what this event made is missing", key)
    return last


def _named(part: Json) -> Iterator[tuple[str, object]]:
    """The entries of the map of names that a part of an event has set, None where deleted. For a deletion the value
    is empty: the event gives only that there is one."""
    kind, name = part["kind"], part.get("name")
    if kind == "register":
        yield f"register/{part.get('register')}", {}
    elif kind in {"deleted", "undeleted"}:
        yield f"deleted/{part.get('id')}", {} if kind == "deleted" else None
    elif kind == "name" and "deployment" in part:
        ids = {"repository": part.get("repository"), "deployment": part["deployment"]}
        yield f"deployment/{name}", None if part["deployment"] is None else ids
    elif kind == "name" and "document" in part:
        of = part["document"]
        yield f"document/{part.get('of')}/{name}", None if of is None else {"document": of}
    elif kind == "name":
        of = part.get("repository")
        yield f"name/{name}", None if of is None else {"repository": of}


@dataclass(slots=True)
class _Made:
    """What the events have made, so far. The values are sequences of the events that made it."""

    refs: dict[Ref, tuple[int, str | None]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    attached: dict[str, int] = field(default_factory=dict)
    records: dict[str, tuple[int, str | None]] = field(default_factory=dict)

    def enter(self, log: EventLog, event: Event, part: Json) -> None:
        sequence = event.sequence
        if part["kind"] == "ref":
            move = _move(event, part)
            if self.refs.get(move.ref, (None, None)) != (move.previous, move.old):
                log.broken(sequence, "it does not begin where the ref's move before ended", str(move.ref))
            self.refs[move.ref] = (sequence, move.new)
        elif part["kind"] == "version":
            self.versions[f"version/{part.get('version')}"] = sequence
        elif part["kind"] == "attached":
            digest, first, count = (part.get(name) for name in ("version", "first", "count"))
            if not is_counter(first) or not is_counter(count) or self.attached.get(str(digest), 0) != first - 1:
                log.broken(sequence, "it does not continue where the attachments before ended", str(digest))
            self.attached[str(digest)] = first - 1 + count
        elif part["kind"] == "record":
            key, hash_ = str(part.get("record")), part.get("sha256")
            if key.partition("/")[0] in UNRECORDED or not isinstance(hash_, str | None):
                log.broken(sequence, "it names no record", key)
            self.records[key] = (sequence, hash_)
            if key.startswith("deleted/"):
                self.versions.pop(f"version/{key.removeprefix('deleted/')}", None)

    def compare(self, log: EventLog) -> None:
        """Raise unless the map contains exactly what they made."""
        last = log.count
        for ref, (sequence, version) in self.refs.items():
            if log.map.get(f"ref/{ref}") != {"version": version, "event": sequence}:
                log.broken(sequence, "the ref does not point to where this event moved it", str(ref))
        attached: Counter[str] = Counter()
        seen: set[str] = set()
        named = {str(ref) for ref in self.refs}
        for key, value in log.map.scan():
            kind, _, rest = key.partition("/")
            if kind == "attached":
                attached[rest.partition("/")[0]] += 1
            elif kind not in UNRECORDED and hash_of(value) != self.records.get(key, (last, None))[1]:
                log.broken(self.records.get(key, (last, None))[0], "the record is not what this event made of it", key)
            elif (kind == "ref" and rest not in named) or (
                kind == "version" and value != {"event": self.versions.get(key)}
            ):
                log.broken(last, "no event has made it", key)
            seen.add(key)
        made = {key: sequence for key, (sequence, hash_) in self.records.items() if hash_ is not None} | self.versions
        for key in made.keys() - seen:
            log.broken(made[key], "what this event made is missing", key)
        if attached != Counter({digest: count for digest, count in self.attached.items() if count}):
            log.broken(last, "what is attached to versions is not what the events attached")


def _move(event: Event, part: Json) -> Move:
    ref, old, new, previous = (part.get(name) for name in ("ref", "old", "new", "previous"))
    what = f"move of a ref in event {event.sequence}"
    if not isinstance(ref, str) or not isinstance(old, str | None) or not isinstance(new, str | None):
        malformed(what, "a field has another type")
    if previous is not None and not is_counter(previous):
        malformed(what, "its link is not a sequence")
    try:
        return Move(event, Ref.parse(ref), old, new, previous)
    except InvalidInput as error:
        malformed(what, error.message)
