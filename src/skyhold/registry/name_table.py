"""The register `names`: which repository, document or deployment has which name (format.md, 10).

It also lists the key of every register before that register exists, so that the set of all registers is known and
closed when gc raises the epoch or the membership changes; and it contains what gc reports to all (epoch, tombstones).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from skyhold.consensus.carrying import NAMES
from skyhold.consensus.no_majority import register_lost
from skyhold.consensus.register import Registers
from skyhold.errors import InvalidInput, NotFound
from skyhold.registry.document import check_document_name
from skyhold.registry.event import EventLog, Origin, first_chain, is_chain
from skyhold.registry.map import Map
from skyhold.registry.names import check_id, check_repository_name
from skyhold.registry.transaction import Pause, Transactions
from skyhold.storage.blobs import Blobs
from skyhold.storage.canonical import Json, canonical, decode, is_counter, malformed

_FORMAT: Final = 1
_IDS: Final = ("repository", "document", "id")
"""The fields of the parts of an event that contain an id."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """A repository that was deleted and can still be brought back. `wanted` is what its deletion by force broke."""

    repository_id: str
    name: str
    time: str
    wanted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Names:
    """One state of the register. Its version is 0 where it does not exist yet."""

    register_version: int
    gc_epoch: int
    tombstones: tuple[str, ...]
    log: EventLog

    @classmethod
    def first(cls, blobs: Blobs) -> Names:
        """The state before there are any names."""
        return cls(0, 0, (), EventLog(NAMES, 0, first_chain(NAMES), Map(blobs), blobs))

    @property
    def map(self) -> Map:
        return self.log.map

    def after(
        self, origin: Origin, what: Sequence[Json], entries: Mapping[str, object | None], **fields: object
    ) -> Names:
        """The state after one event with these parts, which sets `entries` of the map (None: deletes) and `fields`."""
        log = self.log.append(origin, what, entries)
        return replace(self, register_version=self.register_version + 1, log=log, **fields)  # type: ignore[arg-type]

    def repositories(self) -> Iterator[tuple[str, str]]:
        """Name and id of every repository, sorted by name."""
        for key, value in self.map.scan("name/"):
            yield key.removeprefix("name/"), _id(key, value, "repository")

    def deleted(self) -> Iterator[Deleted]:
        """The deleted repositories, by id."""
        for key, value in self.map.scan("deleted/"):
            if not isinstance(value, dict):
                malformed(f"entry {key} of the register of names", "it is not an object")
            if value.get("kind") is None:
                yield Deleted(key.removeprefix("deleted/"), str(value.get("name")), str(value.get("time")))

    def documents(self, kind: str | None = None) -> Iterator[tuple[str, str, str]]:
        """Kind, name and id of every document (of a kind), sorted by kind and name."""
        for key, value in self.map.scan("document/" if kind is None else f"document/{kind}/"):
            _, found, name = key.split("/", 2)
            yield found, name, _id(key, value, "document")

    def deleted_documents(self) -> Iterator[tuple[str, str, str]]:
        """Kind, name and id of every deleted document, by id."""
        for key, value in self.map.scan("deleted/"):
            if isinstance(value, dict) and value.get("kind") is not None:
                yield str(value["kind"]), str(value.get("name")), key.removeprefix("deleted/")

    def find_document(self, kind: str, name: str) -> str | None:
        """Id of the document of this kind and name, or None."""
        key = f"document/{kind}/{check_document_name(kind, name)}"
        value = self.map.get(key)
        return None if value is None else _id(key, value, "document")

    def find_deployment(self, name: str) -> tuple[str, str] | None:
        """The ids of the repository and of the deployment of this name, or None."""
        key = f"deployment/{check_document_name('deployment', name)}"
        value = self.map.get(key)
        return None if value is None else (_id(key, value, "repository"), _id(key, value, "deployment"))

    def deployments(self) -> Iterator[tuple[str, str, str]]:
        """Name of every deployment, with the ids of its repository and its own, sorted by name."""
        for key, value in self.map.scan("deployment/"):
            yield key.removeprefix("deployment/"), _id(key, value, "repository"), _id(key, value, "deployment")

    def find_deleted(self, name: str) -> Deleted:
        """The repository that was deleted last of those that had this name, or the one of this id. Raises `NotFound`
        code `repository_not_deleted`."""
        found = [item for item in self.deleted() if name in {item.name, item.repository_id}]
        if not found:
            raise NotFound(
                f"There is no deleted repository `{name}`",
                code="repository_not_deleted",
                hint="See `skyhold list --deleted`",
            )
        return max(found, key=lambda item: (item.time, item.repository_id))

    def registers(self) -> Iterator[str]:
        """The keys of all registers of the store but `names` itself, created or about to be."""
        for key, _ in self.map.scan("register/"):
            yield key.removeprefix("register/")

    def created(self) -> dict[str, bool]:
        """As `registers`, each with whether it is known to have been created: what has or had a name was."""
        there = {repository_id for _, repository_id in self.repositories()}
        there |= {document_id for _, _, document_id in self.documents()}
        there |= {key.removeprefix("deleted/") for key, _ in self.map.scan("deleted/")}
        return {key: key.partition("/")[2] in there for key in self.registers()}

    def find(self, name: str) -> str | None:
        """Id of the repository of this name, or None."""
        key = f"name/{check_repository_name(name)}"
        value = self.map.get(key)
        return None if value is None else _id(key, value, "repository")

    def resolve(self, name: str) -> str:
        """Id of the repository of this name. Raises `NotFound` code `repository_not_found`."""
        repository_id = self.find(name)
        if repository_id is None:
            raise NotFound(
                f"There is no repository `{name}`",
                code="repository_not_found",
                hint="See `skyhold list`, or create it with a push",
                repository=name,
            )
        return repository_id

    def encode(self) -> bytes:
        """Canonical JSON. Raises `InvalidInput` for an epoch that readers would refuse."""
        if not is_counter(self.gc_epoch):
            raise InvalidInput(f"Expected an epoch of gc but got {self.gc_epoch!r}", code="counter_used_up")
        if not is_counter(self.log.count):
            raise InvalidInput(f"Expected a counter but got {self.log.count!r}", code="counter_used_up")
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
    def decode(cls, data: bytes, version: int, blobs: Blobs) -> Names:
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


class NamesRegister:
    """Reads and changes the register. Every change takes an `operation_id`, see `Transactions`."""

    def __init__(self, registers: Registers, blobs: Blobs) -> None:
        self._registers = registers
        self._blobs = blobs
        self._transactions = Transactions(registers, NAMES, "The register of names", self.read, self._decode)

    def read(self) -> Names:
        """The newest state. Raises `Corrupt` code `register_lost` where it is not there although it was created, which
        the other registers show: they are made after it."""
        value = self._registers.read(NAMES)
        if value is None:
            if self._registers.list("repository/") or self._registers.list("document/"):
                raise register_lost(NAMES)
            return Names.first(self._blobs)
        return self._decode(value.version, value.data)

    def change(self, decide: Callable[[Names], Names | None], operation_id: str, pause: Pause) -> Names:
        """As `Transactions.change`."""
        return self._transactions.change(decide, operation_id, pause)

    def id_of(self, find: Callable[[Names], str], operation_id: str) -> str:
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

    def _decode(self, version: int, data: bytes) -> Names:
        return Names.decode(data, version, self._blobs)


def named(name: str, **value: str | None) -> Json:
    """The part of an event that gives a name another meaning: the entry of the map, or nothing (None)."""
    return {"kind": "name", "name": name, **value}


def deletion(id_: str) -> Json:
    """The part of an event by which a repository or document is deleted."""
    return {"kind": "deleted", "id": id_}


def _id(key: str, value: object, field: str) -> str:
    found = value.get(field) if isinstance(value, dict) else None
    if not isinstance(found, str):
        malformed(f"entry {key} of the register of names", f"it names no {field}")
    return check_id(found)
