"""What etcd holds of the registers of one epoch of a store: its keys, and the bytes under them. Pure.

    <prefix>/registers/<register>/head          the newest change, and the ids of the operations of all kept ones
    <prefix>/registers/<register>/fence         rewritten by any client that settles an operation; its bytes name it
    <prefix>/changes/<register>/<version>       each kept change; the version as 16 hex digits

64 changes of 17 KiB in one value would leave little of the 1.5 MiB that a request to etcd may have, and would be sent
again with every change. So each has a key of its own, and a change is a transaction of three operations.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from skyhold import error_codes
from skyhold.consensus.operation import Kept
from skyhold.consensus.register import CHANGES_KEPT, VERSION_MAX, RegisterChange, Versioned, check_operation_id
from skyhold.errors import Corrupt, InvalidInput

FORMAT: Final = 1
_FIELDS: Final = frozenset(
    {"format", "version", "data_bytes", "next_configuration_bytes", "operations", "writer", "time"}
)
_REGISTER: Final = re.compile(r"(config|names|(?:repository|document)/[0-9a-f]{32})/(head|fence)")


@dataclass(frozen=True, slots=True)
class Record:
    """The value under a key. `operations` are the ids of the kept changes up to this one, oldest first, without a gap;
    under the key of a change there is just its own. `writer` and `time` (RFC 3339, the writer's clock) are for display
    only and decide nothing."""

    value: Versioned
    operations: tuple[str | None, ...]
    writer: str
    time: str

    @property
    def kept(self) -> Kept:
        """The kept changes, with the data of the last alone (see `without_data`)."""
        *older, own = self.operations
        oldest = self.value.version - len(older)
        stubs = (RegisterChange(Versioned(oldest + place, b""), operation) for place, operation in enumerate(older))
        return (*stubs, RegisterChange(self.value, own))


class EtcdKeys:
    """The keys of one epoch of a store, under `prefix`."""

    def __init__(self, prefix: str) -> None:
        self.registers = f"{prefix}/registers/"
        self._changes = f"{prefix}/changes/"

    def register(self, key: str) -> str:
        """What the keys of head and fence begin with."""
        return f"{self.registers}{key}/"

    def head(self, key: str) -> str:
        return f"{self.register(key)}head"

    def fence(self, key: str) -> str:
        return f"{self.register(key)}fence"

    def change(self, key: str, version: int) -> str:
        return f"{self._changes}{key}/{version:016x}"

    def changes_end(self, key: str) -> str:
        """The first key after those of a register's changes."""
        return end_of(f"{self._changes}{key}/")

    def created(self, names: Sequence[str]) -> list[str]:
        """The registers whose heads are among these keys. A fence alone is no register."""
        found = [_REGISTER.fullmatch(name.removeprefix(self.registers)) for name in names]
        return [match[1] for match in found if match is not None and match[2] == "head"]


def end_of(prefix: str) -> str:
    """The first key after all that begin with `prefix`."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def without_data(kept: Kept) -> Kept:
    """The kept changes as a head contains them: the data of all but the last is under keys of its own, and no operation
    needs it."""
    older = (RegisterChange(Versioned(change.value.version, b""), change.operation_id) for change in kept[:-1])
    return (*older, *kept[-1:])


def encode_record(record: Record) -> bytes:
    """A line of JSON, then the data, then the next configuration of a seal. Raises `InvalidInput` for what a reader
    would refuse."""
    value = _checked(record).value
    header = {
        "format": FORMAT,
        "version": value.version,
        "data_bytes": len(value.data),
        "next_configuration_bytes": None if value.next_configuration is None else len(value.next_configuration),
        "operations": record.operations,
        "writer": record.writer,
        "time": record.time,
    }
    line = json.dumps(header, separators=(",", ":")).encode()
    return line + b"\n" + value.data + (value.next_configuration or b"")


def decode_record(body: bytes, name: str) -> Record:
    """The inverse of `encode_record`. Raises `Corrupt` code `registers_damaged` for other bytes; `name` is the key."""
    try:
        end = body.index(b"\n")
        return _record(json.loads(body[:end]), body[end + 1 :])
    except (ValueError, TypeError, KeyError, RecursionError, InvalidInput) as error:
        raise Corrupt(
            f"The value of key {name} in etcd is damaged, or was written by another program or a later Skyhold",
            code=error_codes.REGISTERS_DAMAGED,
            hint="Upgrade Skyhold, or restore etcd from its snapshot; nothing else may write under this prefix",
            key=name,
        ) from error


def _record(header: object, rest: bytes) -> Record:
    if not isinstance(header, dict) or set(header) != _FIELDS or header["format"] != FORMAT:
        raise ValueError("fields")
    version, data_bytes, operations = header["version"], header["data_bytes"], header["operations"]
    next_bytes, writer, time = header["next_configuration_bytes"], header["writer"], header["time"]
    if not isinstance(writer, str) or not isinstance(time, str):
        raise TypeError("writer")
    if not isinstance(version, int) or not isinstance(data_bytes, int) or not isinstance(next_bytes, int | None):
        raise TypeError("sizes")
    if not isinstance(operations, list) or not all(isinstance(item, str | None) for item in operations):
        raise TypeError("operations")
    if data_bytes < 0 or len(rest) != data_bytes + (next_bytes or 0):
        raise ValueError("lengths")
    value = Versioned(version, rest[:data_bytes], None if next_bytes is None else rest[data_bytes:])
    return _checked(Record(value, tuple(operations), writer, time))


def _checked(record: Record) -> Record:
    """Raise `InvalidInput` unless this can be a record: the bounds of writers and readers alike."""
    version, operations = record.value.version, record.operations
    if type(version) is not int or not 1 <= len(operations) <= min(version, CHANGES_KEPT) or version > VERSION_MAX:
        raise InvalidInput(
            f"Expected a version up to {VERSION_MAX} with 1 to {CHANGES_KEPT} kept changes but got {version!r} with "
            f"{len(operations)}",
            code=error_codes.INVALID_VERSION,
        )
    for operation in operations:
        if operation is not None:
            check_operation_id(operation)
    return record
