"""The `Registers` port: small documents that are read and compare-and-set linearizably.

A register is what every later promise rests on: one per repository, one for the names, one for the configuration. Its
version is a counter that lives inside the value (1 at creation, one more with each change), never an engine's revision,
so that a store can move from one engine to another. Engines: SQLite on one machine; etcd; Paxos over the buckets.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from skyhold import error_codes
from skyhold.errors import Conflict, InvalidInput
from skyhold.units import KIB

DATA_BYTES_MAX: Final = 17 * KIB
"""A root of 16 KiB and the frame around it."""
CHANGES_KEPT: Final = 64
"""An engine keeps the last changes of a register, with their operation ids: no fewer, and about as many."""
OPERATION_ID_BYTES_MAX: Final = 64
VERSION_MAX: Final = 2**53 - 1
"""What canonical JSON can hold."""

_KEY: Final = re.compile(r"config|names|(?:repository|document)/[0-9a-f]{32}")
_OPERATION_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True)
class Versioned:
    """The value of a register after its change number `version` (from 1).

    A register that was sealed carries the configuration that follows; `data` is then what it held before the seal,
    and is empty where it had never been created.
    """

    version: int
    data: bytes
    next_configuration: bytes | None = None

    @property
    def sealed(self) -> bool:
        return self.next_configuration is not None


@dataclass(frozen=True, slots=True)
class RegisterChange:
    """One change of a register: the value that it set, and the id of its operation (None: a seal, or not known)."""

    value: Versioned
    operation_id: str | None


@dataclass(frozen=True, slots=True)
class Resync:
    """The answer of `watch` where changes in between are no longer kept: continue from `current`."""

    current: Versioned


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a register, perhaps without a majority of its voters.

    `value` was the newest at some moment of the last `age_s` seconds; 0: during the call. Where `age_s` is None its age
    is unknown: it is durable, and there may be newer ones (None: nothing is known to be durable). `undecided` is a
    newer value that was found: it may have taken effect, may still, or never will. `writer` and `time` (RFC 3339, the
    writer's clock) are for display only: who wrote last to where this was found, and when; empty where unknown.
    `silent` are the voters that did not answer.
    """

    value: Versioned | None
    age_s: float | None = 0.0
    undecided: Versioned | None = None
    writer: str = ""
    time: str = ""
    silent: tuple[str, ...] = ()


class Registers(ABC):
    """All registers of one store. Thread-safe.

    Keys are `config`, `names`, `repository/<32 hex>` and `document/<32 hex>`. Every read is linearizable: it sees each
    change that was acknowledged before it began. Common errors of every method: `Unavailable` (no effect; try again),
    `PermissionDenied`, `QuotaExceeded`, `Corrupt`, and `InvalidInput` for a malformed argument.
    """

    @abstractmethod
    def read(self, key: str) -> Versioned | None:
        """The newest value, or None where the register was never created."""

    def read_known(self, key: str, *, max_age_s: float = 0.0) -> Known:  # noqa: ARG002 - an engine may ask less for it
        """A stale read. Returns a value that was the newest within the last `max_age_s` seconds, which may need no
        request; where the register can't be read now, what is known of it, reported with a greater age or none.

        A clock that stops with its machine (a paused virtual one) does not count that time. Engines without remote
        voters answer as `read` does. Raises as `read` where nothing is known.
        """
        return Known(self.read(key))

    @abstractmethod
    def compare_and_set(self, key: str, expected_version: int, data: bytes, operation_id: str) -> Versioned:
        """Replace the data of a register whose version is `expected_version` (0: that does not exist).

        `operation_id` (1 to 64 of `[A-Za-z0-9-]`) names the intent. If an operation of this id has already taken effect
        among the last `CHANGES_KEPT` changes, from any client, its result is returned and nothing is changed: so a
        change whose reply was lost may be sent again as it is.

        Raises `Conflict` code `register_changed` with the field `current_version` (another client changed it),
        `Conflict` code `register_sealed` (load the configuration that follows), `OutcomeUnknown` (it may or may not
        have taken effect: ask `outcome`, or send it again under the same id), and `InvalidInput` code
        `register_data_size` unless the data has 1 to `DATA_BYTES_MAX` bytes. `Unavailable` applies to this call only:
        an earlier one under the same id, whose outcome was unknown, may still take effect.
        """

    @abstractmethod
    def outcome(self, key: str, operation_id: str) -> Versioned | None:
        """What an operation did: the value it set, or None if it is not among the last `CHANGES_KEPT` changes and can
        no longer take effect.

        Whatever is still under way on this register is settled first: when this returns, the newest value that `read`
        gives is as durable as an acknowledged change. Raises `OutcomeUnknown` where that cannot be done now.
        """

    @abstractmethod
    def watch(self, key: str, after_version: int, *, timeout_s: float) -> Sequence[Versioned] | Resync:
        """The changes after `after_version`, in order and without a gap; waits for the first up to `timeout_s`.

        Empty where none came in time. `Resync` where the first of them is no longer kept, or where the register is
        older than `after_version` (it was restored).
        """

    @abstractmethod
    def list(self, prefix: str = "") -> list[str]:
        """The keys of all registers that start with `prefix`, sorted."""

    @abstractmethod
    def close(self) -> None:
        """Release connections. The registers must not be used afterwards."""


