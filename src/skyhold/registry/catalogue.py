"""The catalogue of a store: the register `names`, which maps names to repository ids (format.md, 10).

It also lists the key of every register before that register exists, so that the set of all registers is known and
closed when gc raises the epoch or the membership changes; and it holds what gc tells everybody (epoch, tombstones).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from skyhold.consensus.no_majority import register_lost
from skyhold.consensus.register import Registers, check_register_key
from skyhold.errors import AlreadyExists, Conflict, InvalidInput, NotFound, SkyholdError, Unavailable
from skyhold.registry.map import Map
from skyhold.registry.names import check_repository_id, check_repository_name
from skyhold.registry.refs import ATTEMPTS_MAX, Pause, RepositoryRegister, no_pause, no_repository
from skyhold.registry.root import register_key
from skyhold.registry.snapshot import Snapshot
from skyhold.registry.time import check_time
from skyhold.storage.blobs import Blobs
from skyhold.storage.canonical import Json, canonical, decode, is_counter, malformed

KEY: Final = "names"
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Deleted:
    """A repository that was deleted and can still be brought back."""

    repository_id: str
    name: str
    time: str


@dataclass(frozen=True, slots=True)
class Names:
    """One state of the catalogue. `version` is that of the register: 0 where it does not exist yet."""

    version: int
    gc_epoch: int
    tombstones: tuple[str, ...]
    map: Map

    def repositories(self) -> Iterator[tuple[str, str]]:
        """Name and id of every repository, sorted by name."""
        for key, value in self.map.scan("name/"):
            yield key.removeprefix("name/"), _repository_id(key, value)

    def deleted(self) -> Iterator[Deleted]:
        """The deleted repositories, by id."""
        for key, value in self.map.scan("deleted/"):
            if not isinstance(value, dict):
                malformed(f"entry {key} of the catalogue", "it is not an object")
            yield Deleted(key.removeprefix("deleted/"), str(value.get("name")), str(value.get("time")))

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
        there |= {item.repository_id for item in self.deleted()}
        return {key: key.removeprefix("repository/") in there for key in self.registers()}

    def find(self, name: str) -> str | None:
        """Id of the repository of this name, or None."""
        key = f"name/{check_repository_name(name)}"
        value = self.map.get(key)
        return None if value is None else _repository_id(key, value)

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
        gc = {"epoch": self.gc_epoch, "tombstones": list(self.tombstones)}
        return canonical({"names": _FORMAT, "gc": gc, "map": self.map.to_json()})

    @classmethod
    def decode(cls, data: bytes, version: int, blobs: Blobs) -> Names:
        """The catalogue in the register's data. Raises `Corrupt`."""
        value = decode(data, "register of names")
        gc = value.get("gc")
        epoch, tombstones = (gc.get("epoch"), gc.get("tombstones")) if isinstance(gc, dict) else (None, None)
        if value.get("names") != _FORMAT or not is_counter(epoch) or not isinstance(tombstones, list):
            malformed("register of names", f"its format is {value.get('names')!r}, or gc's part is missing")
        return cls(version, epoch, tuple(str(name) for name in tombstones), Map.from_json(blobs, value.get("map")))


