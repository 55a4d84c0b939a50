"""The register `names`, the directory of the store: which repository, document or deployment has which name, and which
registers there are (format.md, 10).

It lists the key of every register before that register exists, so that the set of all registers is known and
closed when gc raises the epoch or the membership changes; and it contains what gc reports to all (epoch, tombstones).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, Self, TypeVar

from skyhold import error_codes
from skyhold.consensus.migration import NAMES
from skyhold.consensus.no_majority import register_lost
from skyhold.consensus.register import Registers, check_register_key
from skyhold.errors import InvalidInput, NotFound
from skyhold.storage.blobs import Blobs
from skyhold.storage.canonical import Json, canonical, decode, is_counter, malformed
from skyhold.store.document import check_document_name
from skyhold.store.event import EventLog, Origin, first_chain, is_chain
from skyhold.store.ids import check_id
from skyhold.store.map import Map
from skyhold.store.transaction import Pause, Transactions

_FORMAT: Final = 1
_IDS: Final = ("repository", "document", "id")
"""The fields of the parts of an event that contain an id."""


@dataclass(frozen=True, slots=True)
class Directory:
    """One state of the register. Its version is 0 where it does not exist yet. The layers above read in it what they
    have named (`RepositoryNames`)."""

    register_version: int
    gc_epoch: int
    tombstones: tuple[str, ...]
    log: EventLog

    @classmethod
    def first(cls, blobs: Blobs) -> Self:
        """The state before there are any names."""
        return cls(0, 0, (), EventLog(NAMES, 0, first_chain(NAMES), Map(blobs), blobs))

    @property
    def map(self) -> Map:
        return self.log.map

    def after(
        self, origin: Origin, what: Sequence[Json], entries: Mapping[str, object | None], **fields: object
    ) -> Self:
        """The state after one event with these parts, which sets `entries` of the map (None: deletes) and `fields`."""
        log = self.log.append(origin, what, entries)
        return replace(self, register_version=self.register_version + 1, log=log, **fields)  # type: ignore[arg-type]

    def with_name(
        self, origin: Origin, folder: str, name: str, ids: Mapping[str, str], *, without: str | None = None, **more: str
    ) -> Self:
        """The state in which a name in a folder of the map means these ids, and the old name `without` none any more.
        `more` is in the events alone."""
        entries: dict[str, object | None] = {f"{folder}/{name}": dict(ids)}
        what = [named(name, **ids, **more)]
        if without is not None:
            entries[f"{folder}/{without}"] = None
            what.insert(0, named(without, **dict.fromkeys(ids), **more))
        return self.after(origin, what, entries)

    def id_at(self, key: str, field: str) -> str | None:
        """The id in an entry of the map, or None where there is no such entry."""
        value = self.map.get(key)
        return None if value is None else id_of(key, value, field)

    def documents(self, kind: str | None = None) -> Iterator[tuple[str, str, str]]:
        """Kind, name and id of every document (of a kind), sorted by kind and name."""
        for key, value in self.map.scan("document/" if kind is None else f"document/{kind}/"):
            _, found, name = key.split("/", 2)
            yield found, name, id_of(key, value, "document")

    def deleted_documents(self) -> Iterator[tuple[str, str, str]]:
        """Kind, name and id of every deleted document, by id."""
        for key, value in self.map.scan("deleted/"):
            if isinstance(value, dict) and value.get("kind") is not None:
                yield str(value["kind"]), str(value.get("name")), key.removeprefix("deleted/")

    def find_document(self, kind: str, name: str) -> str | None:
        """Id of the document of this kind and name, or None."""
        return self.id_at(f"document/{kind}/{check_document_name(kind, name)}", "document")

    def registers(self) -> Iterator[str]:
        """The keys of all registers of the store but `names` itself, created or about to be."""
        for key, _ in self.map.scan("register/"):
            yield key.removeprefix("register/")

    def created(self) -> dict[str, bool]:
        """As `registers`, each with whether it is known to have been created: what has or had a name was."""
        there = {id_of(key, value, "repository") for key, value in self.map.scan("name/")}
        there |= {document_id for _, _, document_id in self.documents()}
        there |= {key.removeprefix("deleted/") for key, _ in self.map.scan("deleted/")}
        return {key: key.partition("/")[2] in there for key in self.registers()}

    def entered(self, key: str, origin: Origin) -> Self | None:
        """The state with the key of a register listed; None where it is listed already."""
        entry = f"register/{check_register_key(key)}"
        if self.map.get(entry) is not None:
            return None
        return self.after(origin, [{"kind": "register", "register": key}], {entry: {}})

    def encode(self) -> bytes:
        """Canonical JSON. Raises `InvalidInput` for an epoch that readers would refuse."""
        if not is_counter(self.gc_epoch):
            raise InvalidInput(f"Expected an epoch of gc but got {self.gc_epoch!r}", code=error_codes.COUNTER_USED_UP)
        if not is_counter(self.log.count):
            raise InvalidInput(f"Expected a counter but got {self.log.count!r}", code=error_codes.COUNTER_USED_UP)
        gc = {"epoch": self.gc_epoch, "tombstones": list(self.tombstones)}
        return canonical(
            {
                "names": _FORMAT,
                "gc": gc,
                "events": self.log.count,
                "chain": self.log.chain,
                "map": self.map.to_json(),
            }
        )

    @classmethod
    def decode(cls, data: bytes, version: int, blobs: Blobs) -> Self:
        """The names in the register's data. Raises `Corrupt`."""
        value = decode(data, "register of names")
        gc, events, chain = value.get("gc"), value.get("events"), value.get("chain")
        epoch, tombstones = (gc.get("epoch"), gc.get("tombstones")) if isinstance(gc, dict) else (None, None)
        if value.get("names") != _FORMAT or not is_counter(epoch) or not isinstance(tombstones, list):
            malformed("register of names", f"its format is {value.get('names')!r}, or gc's part is missing")
        if not is_counter(events) or not is_chain(chain):
            malformed("register of names", "the number of its events or their chain is missing or invalid")
        log = EventLog(NAMES, events, chain, Map.from_json(blobs, value.get("map")), blobs)
        return cls(version, epoch, tuple(str(name) for name in tombstones), log)


