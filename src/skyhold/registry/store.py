"""`Store`: its repositories, what is found in them and what changes. Module `lifecycle` creates and opens one.

Single methods import what only they need: Python takes half a millisecond to define a dataclass, and every
command waits for the imports of this module.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from skyhold import error_codes
from skyhold.errors import Corrupt, NotFound, Unavailable
from skyhold.registry import validate
from skyhold.registry.names import check_repository_name
from skyhold.registry.reading import repositories_of
from skyhold.registry.repository import Repository
from skyhold.registry.store_members import StoreMembers
from skyhold.registry.views import EventView, RepositoryInfo, SearchHit
from skyhold.storage.policy import Policy, check_possible
from skyhold.store.connection import new_operation_id, pause
from skyhold.store.session import Session, retry_on_reconfiguration
from skyhold.store.unreadable_repositories import read_each

if TYPE_CHECKING:
    import threading

    from skyhold.registry.repositories import Repositories
    from skyhold.store.watching import ResyncNeeded


T = TypeVar("T")


class Store(StoreMembers):
    """A set of buckets that hold the same repositories. A context manager; thread-safe.

    Its methods are synchronous and do not need an event loop; inside a running one call them by `asyncio.to_thread`.
    """

    def repositories(self, *, deleted: bool = False, max_age_s: float | None = None) -> list[RepositoryInfo]:
        """The repositories by name, or those that were deleted and can be brought back. `unread` are those that could
        not be read. `max_age_s` is as in `Repository`."""
        with self._repositories(max_age_s) as (repositories, _):
            names = repositories.read()
            if deleted:
                return [RepositoryInfo(d.name, d.repository_id, deleted=d.time) for d in names.deleted()]
            found, self._connection.unread = read_each(
                names.repositories(),
                lambda name, repository_id: RepositoryInfo.of(name, repositories.repository(repository_id).read()),
                "list",
            )
            return found

    def repository_names(self, *, max_age_s: float | None = None) -> list[str]:
        """The names alone, sorted: nothing of the repositories is read."""
        with self._repositories(max_age_s) as (repositories, _):
            return [name for name, _ in repositories.read().repositories()]

    def create_repository(
        self, name: str, *, policy: Policy | None = None, author: str | None = None, reason: str = ""
    ) -> Repository:
        """Make an empty repository `team/name`. Raises `AlreadyExists`, and `InvalidInput` for a policy that the
        store's buckets cannot meet."""
        name = _repository_name(name)
        chosen = policy or self.configuration.policy
        repository_id, operation_id = secrets.token_hex(16), new_operation_id()
        origin = self._origin(author, reason)

        def create(repositories: Repositories) -> None:
            check_possible(chosen, self.configuration.locations)
            repositories.create(
                name, repository_id, policy=chosen.to_json(), origin=origin, operation_id=operation_id, pause=pause
            )

        self._change(create)
        return Repository(self._connection, repository_id, name)

    def repository(self, name: str, *, create: bool = False) -> Repository:
        """The repository of this name. Raises `NotFound`. Where the names cannot be read now, every method raises the
        error (`Unavailable`, `Corrupt`), except for versions by their full digest.

        With `create` the first push to a missing one creates it, at its end, once the whole version is durable; a
        push that fails leaves no empty repository behind. `create_repository` makes one at once.
        """
        name = _repository_name(name)
        try:
            found = self._find(name)
        except (Corrupt, Unavailable) as error:
            if create:
                raise
            return Repository(self._connection, "", name, unresolved=error)
        if found is not None:
            return Repository(self._connection, found, name, create=create)
        if create:
            return Repository(self._connection, secrets.token_hex(16), name, create=True)
        raise NotFound(
            f"There is no repository `{name}`",
            code=error_codes.REPOSITORY_NOT_FOUND,
            hint="See `skyhold list`, or create it with a push",
            repository=name,
        )

    def rename_repository(self, name: str, new_name: str, *, author: str | None = None, reason: str = "") -> None:
        """Give a repository another name; nothing of it is rewritten."""
        name, new_name = _repository_name(name), _repository_name(new_name)
        origin, operation_id = self._origin(author, reason), new_operation_id()
        self._change(lambda repositories: repositories.rename(name, new_name, origin, operation_id, pause=pause))

    def delete_repository(
        self, name: str, *, force: bool = False, author: str | None = None, reason: str = ""
    ) -> list[str]:
        """Take a repository away; `undelete_repository` brings it back.

        Raises `Conflict` code `repository_wanted` where something follows a ref of it or has pinned a version, unless
        `force`. Returns what that breaks, as text.
        """
        name = _repository_name(name)
        origin, operation_id = self._origin(author, reason), new_operation_id()
        deleted = self._change(
            lambda repositories: repositories.delete(name, origin, operation_id, force=force, pause=pause)
        )
        return list(deleted.wanted)

    def undelete_repository(self, name: str, *, author: str | None = None, reason: str = "") -> None:
        """Bring back the repository of this name that was deleted last, or the one of this id."""
        with repositories_of(self._connection) as (repositories, _):
            last = repositories.read().find_deleted(validate.text(name, "the name"))
        origin, operation_id = self._origin(author, reason), new_operation_id()
        self._change(lambda repositories: repositories.undelete(last.repository_id, origin, operation_id, pause=pause))

    def search(self, query: str, *, max_age_s: float | None = None) -> list[SearchHit]:
        """Versions by name, ref, author, metric or parameter: `name:bert tag:v1* accuracy>0.9 param.lr<=0.01`.
        `unread` are the repositories that could not be read."""
        from skyhold.registry.search import parse_query, search_repositories

        parsed = parse_query(validate.text(query, "the query"))
        with self._repositories(max_age_s) as (repositories, _):
            hits, self._connection.unread = search_repositories(parsed, repositories)
            return [SearchHit.of(hit) for hit in hits]

    def events(
        self, *, since: str | None = None, limit: int | None = None, max_age_s: float | None = None
    ) -> list[EventView]:
        """What changed in the store, newest first by the clocks of the writers: names, configuration,
        repositories and documents, also deleted ones. `since` is a time such as 2026-11-23T20:05:02Z. `unread` are the
        repositories that could not be read."""
        from skyhold.registry.events import events_of_store

        limit = None if limit is None else validate.count(limit, "limit", least=0)
        with self._repositories(max_age_s) as (_, session):
            return list(islice(events_of_store(self._connection, session, validate.time(since, "since")), limit))

    def watch(self, *, stop: threading.Event | None = None) -> Iterator[EventView | ResyncNeeded]:
        """As `Repository.watch`, of the names, all repositories and documents, from now on."""
        from skyhold.registry.events import watch_store

        return watch_store(self._connection, stop)

    @contextmanager
    def _repositories(self, max_age_s: float | None) -> Iterator[tuple[Repositories, Session]]:
        with self._connection.within(validate.age_s(max_age_s)) as connection, repositories_of(connection) as found:
            yield found

    def _find(self, name: str) -> str | None:
        with repositories_of(self._connection) as (repositories, _):
            return repositories.read().find(name)

    def _change(self, change: Callable[[Repositories], T]) -> T:
        def once() -> T:
            with repositories_of(self._connection) as (repositories, _):
                return change(repositories)

        return retry_on_reconfiguration(once)


def _repository_name(name: object) -> str:
    return check_repository_name(validate.text(name, "the name of a repository"))
