"""Changes of a repository's register: planned on what it holds, and compare-and-set as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from skyhold.consensus.register import Registers
from skyhold.errors import AlreadyExists, Conflict, NotFound, SkyholdError, Unavailable
from skyhold.registry.change import Change, plan
from skyhold.registry.root import Root, register_key
from skyhold.registry.snapshot import Snapshot
from skyhold.storage.blobs import Blobs
from skyhold.storage.canonical import Json

ATTEMPTS_MAX: Final = 16

Pause = Callable[[int], None]
"""Called before attempt number 2, 3, … of a change: where the caller waits, with jitter."""


def no_pause(_attempt: int) -> None:
    """Try again at once."""


class RepositoryRegister:
    """The register of one repository, with the blobs that its root names.

    Every change takes an `operation_id`. A change whose outcome is unknown (`OutcomeUnknown`) may be asked for again
    under the same id: if it had taken effect it is not made twice.
    """

    def __init__(
        self,
        registers: Registers,
        blobs: Blobs,
        repository_id: str,
        absent: Callable[[str], SkyholdError] | None = None,
    ) -> None:
        """`absent` gives the error for a register that is not there: whether it never was, or is lost."""
        self.repository_id = repository_id
        self.key = register_key(repository_id)
        self._registers = registers
        self._blobs = blobs
        self._absent = absent or no_repository

    def create(self, *, policy: Json, gc_epoch: int, operation_id: str) -> Snapshot:
        """Create the register. Its key must be entered in `names` before (see `Catalogue.create`).

        Raises `AlreadyExists` code `repository_exists`.
        """
        root = Root.first(self.repository_id, gc_epoch=gc_epoch, policy=policy)
        try:
            value = self._registers.compare_and_set(self.key, 0, root.encode(), operation_id)
        except Conflict as conflict:
            if conflict.code != "register_changed":
                raise
            raise AlreadyExists(
                f"Repository {self.repository_id} exists already", code="repository_exists"
            ) from conflict
        return self._snapshot(value.version, value.data)

    def read(self) -> Snapshot:
        """The newest state. Raises `NotFound` code `repository_not_found`, and `Corrupt` code `register_lost` where the
        repository was created."""
        try:
            version, root = read_root(self._registers, self.repository_id)
        except NotFound:
            raise self._absent(self.repository_id) from None
        return Snapshot(root, version, self._blobs)

    def apply(self, change: Change, operation_id: str, *, pause: Pause = no_pause) -> Snapshot:
        """Make the change, all of it or nothing; returns the state after it.

        A change that met another one, which moved other refs, is planned again on the newer state, at most
        `ATTEMPTS_MAX` times. Raises what `plan` raises, and `Unavailable` code `register_contended` after that.
        """
        return self._transact(lambda snapshot: plan(snapshot, change), operation_id, pause)

    def set_policy(self, policy: Json, operation_id: str, *, pause: Pause = no_pause) -> Snapshot:
        """Replace the repository's policy (already validated)."""
        return self._transact(lambda snapshot: _with_root(snapshot, policy=policy), operation_id, pause)

    def set_deleted(self, time: str | None, operation_id: str, *, pause: Pause = no_pause) -> Snapshot:
        """Mark the repository deleted at `time`, or (None) as living again. A deleted one refuses every change."""
        return self._transact(lambda snapshot: _with_root(snapshot, deleted=time), operation_id, pause)

    def raise_gc_epoch(self, gc_epoch: int, operation_id: str, *, pause: Pause = no_pause) -> Snapshot:
        """Raise the epoch to `gc_epoch` (never lower it): changes that began before are refused from now on."""

        def raised(snapshot: Snapshot) -> Snapshot | None:
            return _with_root(snapshot, gc_epoch=max(gc_epoch, snapshot.root.gc_epoch))

        return self._transact(raised, operation_id, pause)

    def _transact(self, decide: Callable[[Snapshot], Snapshot | None], operation_id: str, pause: Pause) -> Snapshot:
        for attempt in range(1, ATTEMPTS_MAX + 1):
            if attempt > 1:
                pause(attempt)
            before = self.read()
            try:
                after = decide(before)
            except (AlreadyExists, Conflict, NotFound):
                # It may be our own change, made by an attempt whose reply was lost, that now stands in the way.
                done = self._registers.outcome(self.key, operation_id)
                if done is None:
                    raise
                return self._snapshot(done.version, done.data)
            if after is None:
                # Nothing is left to do, but is what was found acknowledged? An engine settles it, or raises.
                self._registers.outcome(self.key, operation_id)
                return before
            try:
                value = self._registers.compare_and_set(
                    self.key, before.register_version, after.root.encode(), operation_id
                )
            except Conflict as conflict:
                if conflict.code != "register_changed":
                    raise
            else:
                return self._snapshot(value.version, value.data)
        raise Unavailable(
            f"Repository {self.repository_id} was changed by others during each of {ATTEMPTS_MAX} attempts; "
            "nothing of this change took effect",
            code="register_contended",
            hint="Try again",
        )

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
    return NotFound(f"There is no repository {repository_id}", code="repository_not_found")


def _with_root(snapshot: Snapshot, **fields: object) -> Snapshot | None:
    root = replace(snapshot.root, **fields)  # type: ignore[arg-type]
    if root == snapshot.root:
        return None
    return Snapshot(root, snapshot.register_version + 1, snapshot.blobs, snapshot.map)
