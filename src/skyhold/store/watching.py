"""Waiting for changes of registers, with one request for all of them while nothing changes."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

from skyhold.consensus.migration import NAMES
from skyhold.consensus.register import Registers
from skyhold.errors import SkyholdError
from skyhold.store.bell import Bell
from skyhold.store.event import Event

LISTEN_INTERVAL_S: Final = 5.0
EVENTS_AT_ONCE: Final = 1000
"""That are read before the first of them is given."""
STOP_S: Final = 0.5
"""How often a watch that waits checks whether it was stopped."""
READ_INTERVAL_S: Final = 60.0
"""A watched register is read from a majority about this often, whatever the bell contains."""


@dataclass(frozen=True, slots=True)
class ResyncNeeded:
    """The events after the one that was asked for are not available: the register was recovered, or rolled back, to an
    earlier state. Begin anew from what it holds now, of which `sequence` is the last event, and `chain` the chain after
    it."""

    register: str
    sequence: int
    chain: str


Place = tuple[int, str | None]
"""The sequence of an event in the log of a register, and the chain after it; without a chain it is not noticed that the
register was recovered, and has had as many other events since."""


class Watched(Protocol):
    """What a `Waiter` needs of a connection."""

    @property
    def shared(self) -> bool: ...
    @property
    def bell(self) -> Bell: ...
    @property
    def registers(self) -> Registers: ...


class Waiter:
    """Waits for changes of the registers of one connection; all that wait share the requests. Thread-safe."""

    def __init__(self, connection: Watched) -> None:
        self._connection = connection
        self._changed = threading.Condition()
        self._heard = 0
        """How many times the bell was found to have rung."""
        self._rung: dict[str, tuple[int, int]] = {}
        """By key of the register: the ring that named it last, and the version that it gave."""
        self._everything = 0
        """The last ring after which every register has to be looked at."""
        self._listening = False
        self._next_listen_s = 0.0

    def wait(
        self, known: Mapping[str, int], seen: int, until_s: float, stop: threading.Event | None
    ) -> tuple[int, frozenset[str]]:
        """Return the keys of those of these registers that may have another version than is `known`, once there are
        any; none at `until_s`, or when `stop` is set. `seen` is the number that the call before returned, 0 at first: a
        ring is answered once, whatever version it gives."""
        if not self._connection.shared:
            return 0, self._wait_here(known, until_s, stop)
        while not (stop is not None and stop.is_set()):
            with self._changed:
                rung = frozenset(key for key, version in known.items() if self._is_news(key, version, seen))
                if self._everything > seen:
                    return self._heard, frozenset(known)
                now_s = time.monotonic()
                if rung or now_s >= until_s:
                    return self._heard, rung
                if self._listening or now_s < self._next_listen_s:
                    self._changed.wait(min(max(self._next_listen_s - now_s, 0.05), until_s - now_s, STOP_S))
                    continue
                self._listening = True
            try:
                rings = self._connection.bell.listen()
            finally:
                with self._changed:
                    self._listening = False
                    self._next_listen_s = time.monotonic() + LISTEN_INTERVAL_S
            with self._changed:
                if rings is None or rings:
                    self._heard += 1
                if rings is None:
                    self._everything = self._heard
                else:
                    self._rung |= {key: (self._heard, version) for key, version in rings.items()}
                self._changed.notify_all()
        return seen, frozenset()

    def _is_news(self, key: str, known: int, seen: int) -> bool:
        ring, version = self._rung.get(key, (0, 0))
        return ring > seen and version > known

    def _wait_here(self, known: Mapping[str, int], until_s: float, stop: threading.Event | None) -> frozenset[str]:
        """Wait on one machine, whose file is read for one register after the other."""
        while not (stop is not None and stop.is_set()):
            for key, version in known.items():
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    return frozenset()
                try:
                    if self._connection.registers.watch(key, version, timeout_s=min(left_s, STOP_S / len(known))):
                        return frozenset((key,))
                except SkyholdError:
                    (stop or threading.Event()).wait(min(left_s, LISTEN_INTERVAL_S))
        return frozenset()


class Log(Protocol):
    """The events of a register, as `EventLog` gives them."""

    @property
    def count(self) -> int: ...
    @property
    def chain(self) -> str: ...
    def read(self, sequence: int) -> Event: ...
    def forward(self, *, after: int = 0) -> Iterator[Event]: ...
    def backward(self) -> Iterator[Event]: ...


class Logged(Protocol):
    """The state of a register with events."""

    @property
    def register_version(self) -> int: ...
    @property
    def log(self) -> Log: ...


@dataclass(slots=True)
class Position:
    """How far the events of a register have been given: up to this sequence, after which the chain was this (None: not
    known; a sequence of None: from its next reading on). `name` is that of the register in events; `version` that at
    which it was read, and `due_s` when it is to be read again."""

    name: str
    sequence: int | None
    chain: str | None = None
    version: int = 0
    due_s: float = 0.0

    def news(self, state: Logged) -> Iterator[Event | ResyncNeeded]:
        log, self.version = state.log, state.register_version
        sequence = log.count if self.sequence is None else self.sequence
        there = 0 < sequence <= log.count
        if log.count < sequence or (there and self.chain not in {None, log.read(sequence).chain}):
            self.sequence, self.chain = log.count, log.chain
            yield ResyncNeeded(self.name, log.count, log.chain)
            return
        self.sequence = sequence
        if there and self.chain is None:
            self.chain = log.read(sequence).chain
        for event in log.forward(after=sequence):
            self.sequence, self.chain = event.sequence, event.chain
            yield event


def watch_events(
    waiter: Waiter,
    key: str,
    name: str,
    read: Callable[[], AbstractContextManager[Logged]],
    after: Place | None,
    stop: threading.Event | None = None,
) -> Iterator[Event | ResyncNeeded]:
    """The events of a register after a place in its log (None: those from now on), each once and in order, as they
    come, until `stop` is set; across moves of the store. While the store is not reachable it waits.

    Raises what `read` raises at first; later what it raises of a register that is gone or damaged.
    """
    with read() as state:
        sequence, chain = (state.log.count, state.log.chain) if after is None else after
    positions = {key: Position(name, sequence, chain)}

    def found() -> Iterator[Event | ResyncNeeded]:
        for *_, event in watch_registers(waiter, positions, lambda _key: read(), stop=stop):
            yield event

    return found()


def _none_new() -> Mapping[str, str]:
    return {}


def _no_damage(_key: str, error: SkyholdError) -> None:
    raise error


def watch_registers(
    waiter: Waiter,
    positions: dict[str, Position],
    read: Callable[[str], AbstractContextManager[Logged]],
    named: Callable[[], Mapping[str, str]] = _none_new,
    damaged: Callable[[str, SkyholdError], None] = _no_damage,
    stop: threading.Event | None = None,
) -> Iterator[tuple[str, str, Event | ResyncNeeded]]:
    """As `watch_events`, of several registers, with the key and the name of each. `named` gives the names of all
    registers that there are now, by key, and is called whenever `names` has been read; those that are new are watched
    from their first event on. `damaged` is given the key of a register that cannot be read, and why, and raises to end
    the watch."""
    seen, rung = 0, frozenset[str]()
    while not (stop is not None and stop.is_set()):
        now_s = time.monotonic()
        for key in sorted(rung | {key for key, position in positions.items() if position.due_s <= now_s}):
            position = positions[key]
            position.due_s = _soon(READ_INTERVAL_S)
            events: list[Event | ResyncNeeded] = []
            try:
                with read(key) as state:
                    events += islice(position.news(state), EVENTS_AT_ONCE)
                if len(events) == EVENTS_AT_ONCE:
                    position.due_s = now_s
                if key == NAMES:
                    for other, name in named().items():
                        positions.setdefault(other, Position(name, 0)).name = name
            except SkyholdError as error:
                if error.retryable:
                    position.due_s = _soon(LISTEN_INTERVAL_S)
                else:
                    damaged(key, error)
            for event in events:
                yield key, position.name, event
        until_s = min(position.due_s for position in positions.values())
        seen, rung = waiter.wait({key: item.version for key, item in positions.items()}, seen, until_s, stop)


def position_now(name: str, state: Logged) -> Position:
    """The position of a watch that begins now."""
    return Position(name, state.log.count, state.log.chain, state.register_version, _soon(READ_INTERVAL_S))


def _soon(interval_s: float) -> float:
    """When a register is to be read again, by the monotonic clock; spread, so that not all are read at once."""
    return time.monotonic() + interval_s * (0.9 + 0.2 * random.random())  # noqa: S311
