"""The members of a store: its buckets, which of them vote, and the engine of its registers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, cast

from skyhold import error_codes
from skyhold.buckets.location import parse_location
from skyhold.errors import InvalidInput
from skyhold.registry import validate
from skyhold.registry.store_upkeep import StoreUpkeep
from skyhold.storage.policy import Policy, copies_wanted
from skyhold.store.configuration import Role

if TYPE_CHECKING:
    from skyhold.buckets.check import BucketReport
    from skyhold.store.engine_status import EngineStatus
    from skyhold.store.join_plan import JoinPlan
    from skyhold.store.reconfiguring import EngineMove


class StoreMembers(StoreUpkeep):
    """See the module. Which bucket may leave depends on what `status` finds in the others."""

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
    ) -> JoinPlan:
        """Add a bucket (`region`, `provider`, `endpoint`, `credentials`, …), or with `dry_run` only check that it could
        join. It votes unless its `role` is `packs`, or there are seven voters. `sync` copies the content of the store
        to it."""
        from skyhold.store.join_plan import plan_join
        from skyhold.store.reconfiguring import join_bucket

        settings = {key: validate.text(value, f"`{key}`") for key, value in options.items() if value is not None}
        location = parse_location(validate.text(url, "the URL"), name=validate.text(name, "the name"), **settings)  # type: ignore[arg-type]
        plan = plan_join(self._connection, location)
        if not dry_run:
            join_bucket(self._connection, location, self._origin(author, reason), role)
        return plan

    def remove_bucket(
        self, name: str, *others: str, force: bool = False, author: str | None = None, reason: str = ""
    ) -> None:
        """Take a bucket out of the store, or several as one change: remove all buckets that are lost for good together.
        Refused where the others do not hold everything, or where a single copy would be left of objects with several,
        unless `force`."""
        from skyhold.store.reconfiguring import leave_buckets

        leaving = validate.texts((name, *others), "the names of buckets")
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

    def set_roles(self, roles: Mapping[str, Role], *, author: str | None = None, reason: str = "") -> None:
        """Give buckets a vote (`voter`) or take it (`packs`), as one change."""
        from skyhold.store.reconfiguring import change_roles

        wanted = {name: validate.text(role, f"the role of `{name}`") for name, role in validate.pairs(roles, "roles")}
        change_roles(self._connection, cast(dict[str, Role], wanted), self._origin(author, reason))

    def replace_voter(self, name: str, by: str | None = None, *, author: str | None = None, reason: str = "") -> None:
        """Let bucket `by` vote in the place of `name`; or, without one, admit `name` again after it was emptied,
        restored from a backup or exchanged, as a voter whose promises are lost."""
        from skyhold.store import reconfiguring

        name, origin = validate.text(name, "the name"), self._origin(author, reason)
        if by is None:
            reconfiguring.admit_again(self._connection, name, origin)
        else:
            reconfiguring.replace_voter(self._connection, name, validate.text(by, "the name"), origin)

    def engine_status(self) -> EngineStatus:
        """Where the registers live, how each voter answers, and the last decision."""
        from skyhold.store.engine_status import engine_of

        return engine_of(self._connection)

    def move_engine(self, engine: str, *, author: str | None = None, reason: str = "") -> EngineMove:
        """Move the registers to another engine (`sqlite`: this machine; `buckets`; the URL of an etcd cluster), with
        their history."""
        from skyhold.store.reconfiguring import move_engine

        return move_engine(self._connection, validate.text(engine, "the engine"), self._origin(author, reason))

    def check_bucket(self, name: str) -> BucketReport:
        """Test a bucket from this machine: operations, speed, settings."""
        from skyhold.buckets.check import check_bucket

        name = validate.text(name, "the name")
        location = self._connection.reach(self.configuration.bucket(name).location)
        return check_bucket(self._connection.bucket(name), location)

    def _policies(self) -> list[Policy]:
        from skyhold.registry.repositories import Repositories

        with self._connection.session(Policy()) as session:
            repositories = Repositories(session.registers, session.blobs)
            return [
                Policy.from_json(repositories.repository(repository_id).read().root.policy)
                for _, repository_id in repositories.read().repositories()
            ]

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
