"""Registers for a change that is right in one epoch alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from skyhold import error_codes
from skyhold.consensus.epochs import StoreRegisters
from skyhold.consensus.register import Registers, Resync, Versioned, membership_changed
from skyhold.errors import Conflict


class PinnedRegisters(Registers):
    """The registers of a store, read in whichever epoch it is, and changed in the present one alone.

    A client that writes objects to the buckets of an epoch, and then names them in a register, must not do so once
    other buckets count. A change raises `Conflict` code `membership_changed` where that epoch has ended, or has other
    buckets by now, and has no effect then.
    """

    def __init__(self, epochs: StoreRegisters, changed: Callable[[str, int], None] | None = None) -> None:
        """`changed(key, version)` is called after every change that took effect, as far as is known."""
        self._epochs = epochs
        self._changed = changed
        self._epoch = epochs.current
        self._configured = self._epoch.configured()

    def compare_and_set(self, key: str, expected_version: int, data: bytes, operation_id: str) -> Versioned:
        if self._epochs.current is self._epoch:
            self._epochs.check_writable()
            try:
                value = self._epoch.compare_and_set_in(self._configured, key, expected_version, data, operation_id)
            except Conflict as conflict:
                if conflict.code != error_codes.REGISTER_SEALED:
                    raise
            else:
                if self._changed is not None:
                    self._changed(key, value.version)
                return value
        earlier = self._epochs.outcome(key, operation_id)
        if earlier is not None:
            return earlier
        raise membership_changed(key)

    def read(self, key: str) -> Versioned | None:
        return self._epochs.read(key)

    def outcome(self, key: str, operation_id: str) -> Versioned | None:
        return self._epochs.outcome(key, operation_id)

    def watch(self, key: str, after_version: int, *, timeout_s: float) -> Sequence[Versioned] | Resync:
        return self._epochs.watch(key, after_version, timeout_s=timeout_s)

    def list(self, prefix: str = "") -> list[str]:
        return self._epochs.list(prefix)

    def close(self) -> None:
        """Nothing of its own to release."""
