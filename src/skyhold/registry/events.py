"""What happened in a store: the events of all its registers, by time."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import takewhile
from typing import Final

from skyhold.consensus.migration import CONFIG, NAMES
from skyhold.consensus.no_majority import register_lost
from skyhold.errors import Corrupt, SkyholdError
from skyhold.registry import validate
from skyhold.registry.repositories import Repositories
from skyhold.registry.repository_names import RepositoryNames
from skyhold.registry.root import register_key
from skyhold.registry.snapshot import Snapshot
from skyhold.registry.views import EventView
from skyhold.store.configuration import decode_configuration
from skyhold.store.configuration_log import ConfigurationEvents, ConfigurationLog
from skyhold.store.connection import Connection
from skyhold.store.document import document_key, read_document
from skyhold.store.event import Event
from skyhold.store.session import Session
from skyhold.store.time import format_time, parse_time
from skyhold.store.unreadable_repositories import UnreadableRepository, read_each
from skyhold.store.watching import (
    Log,
    Logged,
    Place,
    Position,
    ResyncNeeded,
    position_now,
    watch_events,
    watch_registers,
)

After = EventView | Sequence[object] | int | None
"""Where a watch continues: after an event, given as such, by its sequence and chain, or by its sequence alone; None:
from now on."""
CLOCK_SKEW: Final = timedelta(days=1)
"""How far the clocks of writers may differ: an event may be that much older than one before it."""


@dataclass(frozen=True, slots=True)
class RegisterEvent:
    """An event of a register, ordered so that the newest comes first."""

    register: str
    key: str
    event: Event

    def __lt__(self, other: RegisterEvent) -> bool:
        return (self.event.origin.time, self.register, self.event.sequence) > (
            other.event.origin.time, other.register, other.event.sequence,
        )  # fmt: skip


def events_of_repository(snapshot: Snapshot, name: str, since: str | None = None) -> Iterator[EventView]:
    """The events of one repository, newest first, also of a deleted one."""
    key = register_key(snapshot.root.repository_id)
    return _since(_until((RegisterEvent(name, key, event) for event in snapshot.log.backward()), since), since)


def events_of_store(connection: Connection, session: Session, since: str | None = None) -> Iterator[EventView]:
    """The events of all registers of the store, newest first by the clocks of the writers; those of one register in
    their order. What cannot be read is left out, and named by `connection.unread` at the end."""
    names = Repositories(session.registers, session.blobs).read()
    registers = [(CONFIG, CONFIG), *((name, key) for key, name in registers_of(names).items())]
    found, connection.unread = read_each(registers, lambda name, key: (name, key, _state(session, key).log), "events")
    found.append((NAMES, NAMES, names.log))

    def events_of(name: str, key: str, log: Log) -> Iterator[RegisterEvent]:
        try:
            for event in log.backward():
                yield RegisterEvent(name, key, event)
        except Corrupt as error:
            connection.unread = (*connection.unread, UnreadableRepository.of(name, key, error))

    return _since(heapq.merge(*(_until(events_of(*register), since) for register in found)), since)


def registers_of(names: RepositoryNames) -> dict[str, str]:
    """The names of all repositories and documents, also deleted ones, by the keys of their registers."""
    found = {register_key(item.repository_id): item.name for item in names.deleted()}
    found |= {register_key(id_): name for name, id_ in names.repositories()}
    documents = (*names.deleted_documents(), *names.documents())
    return found | {document_key(id_): f"{kind}/{name}" for kind, name, id_ in documents}


def watch_store(connection: Connection, stop: threading.Event | None = None) -> Iterator[EventView | ResyncNeeded]:
    """Every change of the configuration, the names, the repositories and the documents, also deleted ones, from now on.
    What cannot be read is left out and named by `connection.unread` until it can be read."""

    @contextmanager
    def read(key: str) -> Iterator[Logged]:
        with connection.session() as session:
            yield _state(session, key)

    def named() -> dict[str, str]:
        with connection.session() as session:
            return registers_of(Repositories(session.registers, session.blobs).read())

    def damaged(key: str, error: SkyholdError) -> None:
        unread = UnreadableRepository.of(positions[key].name, key, error)
        connection.unread = (*(item for item in connection.unread if item.id != unread.id), unread)

    positions: dict[str, Position] = {}
    for key, name in {CONFIG: CONFIG, NAMES: NAMES, **named()}.items():
        try:
            with read(key) as state:
                positions[key] = position_now(name, state)
        except Corrupt as error:
            positions[key] = Position(name, None)
            damaged(key, error)
    return views_of(watch_registers(connection.waiter, positions, read, named, damaged, stop))


def watch_document(
    connection: Connection,
    kind: str,
    name: str,
    document_id: str,
    after: After = None,
    stop: threading.Event | None = None,
) -> Iterator[EventView | ResyncNeeded]:
    """As `Repository.watch`, of a document."""
    key, of = document_key(document_id), f"{kind}/{name}"

    @contextmanager
    def read() -> Iterator[Logged]:
        with connection.session() as session:
            yield _state(session, key)

    events = watch_events(connection.waiter, key, of, read, place_in_log(after), stop)
    return views_of((key, of, event) for event in events)


def place_in_log(after: After) -> Place | None:
    """The place after which a watch continues. Raises `InvalidInput`."""
    if isinstance(after, EventView):
        return after.sequence, after.chain
    if isinstance(after, tuple | list) and len(after) == 2:
        return validate.count(after[0], "after", least=0), validate.text(after[1], "the chain of `after`")
    return None if after is None else (validate.count(after, "after", least=0), None)


def views_of(found: Iterable[tuple[str, str, Event | ResyncNeeded]]) -> Iterator[EventView | ResyncNeeded]:
    """Events with the key and the name of their register, as callers see them."""
    return (event if isinstance(event, ResyncNeeded) else EventView.of(name, key, event) for key, name, event in found)


@dataclass(frozen=True, slots=True)
class _Configured:
    register_version: int
    log: ConfigurationEvents


def _configured(session: Session) -> _Configured:
    value = session.registers.read(CONFIG)
    if value is None:
        raise register_lost(CONFIG)
    log = ConfigurationLog.of(decode_configuration(value.data))
    return _Configured(value.version, ConfigurationEvents(log, partial(session.blobs.read, "records")))


def _state(session: Session, key: str) -> Logged:
    repositories, id_ = Repositories(session.registers, session.blobs), key.partition("/")[2]
    if key == CONFIG:
        return _configured(session)
    if key == NAMES:
        return repositories.read()
    if key.startswith("repository/"):
        return repositories.repository(id_).read()
    document = read_document(session.registers, session.blobs, id_)
    if document is None:
        raise register_lost(key)
    return document


def _until(stream: Iterator[RegisterEvent], since: str | None) -> Iterator[RegisterEvent]:
    """The events back to a time, and further back by the allowed difference of clocks."""
    if since is None:
        return stream
    earliest = datetime.min.replace(tzinfo=UTC) + CLOCK_SKEW
    least = format_time(max(parse_time(since), earliest) - CLOCK_SKEW)
    return takewhile(lambda item: item.event.origin.time >= least, stream)


def _since(stream: Iterator[RegisterEvent], since: str | None) -> Iterator[EventView]:
    events = (EventView.of(item.register, item.key, item.event) for item in stream)
    return events if since is None else (event for event in events if event.time >= since)
