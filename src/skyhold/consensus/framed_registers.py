"""Registers whose data is framed: authenticated, and sealed where the store is, before any engine sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from skyhold.codec.frame import HEADER_BYTES, MAC_BYTES, FrameKeys, Kind, decode_frame, encode_frame
from skyhold.consensus.register import (
    DATA_BYTES_MAX,
    EngineRegisters,
    Known,
    RegisterChange,
    Resync,
    Versioned,
    check_changes,
    check_data,
    check_register_key,
)

FRAMED_DATA_BYTES_MAX: Final = DATA_BYTES_MAX - HEADER_BYTES - MAC_BYTES
"""What fits into an engine's register whether it compresses or not."""


class FramedRegisters(EngineRegisters):
    """Wraps an engine. Raises `Corrupt` for data that is not an intact frame of its own register.

    Data has at most `FRAMED_DATA_BYTES_MAX` bytes. The configuration in a seal is framed as the data is.
    """

    def __init__(self, registers: EngineRegisters, keys: FrameKeys) -> None:
        self._registers = registers
        self._keys = keys

    @property
    def engine(self) -> EngineRegisters:
        """What is wrapped."""
        return self._registers

    def read(self, key: str) -> Versioned | None:
        value = self._registers.read(key)
        return None if value is None else self._opened(key, value)

    def read_known(self, key: str, *, max_age_s: float = 0.0) -> Known:
        found = self._registers.read_known(key, max_age_s=max_age_s)
        return replace(
            found,
            value=None if found.value is None else self._opened(key, found.value),
            undecided=None if found.undecided is None else self._opened(key, found.undecided),
        )

    def compare_and_set(self, key: str, expected_version: int, data: bytes, operation_id: str) -> Versioned:
        value = self._registers.compare_and_set(key, expected_version, self._framed(key, data), operation_id)
        return self._opened(key, value)

    def configured(self) -> int | None:
        return self._registers.configured()

    def compare_and_set_in(
        self, configured: int | None, key: str, expected_version: int, data: bytes, operation_id: str
    ) -> Versioned:
        framed = self._framed(key, data)
        value = self._registers.compare_and_set_in(configured, key, expected_version, framed, operation_id)
        return self._opened(key, value)

    def outcome(self, key: str, operation_id: str) -> Versioned | None:
        value = self._registers.outcome(key, operation_id)
        return None if value is None else self._opened(key, value)

    def watch(self, key: str, after_version: int, *, timeout_s: float) -> Sequence[Versioned] | Resync:
        changes = self._registers.watch(key, after_version, timeout_s=timeout_s)
        if isinstance(changes, Resync):
            return Resync(self._opened(key, changes.current))
        return [self._opened(key, value) for value in changes]

    def changes(self, key: str) -> Sequence[RegisterChange]:
        return [replace(change, value=self._opened(key, change.value)) for change in self._registers.changes(key)]

    def list(self, prefix: str = "") -> list[str]:
        return self._registers.list(prefix)

    def seal(self, key: str, expected_version: int, next_configuration: bytes) -> Versioned:
        current = self.read(key)
        if current is not None and current.next_configuration == next_configuration:
            # Two frames of one configuration differ, so the engine could not recognise it as the same.
            return current
        sealed = self._registers.seal(key, expected_version, self._framed(key, next_configuration))
        return self._opened(key, sealed)

    def restore(self, key: str, changes: Sequence[RegisterChange]) -> None:
        check_changes(key, changes)
        if self.read(key) == changes[-1].value:
            return
        self._registers.restore(key, [replace(change, value=self._closed(key, change.value)) for change in changes])

    def is_new(self) -> bool:
        return self._registers.is_new()

    def close(self) -> None:
        self._registers.close()

    def _framed(self, key: str, data: bytes) -> bytes:
        check_register_key(key)
        check_data(key, data, FRAMED_DATA_BYTES_MAX)
        return encode_frame(Kind.REGISTER, data, context=f"register/{key}", keys=self._keys)

    def _closed(self, key: str, value: Versioned) -> Versioned:
        next_configuration = value.next_configuration
        return replace(
            value,
            data=self._framed(key, value.data) if value.data else b"",
            next_configuration=self._framed(key, next_configuration) if next_configuration is not None else None,
        )

    def _opened(self, key: str, value: Versioned) -> Versioned:
        next_configuration = value.next_configuration
        return replace(
            value,
            data=self._unframed(key, value.data) if value.data else b"",
            next_configuration=self._unframed(key, next_configuration) if next_configuration is not None else None,
        )

    def _unframed(self, key: str, framed: bytes) -> bytes:
        return decode_frame(framed, kind=Kind.REGISTER, context=f"register/{key}", keys=self._keys)
