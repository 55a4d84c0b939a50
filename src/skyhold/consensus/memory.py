"""Registers in a dict: the model of the port, for tests and for stores that live as long as their process."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from skyhold.consensus.register import (
    CHANGES_KEPT,
    EngineRegisters,
    RegisterChange,
    Resync,
    Versioned,
    check_change,
    check_changes,
    check_data,
    check_expected_version,
    check_next_version,
    check_operation_id,
    check_register_key,
    refuse_closed_or_changed,
    register_changed,
)


@dataclass(slots=True)
class _Register:
    """The kept changes, oldest first; the last holds the current value."""

    changes: deque[RegisterChange] = field(default_factory=lambda: deque(maxlen=CHANGES_KEPT))

    @property
    def current(self) -> Versioned:
        return self.changes[-1].value


class MemoryRegisters(EngineRegisters):
    """The in-memory model of the port."""

    def __init__(self) -> None:
        self._registers: dict[str, _Register] = {}
        self._changed = threading.Condition()

    def read(self, key: str) -> Versioned | None:
        check_register_key(key)
        with self._changed:
            return self._current(key)

    def compare_and_set(self, key: str, expected_version: int, data: bytes, operation_id: str) -> Versioned:
        check_change(key, expected_version, data, operation_id)
        with self._changed:
            earlier = self._outcome(key, operation_id)
            if earlier is not None:
                return earlier
            refuse_closed_or_changed(key, expected_version, self._current(key))
            return self._append(key, Versioned(expected_version + 1, bytes(data)), operation_id)

    def outcome(self, key: str, operation_id: str) -> Versioned | None:
        check_register_key(key)
        check_operation_id(operation_id)
        with self._changed:
            return self._outcome(key, operation_id)

    def watch(self, key: str, after_version: int, *, timeout_s: float) -> Sequence[Versioned] | Resync:
        check_register_key(key)
        check_expected_version(after_version)
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while True:
                register = self._registers.get(key)
                if register is not None and register.current.version != after_version:
                    return _after(register, after_version)
                remaining_s = deadline_s - time.monotonic()
                if remaining_s <= 0:
                    return []
                self._changed.wait(remaining_s)

    def changes(self, key: str) -> Sequence[RegisterChange]:
        check_register_key(key)
        with self._changed:
            register = self._registers.get(key)
            return list(register.changes) if register else []

    def list(self, prefix: str = "") -> list[str]:
        with self._changed:
            return sorted(key for key in self._registers if key.startswith(prefix))

    def seal(self, key: str, expected_version: int, next_configuration: bytes) -> Versioned:
        check_register_key(key)
        check_next_version(expected_version)
        check_data(key, next_configuration)
        with self._changed:
            current = self._current(key)
            if current is not None and current.next_configuration == next_configuration:
                return current
            refuse_closed_or_changed(key, expected_version, current)
            data = current.data if current else b""
            return self._append(key, Versioned(expected_version + 1, data, bytes(next_configuration)), None)

    def restore(self, key: str, changes: Sequence[RegisterChange]) -> None:
        check_changes(key, changes)
        with self._changed:
            current = self._current(key)
            if current is None:
                for change in changes:
                    self._append(key, change.value, change.operation_id)
            elif current != changes[-1].value:
                raise register_changed(key, 0, current)

    def close(self) -> None:
        """Nothing to release."""

    def _current(self, key: str) -> Versioned | None:
        register = self._registers.get(key)
        return register.current if register else None

    def _outcome(self, key: str, operation_id: str) -> Versioned | None:
        register = self._registers.get(key)
        changes = register.changes if register else ()
        return next((change.value for change in changes if change.operation_id == operation_id), None)

    def _append(self, key: str, value: Versioned, operation_id: str | None) -> Versioned:
        self._registers.setdefault(key, _Register()).changes.append(RegisterChange(value, operation_id))
        self._changed.notify_all()
        return value


def _after(register: _Register, after_version: int) -> Sequence[Versioned] | Resync:
    changes = [change.value for change in register.changes if change.value.version > after_version]
    if not changes or changes[0].version != after_version + 1:
        return Resync(register.current)
    return changes