class Catalogue:
    """Creates, renames, deletes and brings back repositories. Every change takes an `operation_id` of at most 56
    characters, and may be asked for again under the same id."""

    def __init__(self, registers: Registers, blobs: Blobs) -> None:
        self._registers = registers
        self._blobs = blobs

    def read(self) -> Names:
        """The newest state. Raises `Corrupt` code `register_lost` where it is not there although it was created, which
        the registers of repositories show: they are made after it."""
        value = self._registers.read(KEY)
        if value is None:
            if self._registers.list("repository/"):
                raise register_lost(KEY)
            return Names(0, 0, (), Map(self._blobs))
        return Names.decode(value.data, value.version, self._blobs)

    def open(self, name: str) -> RepositoryRegister:
        """The register of the repository of this name. Raises `NotFound`."""
        return self.repository(self.read().resolve(name))

    def repository(self, repository_id: str) -> RepositoryRegister:
        return RepositoryRegister(self._registers, self._blobs, repository_id, self.absent)

    def absent(self, repository_id: str) -> SkyholdError:
        """Why there is no register of this repository: it never was created, or it is lost."""
        key = register_key(repository_id)
        return register_lost(key) if self.read().created().get(key) else no_repository(repository_id)

    def enter(self, key: str, operation_id: str, *, pause: Pause = no_pause) -> Names:
        """List a register's key, before the register is created."""
        check_register_key(key)
        return self._transact(lambda names: names.map.update({f"register/{key}": {}}), operation_id, pause)

    def create(
        self, name: str, repository_id: str, *, policy: Json, operation_id: str, pause: Pause = no_pause
    ) -> Snapshot:
        """Create a repository: its register's key is listed, then the register created, then the name given.

        A crash in between leaves a register without a name. Raises `AlreadyExists` code `repository_exists`.
        """
        check_repository_name(name)
        check_repository_id(repository_id)
        entry = {"repository": repository_id}

        def listed(names: Names) -> Map:
            if names.find(name) not in {None, repository_id}:
                raise _taken(name)
            return names.map.update({f"register/{register_key(repository_id)}": {}})

        def named(names: Names) -> Map:
            if names.find(name) not in {None, repository_id}:
                raise _taken(name)
            return names.map.update({f"name/{name}": entry})

        gc_epoch = self._transact(listed, f"{operation_id}-enter", pause).gc_epoch
        snapshot = self.repository(repository_id).create(policy=policy, gc_epoch=gc_epoch, operation_id=operation_id)
        self._transact(named, f"{operation_id}-name", pause)
        return snapshot

    def rename(self, name: str, new_name: str, operation_id: str, *, pause: Pause = no_pause) -> Names:
        """Give a repository another name; the old one is free from then on."""
        check_repository_name(new_name)
        if new_name == name:
            raise InvalidInput(f"`{name}` is the repository's name already", code="name_unchanged", repository=name)

        def renamed(names: Names) -> Map:
            repository_id = names.resolve(name)
            if names.find(new_name) not in {None, repository_id}:
                raise _taken(new_name)
            return names.map.update({f"name/{name}": None, f"name/{new_name}": {"repository": repository_id}})

        return self._transact(renamed, operation_id, pause)

    def delete(self, name: str, *, time: str, operation_id: str, pause: Pause = no_pause) -> Deleted:
        """Take a repository's name away and refuse further changes; nothing of it is erased, see `undelete`."""
        check_time(time)
        repository_id = self.read().resolve(name)
        self.repository(repository_id).set_deleted(time, operation_id, pause=pause)

        def deleted(names: Names) -> Map:
            if names.find(name) != repository_id:
                raise NotFound(f"There is no repository `{name}` any more", code="repository_not_found")
            return names.map.update({f"name/{name}": None, f"deleted/{repository_id}": {"name": name, "time": time}})

        self._transact(deleted, f"{operation_id}-name", pause)
        return Deleted(repository_id, name, time)

    def undelete(
        self, repository_id: str, operation_id: str, *, name: str | None = None, pause: Pause = no_pause
    ) -> Snapshot:
        """Bring a deleted repository back under its old name, or `name` where that is taken meanwhile.

        Raises `NotFound` code `repository_not_deleted`, `AlreadyExists`.
        """

        def undeleted(names: Names) -> Map:
            entry = names.map.get(f"deleted/{check_repository_id(repository_id)}")
            if not isinstance(entry, dict):
                if any(known == repository_id for _, known in names.repositories()):
                    return names.map  # it has its name back already; its register may not know yet
                raise NotFound(f"There is no deleted repository {repository_id}", code="repository_not_deleted")
            new_name = check_repository_name(name or str(entry.get("name")))
            if names.find(new_name) is not None:
                raise _taken(new_name)
            return names.map.update(
                {f"deleted/{repository_id}": None, f"name/{new_name}": {"repository": repository_id}}
            )

        self._transact(undeleted, f"{operation_id}-name", pause)
        return self.repository(repository_id).set_deleted(None, operation_id, pause=pause)

    def _transact(self, decide: Callable[[Names], Map], operation_id: str, pause: Pause) -> Names:
        for attempt in range(1, ATTEMPTS_MAX + 1):
            if attempt > 1:
                pause(attempt)
            before = self.read()
            try:
                after = replace(before, version=before.version + 1, map=decide(before))
            except (AlreadyExists, NotFound):
                # It may be our own change, made by an attempt whose reply was lost, that now stands in the way.
                done = self._registers.outcome(KEY, operation_id)
                if done is None:
                    raise
                return Names.decode(done.data, done.version, self._blobs)
            if before.version and after.encode() == before.encode():
                # Nothing is left to do, but is what was found acknowledged? An engine settles it, or raises.
                self._registers.outcome(KEY, operation_id)
                return before
            try:
                value = self._registers.compare_and_set(KEY, before.version, after.encode(), operation_id)
            except Conflict as conflict:
                if conflict.code != "register_changed":
                    raise
            else:
                return Names.decode(value.data, value.version, self._blobs)
        raise Unavailable(
            f"The catalogue was changed by others during each of {ATTEMPTS_MAX} attempts; nothing was changed",
            code="register_contended",
            hint="Try again",
        )


def _repository_id(key: str, value: object) -> str:
    repository_id = value.get("repository") if isinstance(value, dict) else None
    if not isinstance(repository_id, str):
        malformed(f"entry {key} of the catalogue", "it names no repository")
    return check_repository_id(repository_id)


def _taken(name: str) -> AlreadyExists:
    return AlreadyExists(
        f"There is a repository `{name}` already", code="repository_exists", hint="Choose another name", repository=name
    )
