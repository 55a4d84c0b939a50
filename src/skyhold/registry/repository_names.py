"""What the register `names` contains about repositories and their deployments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from skyhold import error_codes
from skyhold.errors import NotFound
from skyhold.registry.names import check_repository_name
from skyhold.storage.canonical import malformed
from skyhold.store.directory import Directory, id_of
from skyhold.store.document import check_document_name


@dataclass(frozen=True, slots=True)
class Deleted:
    """A repository that was deleted and can still be brought back. `wanted` is what its deletion by force broke."""

    repository_id: str
    name: str
    time: str
    wanted: tuple[str, ...] = ()


class RepositoryNames(Directory):
    """One state of the register."""

    __slots__ = ()

    def repositories(self) -> Iterator[tuple[str, str]]:
        """Name and id of every repository, sorted by name."""
        for key, value in self.map.scan("name/"):
            yield key.removeprefix("name/"), id_of(key, value, "repository")

    def deleted(self) -> Iterator[Deleted]:
        """The deleted repositories, by id."""
        for key, value in self.map.scan("deleted/"):
            if not isinstance(value, dict):
                malformed(f"entry {key} of the register of names", "it is not an object")
            if value.get("kind") is None:
                yield Deleted(key.removeprefix("deleted/"), str(value.get("name")), str(value.get("time")))

    def find_deployment(self, name: str) -> tuple[str, str] | None:
        """The ids of the repository and of the deployment of this name, or None."""
        key = f"deployment/{check_document_name('deployment', name)}"
        value = self.map.get(key)
        return None if value is None else (id_of(key, value, "repository"), id_of(key, value, "deployment"))

    def deployments(self) -> Iterator[tuple[str, str, str]]:
        """Name of every deployment, with the ids of its repository and its own, sorted by name."""
        for key, value in self.map.scan("deployment/"):
            yield key.removeprefix("deployment/"), id_of(key, value, "repository"), id_of(key, value, "deployment")

    def find_deleted(self, name: str) -> Deleted:
        """The repository that was deleted last of those that had this name, or the one of this id. Raises `NotFound`
        code `repository_not_deleted`."""
        found = [item for item in self.deleted() if name in {item.name, item.repository_id}]
        if not found:
            raise NotFound(
                f"There is no deleted repository `{name}`",
                code=error_codes.REPOSITORY_NOT_DELETED,
                hint="See `skyhold list --deleted`",
            )
        return max(found, key=lambda item: (item.time, item.repository_id))

    def find(self, name: str) -> str | None:
        """Id of the repository of this name, or None."""
        return self.id_at(f"name/{check_repository_name(name)}", "repository")

    def resolve(self, name: str) -> str:
        """Id of the repository of this name. Raises `NotFound` code `repository_not_found`."""
        repository_id = self.find(name)
        if repository_id is None:
            raise NotFound(
                f"There is no repository `{name}`",
                code=error_codes.REPOSITORY_NOT_FOUND,
                hint="See `skyhold list`, or create it with a push",
                repository=name,
            )
        return repository_id
