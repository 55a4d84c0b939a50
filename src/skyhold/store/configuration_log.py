"""The history of the store's configuration: which buckets came and went, by whom and why (format.md, 10).

The configuration contains where everything else is, so its history must continue where nothing else can be read. It is
not a map: its newest events are in the register, and the older ones in a chain of blobs that no change needs to read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Final

from skyhold.consensus.migration import CONFIG
from skyhold.errors import SkyholdError
from skyhold.storage.canonical import Json, canonical, decode, is_counter, malformed
from skyhold.store.configuration import Configuration, ConfiguredBucket
from skyhold.store.event import Event, Origin, first_chain, is_chain, next_chain, parse_event, refuse_broken
from skyhold.store.store_document import Engine

RECENT_BYTES_MAX: Final = 4 * 1024
"""Beyond this, all events in the register but the newest go into a blob: the register has 16 KiB for everything."""
_WHAT: Final = "history of the configuration"

Write = Callable[[bytes], str]
"""Stores the body of a blob; returns its name."""
Read = Callable[[str], bytes]


@dataclass(frozen=True, slots=True)
class ConfigurationLog:
    """`recent` are the newest events, oldest first; `earlier` names the blob of those before them."""

    count: int
    chain: str
    recent: tuple[Json, ...] = ()
    earlier: str | None = None

    @classmethod
    def of(cls, configuration: Configuration) -> ConfigurationLog:
        """Raises `Corrupt`."""
        value = configuration.log
        if not value:
            return cls(0, first_chain(CONFIG))
        count, chain, recent, earlier = (value.get(name) for name in ("events", "chain", "recent", "earlier"))
        if not is_counter(count) or not is_chain(chain) or not isinstance(earlier, str | None):
            malformed(_WHAT, "a field has another type")
        if not isinstance(recent, list) or not all(isinstance(event, dict) for event in recent) or len(recent) > count:
            malformed(_WHAT, "its newest events are not a list of events, or are more than it counts")
        return cls(count, chain, tuple(recent), earlier)

    def to_json(self) -> Json:
        return {"events": self.count, "chain": self.chain, "recent": list(self.recent), "earlier": self.earlier}

    def append(self, origin: Origin, what: list[Json], write: Write | None) -> ConfigurationLog:
        """The log with one more event. Where no blob can be written the events stay where they are."""
        event: Json = {"what": what, **origin.to_json()}
        event["chain"] = chain = next_chain(self.chain, event)
        recent, earlier = self.recent, self.earlier
        if write is not None and recent and len(canonical([*recent, event])) > RECENT_BYTES_MAX:
            body = canonical({"events": list(recent), "until": self.count, "earlier": earlier})
            with suppress(SkyholdError):  # the next change tries again
                recent, earlier = (), write(body)
        return ConfigurationLog(self.count + 1, chain, (*recent, event), earlier)

    def backward(self, read: Read) -> Iterator[Event]:
        """All events, newest first. Raises `Corrupt`."""
        sequence, recent, earlier = self.count, list(self.recent), self.earlier
        while True:
            for value in reversed(recent):
                yield parse_event(CONFIG, sequence, value)
                sequence -= 1
            if earlier is None:
                break
            value = decode(read(earlier), _WHAT)
            events, before = value.get("events"), value.get("earlier")
            if value.get("until") != sequence or not isinstance(events, list) or not isinstance(before, str | None):
                malformed(_WHAT, f"the blob for its events up to {sequence} does not contain them")
            recent, earlier = events, before
        if sequence:
            refuse_broken(CONFIG, sequence, "it is missing")

    def blob_names(self, read: Read) -> Iterator[str]:
        """Names of the blobs of older events, newest first."""
        earlier = self.earlier
        while earlier is not None:
            yield earlier
            found = decode(read(earlier), _WHAT).get("earlier")
            earlier = None if found is None else str(found)

    def verify(self, read: Read) -> int:
        """Check the chain over all events; returns their number. Raises `Corrupt` code `history_broken`."""
        chain = first_chain(CONFIG)
        for event in reversed(list(self.backward(read))):
            chain = next_chain(chain, {"what": list(event.what), **event.origin.to_json()})
            if event.chain != chain:
                refuse_broken(CONFIG, event.sequence, "its hash does not follow from the events before it")
        if chain != self.chain:
            refuse_broken(CONFIG, self.count, "the register ends in another hash")
        return self.count


@dataclass(frozen=True, slots=True)
class ConfigurationEvents:
    """The events of the configuration, read like those of other registers. `read_blob` reads a `records` blob."""

    history: ConfigurationLog
    read_blob: Read

    @property
    def count(self) -> int:
        return self.history.count

    @property
    def chain(self) -> str:
        return self.history.chain

    def read(self, sequence: int) -> Event:
        """Raises `Corrupt` code `history_broken` where it is missing."""
        found = next((event for event in self.backward() if event.sequence == sequence), None)
        if found is None:
            refuse_broken(CONFIG, sequence, "it is missing")
        return found

    def forward(self, *, after: int = 0) -> Iterator[Event]:
        """The events with a sequence over `after`, oldest first."""
        newer = takewhile(lambda event: event.sequence > after, self.backward())
        return reversed(list(newer))

    def backward(self) -> Iterator[Event]:
        """All events, newest first."""
        return self.history.backward(self.read_blob)


def logged(
    before: Configuration | None, after: Configuration, engine: Engine, origin: Origin, write: Write | None = None
) -> Configuration:
    """The configuration `after`, with the event that changed `before` into it (None: the store is created)."""
    log = ConfigurationLog.of(before) if before is not None else ConfigurationLog(0, first_chain(CONFIG))
    return replace(after, log=log.append(origin, what_changed(before, after, engine), write).to_json())


def what_changed(before: Configuration | None, after: Configuration, engine: Engine) -> list[Json]:
    """The parts of the event that changes one configuration into another."""
    known = {} if before is None else {bucket.location.name: bucket for bucket in before.buckets}
    now = {bucket.location.name: bucket for bucket in after.buckets}
    what = [_bucket(bucket, founding=before is None) for name, bucket in now.items() if known.get(name) != bucket]
    what += [{"kind": "bucket", "bucket": name, "removed": True} for name in known if name not in now]
    if before is None or before.policy != after.policy:
        what.append({"kind": "policy", "policy": after.policy.to_json()})
    if before is None or before.features != after.features:
        what.append({"kind": "features", **after.features.to_json()})
    return [*what, {"kind": "epoch", "engine": engine.kind, "term": engine.epoch}]


def _bucket(bucket: ConfiguredBucket, *, founding: bool) -> Json:
    """The first event of a store, which names all its buckets, contains no incarnations: there were none before."""
    part: Json = {"kind": "bucket", "bucket": bucket.location.name, "url": bucket.location.url, "role": bucket.role}
    return part if founding else {**part, "incarnation": bucket.incarnation}
