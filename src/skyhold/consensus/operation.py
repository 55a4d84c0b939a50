"""What can be done to the value of a register, as pure functions: an engine that agrees on whole values applies them.

A value is the changes that are kept of a register, oldest first; the last holds what the register reads as. It carries
the operation ids with it, so that an operation that is sent again, by any client and through any bucket, is recognised
as one that has taken effect.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from skyhold import error_codes
from skyhold.consensus.register import (
    CHANGES_KEPT,
    RegisterChange,
    Resync,
    Versioned,
    refuse_closed_or_changed,
    register_changed,
)
from skyhold.errors import OutcomeUnknown

Kept = tuple[RegisterChange, ...]
"""The changes that are kept of a register; empty where it was never created."""


@dataclass(frozen=True, slots=True)
class Operation(ABC):
    """One intent on the register `key`. Arguments are well formed; `check_change` and its like have seen to that."""

    key: str

    @property
    def creates(self) -> bool:
        """Whether it is meant for a register that was never created."""
        return False

    @abstractmethod
    def apply(self, kept: Kept, *, repeated: bool) -> tuple[Kept, Versioned | None]:
        """The value after the operation, and its result. `repeated`: an earlier attempt may have taken effect.

        Raises `Conflict` where the register does not allow it, as the method of the port defines.
        """


@dataclass(frozen=True, slots=True)
class CompareAndSet(Operation):
    expected_version: int
    data: bytes
    operation_id: str

    @property
    def creates(self) -> bool:
        return self.expected_version == 0

    def apply(self, kept: Kept, *, repeated: bool) -> tuple[Kept, Versioned | None]:
        earlier = find(kept, self.operation_id)
        if earlier is not None:
            return kept, earlier
        if repeated and kept and kept[0].value.version > self.expected_version + 1:
            raise OutcomeUnknown(
                f"So many other changes of register {self.key} followed that it no longer shows whether the change of "
                f"version {self.expected_version} took effect",
                code=error_codes.OUTCOME_FORGOTTEN,
                hint="Read it, and look into its history",
                key=self.key,
                expected_version=self.expected_version,
            )
        refuse_closed_or_changed(self.key, self.expected_version, newest(kept))
        value = Versioned(self.expected_version + 1, self.data)
        return _appended(kept, RegisterChange(value, self.operation_id)), value


@dataclass(frozen=True, slots=True)
class Seal(Operation):
    expected_version: int
    next_configuration: bytes

    @property
    def creates(self) -> bool:
        return self.expected_version == 0

    def apply(self, kept: Kept, *, repeated: bool) -> tuple[Kept, Versioned | None]:  # noqa: ARG002
        current = newest(kept)
        if current is not None and current.next_configuration == self.next_configuration:
            return kept, current
        refuse_closed_or_changed(self.key, self.expected_version, newest(kept))
        data = current.data if current else b""
        value = Versioned(self.expected_version + 1, data, self.next_configuration)
        return _appended(kept, RegisterChange(value, None)), value


@dataclass(frozen=True, slots=True)
class Restore(Operation):
    changes: Kept

    @property
    def creates(self) -> bool:
        return True

    def apply(self, kept: Kept, *, repeated: bool) -> tuple[Kept, Versioned | None]:  # noqa: ARG002
        current, wanted = newest(kept), self.changes[-1].value
        if current is None:
            return self.changes[-CHANGES_KEPT:], wanted
        if current != wanted:
            raise register_changed(self.key, 0, current)
        return kept, current


@dataclass(frozen=True, slots=True)
class Settle(Operation):
    """Changes nothing: once it is decided, what was under way before has taken effect or never will."""

    def apply(self, kept: Kept, *, repeated: bool) -> tuple[Kept, Versioned | None]:  # noqa: ARG002
        return kept, newest(kept)


def newest(kept: Sequence[RegisterChange]) -> Versioned | None:
    """What a register with these changes reads as."""
    return kept[-1].value if kept else None


def version_of(kept: Kept) -> int:
    """The version of a register with these changes; 0 where it was never created."""
    return kept[-1].value.version if kept else 0


def find(kept: Sequence[RegisterChange], operation_id: str) -> Versioned | None:
    """The value that an operation set, if it is among the kept changes."""
    return next((change.value for change in kept if change.operation_id == operation_id), None)


def after(kept: Sequence[RegisterChange], version: int) -> Sequence[Versioned] | Resync:
    """What `watch` answers at once: the changes after `version`, or `Resync` where one of them is no longer kept."""
    current = newest(kept)
    if current is None or current.version == version:
        return []
    changes = [change.value for change in kept if change.value.version > version]
    if not changes or changes[0].version != version + 1:
        return Resync(current)
    return changes


def _appended(kept: Kept, change: RegisterChange) -> Kept:
    return (*kept, change)[-CHANGES_KEPT:]
