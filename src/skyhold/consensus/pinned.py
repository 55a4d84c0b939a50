"""Registers for a change that is right in one epoch alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from skyhold.consensus.epochs import EpochRegisters
from skyhold.consensus.register import Change, Registers, Resync, Versioned
from skyhold.errors import Conflict

MOVED: Final = "membership_changed"


class PinnedRegisters(Registers):
    """The registers of a store, read in whichever epoch it is, and changed in the present one alone.

    Who writes objects to the buckets of an epoch, and then names them in a register, must not do so once other buckets
    count. A change raises `Conflict` code `membership_changed` where that epoch has ended, and has no effect then.
    """

    def __init__(self, epochs: EpochRegisters) -> None:
        self._epochs = epochs
        self._epoch = epochs.current

    def compare_and_set(self, key: str, expected_version: int, data: bytes, operation_id: str) -> Versioned:
        if self._epochs.current is self._epoch:
            try:
                return self._epoch.compare_and_set(key, expected_version, data, operation_id)
            except Conflict as conflict:
                if conflict.code != "register_sealed":
                    raise
        earlier = self._epochs.outcome(key, operation_id)
        if earlier is not None:
            return earlier
        raise Conflict(
            "The buckets of the store were changed while this ran; nothing of it took effect",
            code=MOVED,
            hint="Run the command again: it then writes to the buckets of now, and sends nothing twice",
            key=key,
        )

    def read(self, key: str) -> Versioned | None:
        return self._epochs.read(key)

    def outcome(self, key: str, operation_id: str) -> Versioned | None:
        return self._epochs.outcome(key, operation_id)

    def watch(self, key: str, after_version: int, *, timeout_s: float) -> Sequence[Versioned] | Resync:
        return self._epochs.watch(key, after_version, timeout_s=timeout_s)

    def changes(self, key: str) -> Sequence[Change]:
        return self._epochs.changes(key)

    def list(self, prefix: str = "") -> list[str]:
        return self._epochs.list(prefix)

    def seal(self, key: str, expected_version: int, next_configuration: bytes) -> Versioned:
        return self._epoch.seal(key, expected_version, next_configuration)

    def restore(self, key: str, changes: Sequence[Change]) -> None:
        self._epoch.restore(key, changes)

    def close(self) -> None:
        """Nothing of its own to release."""
