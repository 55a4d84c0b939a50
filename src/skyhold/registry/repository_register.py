"""Changes of a repository's register."""

from __future__ import annotations

from collections.abc import Callable

from skyhold import error_codes
from skyhold.consensus.register import Registers
from skyhold.errors import AlreadyExists, NotFound, SkyholdError
from skyhold.registry.change import RepositoryChange, plan
from skyhold.registry.following import wanted
from skyhold.registry.root import Root, register_key
from skyhold.registry.snapshot import Snapshot
from skyhold.storage.blobs import Blobs
from skyhold.storage.canonical import Json
from skyhold.store.event import Origin
from skyhold.store.logged_state import refuse_wanted
from skyhold.store.transaction import Pause, Transactions, no_pause


class RepositoryRegister:
    """The register of one repository, with the blobs that its root names. Every change takes an `operation_id`, see
    `Transactions`."""

    def __init__(
        self,
        registers: Registers,
        blobs: Blobs,
        repository_id: str,
        absent: Callable[[str], SkyholdError] | None = None,
    ) -> None:
        """`absent` gives the error for a register that is not there: it never existed, or it is lost."""
        self.repository_id = repository_id
        self.key = register_key(repository_id)
        self._registers = registers
        self._blobs = blobs
        self._absent = absent or no_repository
        self._transactions = Transactions(registers, self.key, f"Repository {repository_id}", self.read, self._snapshot)

    def create(self, *, policy: Json, gc_epoch: int, origin: Origin, operation_id: str) -> Snapshot:
        """Create the register. Its key must be entered in `names` before (see `Repositories.create`).

        Raises `AlreadyExists` code `repository_exists`.
        """
        first = created(self.repository_id, self._blobs, policy=policy, gc_epoch=gc_epoch, origin=origin)
        exists = AlreadyExists(f"Repository {self.repository_id} exists already", code=error_codes.REPOSITORY_EXISTS)
        return self._transactions.create(first, operation_id, exists)

    def read(self) -> Snapshot:
        """The newest state. Raises `NotFound` code `repository_not_found`, and `Corrupt` code `register_lost` where the
        repository was created."""
        try:
            version, root = read_root(self._registers, self.repository_id)
        except NotFound:
            raise self._absent(self.repository_id) from None
        return Snapshot(root, version, self._blobs)

    def apply(
        self,
        change: RepositoryChange,
        operation_id: str,
        *,
        pause: Pause = no_pause,
        before: Snapshot | None = None,
    ) -> Snapshot:
        """Make the change, all of it or nothing; returns the state after it. `before` is as in `Transactions.change`.

        A change that conflicts with another one, which moved other refs, is planned again on the newer state. Raises
        what `plan` and `Transactions.change` raise.
        """
        return self._transactions.change(lambda snapshot: plan(snapshot, change), operation_id, pause, before=before)

    def set_policy(self, policy: Json, origin: Origin, operation_id: str, *, pause: Pause = no_pause) -> Snapshot:
        """Replace the repository's policy (already validated)."""

        def changed(snapshot: Snapshot) -> Snapshot | None:
            if policy == snapshot.root.policy:
                return None
            return snapshot.after(origin, [{"kind": "policy", "policy": policy}], {}, policy=policy)

        return self._transactions.change(changed, operation_id, pause)

    def delete(self, origin: Origin, operation_id: str, *, force: bool = False, pause: Pause = no_pause) -> Snapshot:
        """Mark the repository deleted, at the time of `origin`: it refuses every change from then on.

        Raises `Conflict` code `repository_wanted` where something follows a ref of it or has pinned a version, unless
        `force`.
        """

        def deleted(snapshot: Snapshot) -> Snapshot | None:
            if snapshot.root.deleted is not None:
                return None
            if not force:
                refuse_wanted("The repository", wanted(snapshot.map), error_codes.REPOSITORY_WANTED)
            return snapshot.after(origin, [{"kind": "deleted"}], {}, deleted=origin.time)

        return self._transactions.change(deleted, operation_id, pause)

    def undelete(self, origin: Origin, operation_id: str, *, pause: Pause = no_pause) -> Snapshot:
        """Take back the deletion of the repository."""

        def undeleted(snapshot: Snapshot) -> Snapshot | None:
            if snapshot.root.deleted is None:
                return None
            return snapshot.after(origin, [{"kind": "undeleted"}], {}, deleted=None)

        return self._transactions.change(undeleted, operation_id, pause)

    def raise_gc_epoch(self, gc_epoch: int, origin: Origin, operation_id: str, *, pause: Pause = no_pause) -> Snapshot:
        """Raise the epoch to `gc_epoch` (never lower it): changes that began before are refused from now on."""

        def raised(snapshot: Snapshot) -> Snapshot | None:
            if gc_epoch <= snapshot.root.gc_epoch:
                return None
            return snapshot.after(origin, [{"kind": "gc_epoch", "epoch": gc_epoch}], {}, gc_epoch=gc_epoch)

        return self._transactions.change(raised, operation_id, pause)

    def _snapshot(self, version: int, data: bytes) -> Snapshot:
        return Snapshot(Root.decode(data, self.repository_id), version, self._blobs)


def read_root(registers: Registers, repository_id: str) -> tuple[int, Root]:
    """What the register of a repository itself holds, its policy above all, and at which version: nothing is read from
    a bucket for it. Raises `NotFound` code `repository_not_found`."""
    value = registers.read(register_key(repository_id))
    if value is None:
        raise no_repository(repository_id)
    return value.version, Root.decode(value.data, repository_id)


def no_repository(repository_id: str) -> NotFound:
    return NotFound(f"There is no repository {repository_id}", code=error_codes.REPOSITORY_NOT_FOUND)


def created(repository_id: str, blobs: Blobs, *, policy: Json, gc_epoch: int, origin: Origin) -> Snapshot:
    """The first state of a repository, not yet in a register."""
    root = Root.first(repository_id, gc_epoch=gc_epoch, policy=policy)
    return Snapshot(root, 0, blobs).after(origin, [{"kind": "created", "policy": policy}], {})