class EngineRegisters(Registers):
    """The registers of one epoch in one engine, as a move of the store to another epoch needs them."""

    def configured(self) -> int | None:
        """The version of the register `config`, where a new configuration begins no epoch; else None."""
        return None

    def compare_and_set_in(
        self,
        configured: int | None,  # noqa: ARG002 - an epoch that ends refuses every change
        key: str,
        expected_version: int,
        data: bytes,
        operation_id: str,
    ) -> Versioned:
        """As `compare_and_set`, while `configured` is as it was. Raises `Conflict` code `membership_changed` else."""
        return self.compare_and_set(key, expected_version, data, operation_id)

    @abstractmethod
    def changes(self, key: str) -> Sequence[RegisterChange]:
        """The kept changes, oldest first; the last holds the newest value. Empty where the register was never created.

        This is all that an engine stores of a register, so that `restore` can copy it to another.
        """

    @abstractmethod
    def seal(self, key: str, expected_version: int, next_configuration: bytes) -> Versioned:
        """End a register of this configuration: its data stays readable and never changes again. Counts as a change.

        `next_configuration` (1 to `DATA_BYTES_MAX` bytes) points any client that meets the seal to the next epoch, so
        that any client can finish the change. A register that does not exist (version 0) can be sealed too: it is then
        never created. Sealing again with the same configuration returns the seal. Raises as `compare_and_set`.
        """

    @abstractmethod
    def restore(self, key: str, changes: Sequence[RegisterChange]) -> None:
        """Create a register as it was elsewhere (another engine or epoch, or a checkpoint): with the last of its
        changes, oldest first and without a gap.

        Nothing happens if its newest value is that of the last of them already. Raises `Conflict` code
        `register_changed` if it has another, and `InvalidInput` code `changes_malformed` for a gap or for none.
        """

    def salvaged(self, key: str) -> Sequence[RegisterChange] | None:  # noqa: ARG002 - of most engines nothing can be salvaged
        """The changes with which a damaged register that a recovery has retired continues in the next epoch; None where
        it was not retired. Engines that keep a register in one place only return None."""
        return None

    def is_new(self) -> bool:
        """Whether the register `config` was never created here. Asked before the registers belong to any store, so it
        changes nothing, and does not settle what is under way, as a read may."""
        return self.read("config") is None


def is_register_key(text: str) -> bool:
    """Whether a text is the key of a register."""
    return _KEY.fullmatch(text) is not None


