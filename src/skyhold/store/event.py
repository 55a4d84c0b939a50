"""Events: what changed in a register, by whom, when and why (format.md, 10).

Every change of a register that has a map is one event in it, `event/<sequence>`, and a hash chain covers all of them.
The other entries of the map are the state; the events are how it came about.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NoReturn, TypeGuard

from skyhold import error_codes
from skyhold.errors import Corrupt, InvalidInput
from skyhold.storage.blobs import Blobs
from skyhold.storage.canonical import Json, canonical, check_text, decode, is_counter, malformed
from skyhold.store.map import Map
from skyhold.store.time import check_time

AUTHOR_BYTES_MAX: Final = 256
REASON_BYTES_MAX: Final = 1024
INLINE_BYTES_MAX: Final = 2 * 1024 - 256
"""The most bytes of an event in the map, its chain left out: a value there has at most 2 KiB."""
PERSON: Final = "person"
ACTORS: Final = (PERSON, "automation", "controller", "agent")
_ACTOR: Final = re.compile(r"[a-z](?:[a-z-]{0,30}[a-z])?")
_GROUP: Final = re.compile(r"[0-9a-f]{32}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_OWN: Final = frozenset(("what", "author", "time", "actor", "reason", "group", "chain", "signature"))


@dataclass(frozen=True, slots=True)
class Origin:
    """Author, time (RFC 3339, UTC, by the clock of the writer) and reason of a change.

    `actor` is the kind of the author: a person, or a kind of program. `group` (32 hex digits) is shared by changes of
    several registers that belong together.
    """

    author: str
    time: str
    reason: str = ""
    actor: str = PERSON
    group: str | None = None

    def __post_init__(self) -> None:
        check_time(self.time)
        _check_quoted(self.author, "the author", AUTHOR_BYTES_MAX)
        _check_quoted(self.reason, "the reason of a change", REASON_BYTES_MAX)
        if _ACTOR.fullmatch(self.actor) is None:
            raise InvalidInput(
                f"Expected the kind of an actor ({', '.join(ACTORS)}) but got {self.actor!r}",
                code=error_codes.INVALID_ACTOR,
            )
        if self.group is not None and _GROUP.fullmatch(self.group) is None:
            raise InvalidInput(
                f"Expected a group of 32 hex digits but got {self.group!r}", code=error_codes.INVALID_GROUP
            )

    def to_json(self) -> Json:
        """The origin as fields of an event; what is not given is left out."""
        fields: Json = {"author": self.author, "time": self.time}
        if self.actor != PERSON:
            fields["actor"] = self.actor
        if self.reason:
            fields["reason"] = self.reason
        if self.group is not None:
            fields["group"] = self.group
        return fields


@dataclass(frozen=True, slots=True)
class Event:
    """One change of a register. `what` are the parts of the change, each an object with its `kind`; readers keep kinds
    that they do not know. `signature` is reserved: an object, of which nothing is checked yet."""

    sequence: int
    what: tuple[Json, ...]
    origin: Origin
    chain: str
    signature: Json | None = None


@dataclass(frozen=True, slots=True)
class EventLog:
    """The events of one register: how many there are, the chain after the last of them, and the map that holds them.
    `key` is that of the register."""

    key: str
    count: int
    chain: str
    map: Map
    blobs: Blobs

    def append(self, origin: Origin, what: Sequence[Json], entries: Mapping[str, object | None]) -> EventLog:
        """The log after one event with these parts, which sets `entries` of the map (None: deletes). The new nodes of
        the map are durable. What is too long for the map is written to a blob."""
        fields = origin.to_json()
        event: Json = {"what": list(what), **fields}
        if len(canonical(event)) > INLINE_BYTES_MAX:
            body = canonical({"what": list(what)})
            name = self.blobs.write("records", body)
            event = {"what": {"blob": name, "sha256": hashlib.sha256(body).hexdigest()}, **fields}
        chain = next_chain(self.chain, event)
        map_ = self.map.update({**entries, event_key(self.count + 1): {**event, "chain": chain}})
        return EventLog(self.key, self.count + 1, chain, map_, self.blobs)

    def read(self, sequence: int) -> Event:
        """Raises `Corrupt` code `history_broken` where it is missing."""
        value = self.map.get(event_key(sequence))
        if value is None:
            self.broken(sequence, "it is missing")
        return self._event(sequence, value)

    def forward(self, *, after: int = 0) -> Iterator[Event]:
        """The events with a sequence over `after`, oldest first."""
        for key, value in self.map.scan("event/", after=event_key(after)):
            yield self._event(_sequence(key), value)

    def backward(self) -> Iterator[Event]:
        """All events, newest first."""
        for key, value in self.map.scan_reverse("event/"):
            yield self._event(_sequence(key), value)

    def at(self, sequences: Collection[int]) -> Iterator[tuple[int, Callable[[], Event]]]:
        """Those of these sequences that exist, in order, each with a function that reads its event: of the others only
        the map is read."""
        for sequence in sorted(sequences):
            value = self.map.get(event_key(sequence))
            if value is not None:
                yield sequence, partial(self._event, sequence, value)

    def verified(self, *, after: int = 0, chain: str | None = None) -> Iterator[Event]:
        """The events with a sequence over `after`, after which the chain was `chain`, oldest first, while the chain
        over them is checked. Raises `Corrupt` code `history_broken` naming the first that is wrong."""
        chain, count = chain or first_chain(self.key), after
        for key, value in self.map.scan("event/", after=event_key(after)):
            count += 1
            if _sequence(key) != count:
                self.broken(count, "it is missing")
            event = self._event(count, value)
            assert isinstance(value, dict)  # noqa: S101 (an event was read from it)
            chain = next_chain(chain, value)
            if event.chain != chain:
                refs = ", ".join(str(part["ref"]) for part in event.what if part["kind"] == "ref" and "ref" in part)
                self.broken(count, "its hash does not follow from the events before it", refs or None)
            yield event
        if count != self.count or chain != self.chain:
            self.broken(count, f"the register counts {self.count} events, or ends in another hash")

    def broken(self, sequence: int, why: str, part: str | None = None) -> NoReturn:
        """As `refuse_broken`, of this register."""
        refuse_broken(self.key, sequence, why, part)

    def _event(self, sequence: int, value: object) -> Event:
        what = value.get("what") if isinstance(value, dict) else None
        if isinstance(value, dict) and isinstance(what, dict):
            where = f"event {sequence} of register {self.key}"
            body = self.blobs.read("records", str(what.get("blob")))
            if hashlib.sha256(body).hexdigest() != what.get("sha256"):
                malformed(where, "its parts do not match their hash")
            value = {**value, "what": decode(body, where).get("what")}
        return parse_event(self.key, sequence, value)


def refuse_broken(key: str, sequence: int, why: str, part: str | None = None) -> NoReturn:
    """Raise `Corrupt` code `history_broken`: the event of this sequence, or a part of it, is wrong."""
    place = f"event {sequence}" if part is None else f"event {sequence}, {part}"
    raise Corrupt(
        f"The history of register {key} is broken at {place}: {why}",
        code=error_codes.HISTORY_BROKEN,
        hint="A defect, or a holder of the store's keys, wrote it so. Check where the refs point",
        event=sequence,
        part=part,
    )


def parse_event(key: str, sequence: int, value: object) -> Event:
    """An event of a register, with its parts. Raises `Corrupt`."""
    where = f"event {sequence} of register {key}"
    if not isinstance(value, dict):
        malformed(where, "it is not an object")
    if not value.keys() >= {"what", "author", "time", "chain"} or not value.keys() <= _OWN:
        malformed(where, f"it has the fields {sorted(value)}")
    author, time, chain = value["author"], value["time"], value["chain"]
    actor, reason, group = value.get("actor", PERSON), value.get("reason", ""), value.get("group")
    what, signature = value["what"], value.get("signature")
    if not all(isinstance(text, str) for text in (author, time, chain, actor, reason)):
        malformed(where, "a field has another type")
    if not isinstance(group, str | None) or not isinstance(signature, dict | None) or not is_chain(chain):
        malformed(where, "a field has another type")
    if not isinstance(what, list) or not all(
        isinstance(part, dict) and isinstance(part.get("kind"), str) for part in what
    ):
        malformed(where, "a part of it has no kind")
    try:
        origin = Origin(author, time, reason, actor, group)
    except InvalidInput as error:
        malformed(where, error.message)
    return Event(sequence, tuple(what), origin, chain, signature)


def event_key(sequence: int) -> str:
    """Key of an event in the map of its register."""
    return f"event/{sequence:016x}"


def first_chain(key: str) -> str:
    """The chain before the first event of a register."""
    return hashlib.sha256(b"skyhold events\0" + key.encode()).hexdigest()


def next_chain(chain: str, event: Mapping[str, object]) -> str:
    """The chain after an event, the value in the map; its fields `chain` and `signature` are left out of the hash."""
    body = canonical({name: value for name, value in event.items() if name not in {"chain", "signature"}})
    return hashlib.sha256(bytes.fromhex(chain) + body).hexdigest()


def is_chain(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def check_length(text: str, what: str, bytes_max: int) -> None:
    """Raise `InvalidInput` for a text that is longer, or that has no UTF-8 form."""
    check_text(text, what)
    _check_bytes(len(text.encode()), what, bytes_max)


def _check_quoted(text: str, what: str, bytes_max: int) -> None:
    """As `check_length`, of the text as it is in JSON, without the quotation marks: an event has to fit the map."""
    check_text(text, what)
    _check_bytes(len(canonical(text)) - 2, f"{what}, as JSON,", bytes_max)


def _check_bytes(count: int, what: str, bytes_max: int) -> None:
    if count > bytes_max:
        raise InvalidInput(f"Expected {what} of at most {bytes_max} bytes but got {count}", code=error_codes.TOO_LONG)


def _sequence(key: str) -> int:
    digits = key.removeprefix("event/")
    try:
        sequence = int(digits, 16)
    except ValueError:
        sequence = -1
    if not is_counter(sequence) or event_key(sequence) != key:
        malformed(f"map entry {key}", "it is not the key of an event")
    return sequence
