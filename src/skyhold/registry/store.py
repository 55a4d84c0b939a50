"""`Store`, and the four ways to one: `init`, `open`, `connect` and `recover`.

Single methods import what only they need: Python takes half a millisecond to define a dataclass, and every
command waits for the imports of this module.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Literal, TypeVar, cast, overload

from skyhold import error_codes
from skyhold.buckets.location import parse_location
from skyhold.errors import Corrupt, InvalidInput, NotFound, Unavailable
from skyhold.registry import given
from skyhold.registry.names import check_repository_name
from skyhold.registry.reading import repositories_of
from skyhold.registry.repository import Repository
from skyhold.registry.views import EventView, RepositoryInfo, SearchHit
from skyhold.storage.cancel import Cancel, cancelled_by
from skyhold.storage.policy import Policy, check_possible, copies_wanted
from skyhold.storage.progress import Progress
from skyhold.store.configuration import Configuration, Role
from skyhold.store.connection import Connection, new_operation_id, pause
from skyhold.store.event import Origin
from skyhold.store.session import Session, retry_on_reconfiguration
from skyhold.store.unread import UnreadRepository, read_each

if TYPE_CHECKING:
    import threading

    from skyhold.buckets.check import BucketReport
    from skyhold.registry.repositories import Repositories
    from skyhold.registry.status import StoreStatus
    from skyhold.registry.upkeep import RepairPlan, RepairReport
    from skyhold.registry.verification import VerifyReport
    from skyhold.store.engine_status import EngineStatus, StaleRead
    from skyhold.store.health import StoreHealth
    from skyhold.store.joining import Joining
    from skyhold.store.reconfiguring import EngineMove
    from skyhold.store.watching import ResyncNeeded


T = TypeVar("T")


class Store:
    """A set of buckets that hold the same repositories. A context manager; thread-safe.

    Its methods are synchronous and do not need an event loop; inside a running one call them by `asyncio.to_thread`.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self.id!r}, buckets={self.bucket_names!r})"

    def close(self) -> None:
        """Release connections and local files."""
        self._connection.close()

    @property
    def id(self) -> str:
        return self._connection.document.store

    @property
    def sealed(self) -> bool:
        return self._connection.document.sealed

    @property
    def engine(self) -> str:
        """Where the registers live: `sqlite` (one machine), `buckets` or `etcd`."""
        return self._connection.document.engine.kind

    @property
    def unread(self) -> tuple[UnreadRepository, ...]:
        """The repositories that the last look at all of them (`repositories`, `search`, `status`, `verify`, `sync`,
        `repair`) could not read and left out: the register of each is damaged, or a part of its map."""
        return self._connection.unread

    @property
    def configuration(self) -> Configuration:
        return self._connection.configuration

    @property
    def bucket_names(self) -> list[str]:
        return [location.name for location in self.configuration.locations]

    # ---- repositories

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
            last = repositories.read().find_deleted(given.text(name, "the name"))
        origin, operation_id = self._origin(author, reason), new_operation_id()
        self._change(lambda repositories: repositories.undelete(last.repository_id, origin, operation_id, pause=pause))

    def search(self, query: str, *, max_age_s: float | None = None) -> list[SearchHit]:
        """Versions by name, ref, author, metric or parameter: `name:bert tag:v1* accuracy>0.9 param.lr<=0.01`.
        `unread` are the repositories that could not be read."""
        from skyhold.registry.search import parse_query, search_repositories

        parsed = parse_query(given.text(query, "the query"))
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

        limit = None if limit is None else given.count(limit, "limit", least=0)
        with self._repositories(max_age_s) as (_, session):
            return list(islice(events_of_store(self._connection, session, given.time(since, "since")), limit))

    def watch(self, *, stop: threading.Event | None = None) -> Iterator[EventView | ResyncNeeded]:
        """As `Repository.watch`, of the names, all repositories and documents, from now on."""
        from skyhold.registry.events import watch_store

        return watch_store(self._connection, stop)

    # ---- buckets

    def add_bucket(
        self,
        name: str,
        url: str,
        *,
        role: Role | None = None,
        dry_run: bool = False,
        author: str | None = None,
        reason: str = "",
        **options: object,
    ) -> Joining:
        """Add a bucket (`region`, `provider`, `endpoint`, `credentials`, …), or with `dry_run` only check that it could
        join. It votes unless its `role` is `packs`, or there are seven voters. `sync` copies the content of the store
        to it."""
        from skyhold.store.joining import plan_join
        from skyhold.store.reconfiguring import join_bucket

        settings = {key: given.text(value, f"`{key}`") for key, value in options.items() if value is not None}
        location = parse_location(given.text(url, "the URL"), name=given.text(name, "the name"), **settings)  # type: ignore[arg-type]
        joining = plan_join(self._connection, location)
        if not dry_run:
            join_bucket(self._connection, location, self._origin(author, reason), role)
        return joining

    def remove_bucket(
        self, name: str, *others: str, force: bool = False, author: str | None = None, reason: str = ""
    ) -> None:
        """Take a bucket out of the store, or several as one change: remove all buckets that are lost for good together.
        Refused where the others do not hold everything, or where a single copy would be left of objects with several,
        unless `force`."""
        from skyhold.store.reconfiguring import leave_buckets

        leaving = given.texts((name, *others), "the names of buckets")
        if not force:
            staying = [bucket for bucket in self.status().buckets if bucket.name not in leaving]
            lacking = [bucket.name for bucket in staying if bucket.error is not None or bucket.missing]
            if lacking:
                raise InvalidInput(
                    f"Buckets {', '.join(f'`{bucket}`' for bucket in lacking)} do not hold everything; "
                    "nothing was changed",
                    code=error_codes.BUCKET_NEEDED,
                    hint="Run `skyhold sync` first; or, to accept possible losses, use --force",
                )
            self._check_copies(leaving)
        leave_buckets(self._connection, leaving, self._policies, self._origin(author, reason))

    def _policies(self) -> list[Policy]:
        from skyhold.registry.repositories import Repositories

        with self._connection.session(Policy()) as session:
            repositories = Repositories(session.registers, session.blobs)
            return [
                Policy.from_json(repositories.repository(repository_id).read().root.policy)
                for _, repository_id in repositories.read().repositories()
            ]

    def set_roles(self, roles: Mapping[str, Role], *, author: str | None = None, reason: str = "") -> None:
        """Give buckets a vote (`voter`) or take it (`packs`), as one change."""
        from skyhold.store.reconfiguring import change_roles

        wanted = {name: given.text(role, f"the role of `{name}`") for name, role in given.pairs(roles, "roles")}
        change_roles(self._connection, cast(dict[str, Role], wanted), self._origin(author, reason))

    def replace_voter(self, name: str, by: str | None = None, *, author: str | None = None, reason: str = "") -> None:
        """Let bucket `by` vote in the place of `name`; or, without one, admit `name` again after it was emptied,
        restored from a backup or exchanged, as a voter whose promises are lost."""
        from skyhold.store import reconfiguring

        name, origin = given.text(name, "the name"), self._origin(author, reason)
        if by is None:
            reconfiguring.admit_again(self._connection, name, origin)
        else:
            reconfiguring.replace_voter(self._connection, name, given.text(by, "the name"), origin)

    @property
    def stale(self) -> list[StaleRead]:
        """The reads of this store that may be stale (see `open`), of each register the last."""
        from skyhold.store.engine_status import StaleRead

        return [StaleRead.of(key, known) for key, known in sorted(self._connection.stale.items())]

    def engine_status(self) -> EngineStatus:
        """Where the registers live, how each voter answers, and the last decision."""
        from skyhold.store.engine_status import engine_of

        return engine_of(self._connection)

    def move_engine(self, engine: str, *, author: str | None = None, reason: str = "") -> EngineMove:
        """Move the registers to another engine (`sqlite`: this machine; `buckets`; the URL of an etcd cluster), with
        their history."""
        from skyhold.store.reconfiguring import move_engine

        return move_engine(self._connection, given.text(engine, "the engine"), self._origin(author, reason))

    def check_bucket(self, name: str) -> BucketReport:
        """Test a bucket from this machine: operations, speed, settings."""
        from skyhold.buckets.check import check_bucket

        name = given.text(name, "the name")
        location = self._connection.reach(self.configuration.bucket(name).location)
        return check_bucket(self._connection.bucket(name), location)

    # ---- upkeep

    def health(self) -> StoreHealth:
        """Whether every bucket and voter answers, and whether changes can be decided. It costs a few requests for each
        bucket, regardless of the size of the store: a monitor can call it every 15 seconds."""
        from skyhold.store.health import health_of

        return health_of(self._connection)

    def status(self) -> StoreStatus:
        """What every bucket holds and lacks, and how durable each repository is, by listings."""
        from skyhold.registry.status import status_of

        return status_of(self._connection)

    def verify(
        self,
        *,
        deep: bool = False,
        repository: str | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> VerifyReport:
        """Compare every bucket with what it should hold; `deep` reads every byte back."""
        from skyhold.registry.verification import verify_store

        if repository is not None:
            repository = _repository_name(repository)
        with cancelled_by(given.cancel(cancel), progress) as watching:
            return verify_store(self._connection, deep=deep, repository=repository, progress=watching)

    @overload
    def repair(
        self, *, dry_run: Literal[False] = ..., progress: Progress | None = ..., cancel: Cancel | None = ...
    ) -> RepairReport: ...
    @overload
    def repair(
        self, *, dry_run: Literal[True], progress: Progress | None = ..., cancel: Cancel | None = ...
    ) -> RepairPlan: ...
    @overload
    def repair(
        self, *, dry_run: bool, progress: Progress | None = ..., cancel: Cancel | None = ...
    ) -> RepairReport | RepairPlan: ...
    def repair(
        self, *, dry_run: bool = False, progress: Progress | None = None, cancel: Cancel | None = None
    ) -> RepairReport | RepairPlan:
        """Find damage by reading everything back, and mend it from other buckets; with `dry_run` only find it."""
        from skyhold.registry.upkeep import plan_repair, repair_store

        with cancelled_by(given.cancel(cancel), progress) as watching:
            return (plan_repair if dry_run else repair_store)(self._connection, deep=True, progress=watching)

    @overload
    def sync(
        self, *, dry_run: Literal[False] = ..., progress: Progress | None = ..., cancel: Cancel | None = ...
    ) -> RepairReport: ...
    @overload
    def sync(
        self, *, dry_run: Literal[True], progress: Progress | None = ..., cancel: Cancel | None = ...
    ) -> RepairPlan: ...
    @overload
    def sync(
        self, *, dry_run: bool, progress: Progress | None = ..., cancel: Cancel | None = ...
    ) -> RepairReport | RepairPlan: ...
    def sync(
        self, *, dry_run: bool = False, progress: Progress | None = None, cancel: Cancel | None = None
    ) -> RepairReport | RepairPlan:
        """Copy what is missing, by listings; with `dry_run` only find it."""
        from skyhold.registry.upkeep import plan_repair, repair_store

        with cancelled_by(given.cancel(cancel), progress) as watching:
            return (plan_repair if dry_run else repair_store)(self._connection, deep=False, progress=watching)

    def _check_copies(self, leaving: Collection[str]) -> None:
        """Raise `InvalidInput` code `one_copy_left` where versions would be left in one bucket only."""
        staying = [location for location in self.configuration.locations if location.name not in leaving]
        before = copies_wanted(self.configuration.policy, self.configuration.locations)
        if len(staying) == 1 < before:
            raise InvalidInput(
                f"Only `{staying[0].name}` would be left: versions would be durable with one copy instead of {before}, "
                "and lost with that bucket; nothing was changed",
                code=error_codes.ONE_COPY_LEFT,
                hint="Add another bucket first; or, to accept that, use --force",
            )

    def _origin(self, author: str | None, reason: str) -> Origin:
        """The origin of a change of several registers, whose events belong together."""
        by = None if author is None else given.text(author, "the author")
        return self._connection.origin(by, given.text(reason, "the reason", long=True), secrets.token_hex(16))

    @contextmanager
    def _repositories(self, max_age_s: float | None) -> Iterator[tuple[Repositories, Session]]:
        with self._connection.within(given.age_s(max_age_s)) as connection, repositories_of(connection) as found:
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
    return check_repository_name(given.text(name, "the name of a repository"))
