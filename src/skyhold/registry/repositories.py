"""The repositories of a store: created, renamed, deleted and undeleted."""

from __future__ import annotations

from skyhold import error_codes
from skyhold.consensus.no_majority import register_lost
from skyhold.consensus.register import Registers
from skyhold.errors import AlreadyExists, InvalidInput, NotFound, SkyholdError
from skyhold.registry.following import wanted
from skyhold.registry.names import check_repository_name
from skyhold.registry.repository_names import Deleted, RepositoryNames
from skyhold.registry.repository_register import RepositoryRegister, no_repository
from skyhold.registry.root import register_key
from skyhold.registry.snapshot import Snapshot
from skyhold.storage.blobs import Blobs
from skyhold.storage.canonical import Json
from skyhold.store.directory import DirectoryRegister, deletion, named
from skyhold.store.event import Origin
from skyhold.store.ids import check_id
from skyhold.store.transaction import Pause, no_pause


class Repositories:
    """Every change takes an `operation_id` of at most 56 characters, and may be repeated under the same id.

    A change of several registers is an event in each; `origin` has a group where these are to be found together."""

    def __init__(self, registers: Registers, blobs: Blobs) -> None:
        self._registers = registers
        self._blobs = blobs
        self._names = DirectoryRegister(registers, blobs, RepositoryNames)

    def read(self) -> RepositoryNames:
        """The newest state of the names. Raises as `DirectoryRegister.read`."""
        return self._names.read()

    def open(self, name: str) -> RepositoryRegister:
        """The register of the repository of this name. Raises `NotFound`."""
        return self.repository(self.read().resolve(name))

    def repository(self, repository_id: str) -> RepositoryRegister:
        return RepositoryRegister(self._registers, self._blobs, repository_id, self.absent)

    def absent(self, repository_id: str) -> SkyholdError:
        """Why there is no register of this repository: it never was created, or it is lost."""
        key = register_key(repository_id)
        return register_lost(key) if self.read().created().get(key) else no_repository(repository_id)

    def create(
        self,
        name: str,
        repository_id: str,
        *,
        policy: Json,
        origin: Origin,
        operation_id: str,
        pause: Pause = no_pause,
    ) -> Snapshot:
        """Create a repository: its register's key is listed, then the register created, then the name given.

        A crash in between leaves a register without a name. Raises `AlreadyExists` code `repository_exists`.
        """
        check_repository_name(name)
        key = register_key(repository_id)

        def listed(names: RepositoryNames) -> RepositoryNames | None:
            if names.find(name) not in {None, repository_id}:
                raise _taken(name)
            return names.entered(key, origin)

        def with_name(names: RepositoryNames) -> RepositoryNames | None:
            found = names.find(name)
            if found not in {None, repository_id}:
                raise _taken(name)
            return None if found else names.with_name(origin, "name", name, {"repository": repository_id})

        gc_epoch = self._names.change(listed, f"{operation_id}-enter", pause).gc_epoch
        snapshot = self.repository(repository_id).create(
            policy=policy, gc_epoch=gc_epoch, origin=origin, operation_id=operation_id
        )
        self._names.change(with_name, f"{operation_id}-name", pause)
        return snapshot

    def rename(
        self, name: str, new_name: str, origin: Origin, operation_id: str, *, pause: Pause = no_pause
    ) -> RepositoryNames:
        """Give a repository another name; the old one is free from then on."""
        check_repository_name(new_name)
        if new_name == name:
            raise InvalidInput(
                f"`{name}` is the repository's name already", code=error_codes.NAME_UNCHANGED, repository=name
            )

        def renamed(names: RepositoryNames) -> RepositoryNames:
            repository_id = names.resolve(name)
            if names.find(new_name) not in {None, repository_id}:
                raise _taken(new_name)
            return names.with_name(origin, "name", new_name, {"repository": repository_id}, without=name)

        return self._names.change(renamed, operation_id, pause)

    def delete(
        self, name: str, origin: Origin, operation_id: str, *, force: bool = False, pause: Pause = no_pause
    ) -> Deleted:
        """Free a repository's name and refuse further changes; nothing is erased, see `undelete`.

        Raises `Conflict` code `repository_wanted` where something still uses it, unless `force`.
        """
        repository_id = self._names.id_of(lambda names: names.resolve(name), f"{operation_id}-name")
        snapshot = self.repository(repository_id).delete(origin, operation_id, force=force, pause=pause)
        time = snapshot.root.deleted or origin.time

        def deleted(names: RepositoryNames) -> RepositoryNames:
            if names.find(name) != repository_id:
                raise NotFound(f"There is no repository `{name}` any more", code=error_codes.REPOSITORY_NOT_FOUND)
            entries = {f"name/{name}": None, f"deleted/{repository_id}": {"name": name, "time": time}}
            return names.after(origin, [named(name, repository=None), deletion(repository_id)], entries)

        self._names.change(deleted, f"{operation_id}-name", pause)
        return Deleted(repository_id, name, time, tuple(wanted(snapshot.map)))

    def undelete(
        self,
        repository_id: str,
        origin: Origin,
        operation_id: str,
        *,
        name: str | None = None,
        pause: Pause = no_pause,
    ) -> Snapshot:
        """Bring a deleted repository back under its old name, or under `name` where the old one is taken.

        Raises `NotFound` code `repository_not_deleted`, `AlreadyExists`.
        """

        def undeleted(names: RepositoryNames) -> RepositoryNames | None:
            entry = names.map.get(f"deleted/{check_id(repository_id)}")
            if not isinstance(entry, dict):
                if any(known == repository_id for _, known in names.repositories()):
                    return None  # it has its name again already; its register may not be undeleted yet
                raise NotFound(
                    f"There is no deleted repository {repository_id}", code=error_codes.REPOSITORY_NOT_DELETED
                )
            new_name = check_repository_name(name or str(entry.get("name")))
            if names.find(new_name) is not None:
                raise _taken(new_name)
            entries = {f"deleted/{repository_id}": None, f"name/{new_name}": {"repository": repository_id}}
            what = [{**deletion(repository_id), "kind": "undeleted"}, named(new_name, repository=repository_id)]
            return names.after(origin, what, entries)

        self._names.change(undeleted, f"{operation_id}-name", pause)
        return self.repository(repository_id).undelete(origin, operation_id, pause=pause)

    def name_deployment(
        self,
        name: str,
        repository_id: str,
        deployment_id: str,
        origin: Origin,
        operation_id: str,
        *,
        pause: Pause = no_pause,
    ) -> RepositoryNames:
        """Give a deployment of a repository a name that no other deployment of the store has. Raises `AlreadyExists`
        code `deployment_exists`."""
        ids = {"repository": check_id(repository_id), "deployment": check_id(deployment_id)}

        def with_name(names: RepositoryNames) -> RepositoryNames | None:
            found = names.find_deployment(name)
            if found is not None and found != (repository_id, deployment_id):
                raise AlreadyExists(
                    f"There is a deployment `{name}` already",
                    code=error_codes.DEPLOYMENT_EXISTS,
                    hint="Choose another name",
                )
            return None if found else names.after(origin, [named(name, **ids)], {f"deployment/{name}": ids})

        return self._names.change(with_name, operation_id, pause)

    def free_deployment(
        self, name: str, deployment_id: str, origin: Origin, operation_id: str, *, pause: Pause = no_pause
    ) -> RepositoryNames:
        """Free the name of a deployment; another may have it from then on. Raises `NotFound` code
        `deployment_not_found` where it is not the name of this one."""

        def without_name(names: RepositoryNames) -> RepositoryNames:
            found = names.find_deployment(name)
            if found is None or found[1] != deployment_id:
                raise NotFound(
                    f"There is no deployment `{name}` of id {deployment_id}",
                    code=error_codes.DEPLOYMENT_NOT_FOUND,
                    name=name,
                )
            part = named(name, repository=None, deployment=None)
            return names.after(origin, [part], {f"deployment/{name}": None})

        return self._names.change(without_name, operation_id, pause)


def _taken(name: str) -> AlreadyExists:
    return AlreadyExists(
        f"There is a repository `{name}` already",
        code=error_codes.REPOSITORY_EXISTS,
        hint="Choose another name",
        repository=name,
    )