def check_register_key(key: str) -> str:
    """Return `key`, or raise `InvalidInput` for one that is not of the grammar."""
    if not is_register_key(key):
        raise InvalidInput(
            f"Expected a register key (`config`, `names`, `repository/<id>` or `document/<id>`) but got {key!r}",
            code=error_codes.INVALID_REGISTER_KEY,
            key=key,
        )
    return key


def check_change(key: str, expected_version: int, data: bytes, operation_id: str) -> None:
    """Raise `InvalidInput` unless the arguments of `compare_and_set` are well formed."""
    check_register_key(key)
    check_operation_id(operation_id)
    check_next_version(expected_version)
    check_data(key, data)


def check_changes(key: str, changes: Sequence[RegisterChange]) -> None:
    """Raise `InvalidInput` unless the arguments of `restore` are well formed."""
    check_register_key(key)
    versions = [change.value.version for change in changes]
    consecutive = versions == list(range(versions[0], versions[0] + len(versions))) if versions else False
    if not consecutive or versions[0] < 1 or versions[-1] > VERSION_MAX:
        raise InvalidInput(
            f"Expected changes of register {key} one after the other but got versions {versions}",
            code=error_codes.CHANGES_MALFORMED,
            key=key,
        )


def check_operation_id(operation_id: str) -> None:
    if _OPERATION_ID.fullmatch(operation_id) is None:
        raise InvalidInput(
            f"Expected an operation id of 1 to {OPERATION_ID_BYTES_MAX} letters, digits and `-` "
            f"but got {operation_id!r}",
            code=error_codes.INVALID_OPERATION_ID,
        )


def check_expected_version(expected_version: int) -> None:
    if expected_version < 0:
        raise InvalidInput(
            f"Expected a version of at least 0 but got {expected_version}", code=error_codes.INVALID_VERSION
        )


def check_next_version(expected_version: int) -> None:
    """Raise `InvalidInput` unless a change may follow on this version."""
    check_expected_version(expected_version)
    if expected_version >= VERSION_MAX:
        raise InvalidInput(
            f"No change follows on version {expected_version}: it is the greatest there is",
            code=error_codes.INVALID_VERSION,
        )


def check_data(key: str, data: bytes, bytes_max: int = DATA_BYTES_MAX) -> None:
    if not 1 <= len(data) <= bytes_max:
        raise InvalidInput(
            f"Register {key} holds 1 to {bytes_max} bytes but {len(data)} were given",
            code=error_codes.REGISTER_DATA_SIZE,
            key=key,
            size_bytes=len(data),
        )


def refuse_closed_or_changed(key: str, expected_version: int, current: Versioned | None) -> None:
    """Raise `Conflict` unless a register that holds `current` is not sealed, and at the version that is expected."""
    if current is not None and current.sealed:
        raise register_sealed(key, current)
    if (current.version if current else 0) != expected_version:
        raise register_changed(key, expected_version, current)


def register_changed(key: str, expected_version: int, current: Versioned | None) -> Conflict:
    """The error of a change that lost: it names both versions."""
    current_version = current.version if current else 0
    return Conflict(
        f"Register {key} is at version {current_version}, not {expected_version}: another client changed it; "
        "nothing of this change took effect",
        code=error_codes.REGISTER_CHANGED,
        hint="Read it again and decide again",
        key=key,
        expected_version=expected_version,
        current_version=current_version,
    )


def membership_changed(key: str) -> Conflict:
    """The error of a change that is valid with the previous buckets only."""
    return Conflict(
        "The buckets of the store were changed while this ran; nothing of it took effect",
        code=error_codes.MEMBERSHIP_CHANGED,
        hint="Run the command again: it then writes to the present buckets, and sends nothing twice",
        key=key,
    )


def register_sealed(key: str, current: Versioned) -> Conflict:
    """The error of a change that met a seal."""
    return Conflict(
        f"Register {key} is sealed at version {current.version}: the store has moved to another configuration",
        code=error_codes.REGISTER_SEALED,
        hint="Connect to the store again, which loads its new configuration",
        key=key,
        current_version=current.version,
    )