D = TypeVar("D", bound=Directory)


class DirectoryRegister(Generic[D]):
    """Reads and changes the register, whose states are of the class `state`. Every change takes an `operation_id`, see
    `Transactions`."""

    def __init__(self, registers: Registers, blobs: Blobs, state: type[D]) -> None:
        self._state = state
        self._registers = registers
        self._blobs = blobs
        self._transactions = Transactions(registers, NAMES, "The register of names", self.read, self._decode)

    def read(self) -> D:
        """The newest state. Raises `Corrupt` code `register_lost` where it is not there although it was created, which
        the other registers show: they are made after it."""
        value = self._registers.read(NAMES)
        if value is None:
            if self._registers.list("repository/") or self._registers.list("document/"):
                raise register_lost(NAMES)
            return self._state.first(self._blobs)
        return self._decode(value.version, value.data)

    def change(self, decide: Callable[[D], D | None], operation_id: str, pause: Pause) -> D:
        """As `Transactions.change`."""
        return self._transactions.change(decide, operation_id, pause)

    def id_of(self, find: Callable[[D], str], operation_id: str) -> str:
        """The id that `find` finds; where it finds none any more, that of the change which this operation has made: so
        an operation of several registers can be repeated. Raises what `find` raises."""
        try:
            return find(self.read())
        except NotFound:
            done = self._registers.outcome(NAMES, operation_id)
            if done is None:
                raise
            log = self._decode(done.version, done.data).log
            ids = [part[kind] for part in log.read(log.count).what for kind in _IDS if isinstance(part.get(kind), str)]
            if not ids:
                raise
            return check_id(str(ids[0]))

    def _decode(self, version: int, data: bytes) -> D:
        return self._state.decode(data, version, self._blobs)


def named(name: str, **value: str | None) -> Json:
    """The part of an event that gives a name another meaning: the entry of the map, or nothing (None)."""
    return {"kind": "name", "name": name, **value}


def deletion(id_: str) -> Json:
    """The part of an event by which a repository or document is deleted."""
    return {"kind": "deleted", "id": id_}


def id_of(key: str, value: object, field: str) -> str:
    found = value.get(field) if isinstance(value, dict) else None
    if not isinstance(found, str):
        malformed(f"entry {key} of the register of names", f"it names no {field}")
    return check_id(found)
