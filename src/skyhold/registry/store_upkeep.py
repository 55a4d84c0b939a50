"""The upkeep of a store: how it is, and what brings its buckets up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

from skyhold.registry import validate
from skyhold.registry.names import check_repository_name
from skyhold.registry.opened_store import OpenedStore
from skyhold.storage.cancel import Cancel, cancelled_by
from skyhold.storage.progress import Progress

if TYPE_CHECKING:
    from skyhold.registry.status import StoreStatus
    from skyhold.registry.upkeep import RepairPlan, RepairReport
    from skyhold.registry.verification import VerifyReport
    from skyhold.store.health import StoreHealth


class StoreUpkeep(OpenedStore):
    """See the module."""

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
            repository = check_repository_name(validate.text(repository, "the name of a repository"))
        with cancelled_by(validate.cancel(cancel), progress) as watching:
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

        with cancelled_by(validate.cancel(cancel), progress) as watching:
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

        with cancelled_by(validate.cancel(cancel), progress) as watching:
            return (plan_repair if dry_run else repair_store)(self._connection, deep=False, progress=watching)
