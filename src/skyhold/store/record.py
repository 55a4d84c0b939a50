"""Typed records: entries in the map of a register whose meaning is defined in a layer above (format.md, 10).

A kind of record checks the values. The planner of a change needs to know no more about it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from skyhold import error_codes
from skyhold.errors import Conflict, InvalidInput, NotFound
from skyhold.storage.canonical import Json, canonical, encode, malformed
from skyhold.store.map import Map

ANY: Final = "any"
UNRECORDED: Final = frozenset(("event", "ref", "version", "attached"))
"""The first parts of those keys in the map of a repository that are not of records."""
RECORD_BYTES_MAX: Final = 2 * 1024
BLOBS_MAX: Final = 8
"""The most blobs of one record: the bodies that are too long for the map."""
_BLOB_NAME: Final = re.compile(r"[0-9a-f]{64}")

Entries = Callable[[str], object | None]
"""The value of a key of the map as it will be after the change, or None."""


def _nothing_more(_entries: Entries, _id: str, _before: Json | None, _after: Json | None) -> None:
    """Admit every value that is right in itself."""


@dataclass(frozen=True, slots=True)
class RecordKind:
    """A kind of record: its keys are `<name>/<id>`.

    `check` raises `InvalidInput` for a value that is wrong in itself. `admit` raises where the change is not to be made
    in this state of the register: from the value before to that after it, None where there is none.
    """

    name: str
    ids: re.Pattern[str]
    check: Callable[[str, Json], None]
    admit: Callable[[Entries, str, Json | None, Json | None], None] = _nothing_more

    def key(self, id_: str) -> str:
        """The key of a record. Raises `InvalidInput` code `invalid_record_id`."""
        if self.ids.fullmatch(id_) is None:
            raise InvalidInput(
                f"Expected the id of a record `{self.name}` but got {id_!r}", code=error_codes.INVALID_RECORD_ID
            )
        return f"{self.name}/{id_}"


@dataclass(frozen=True, slots=True)
class RecordUpdate:
    """Set a record to a value, or delete it (None).

    Bodies of more than 2 KiB are `records` blobs, written before; the value names them in its field `blobs`, an object
    of at most 8 names, and they are kept as long as it. `expected` is the value that the record must have now (None: it
    must not exist), or `ANY`.
    """

    kind: RecordKind
    id: str
    value: Json | None
    expected: Json | str | None = ANY

    @property
    def key(self) -> str:
        return self.kind.key(self.id)

    def __post_init__(self) -> None:
        key = self.key
        if self.value is None:
            return
        size_bytes = len(encode(self.value, f"record {key}"))
        if size_bytes > RECORD_BYTES_MAX:
            raise InvalidInput(
                f"Record {key} has {size_bytes} bytes of at most {RECORD_BYTES_MAX}: a long body belongs in a blob",
                code=error_codes.RECORD_TOO_LARGE,
                record=key,
            )
        if not _are_blobs(self.value.get("blobs", {})):
            raise InvalidInput(
                f"Expected at most {BLOBS_MAX} names of blobs in record {key} but got {self.value['blobs']!r}",
                code=error_codes.INVALID_RECORD,
                record=key,
            )
        self.kind.check(self.id, self.value)


def overlay(map_: Map, entries: Mapping[str, object | None]) -> Entries:
    """The map as it will be with these entries set."""
    return lambda key: entries[key] if key in entries else map_.get(key)


def plan_records(map_: Map, updates: Sequence[RecordUpdate], entries: dict[str, object | None]) -> list[Json]:
    """Enter the updates that change something; returns the parts of the event for them.

    Raises `Conflict` code `record_changed` where a record is not as expected, `NotFound` code `record_not_found` for
    the deletion of one that is not there, and what the kinds raise.
    """
    parts = []
    for update in updates:
        before = record_at(map_.get, update.key)
        if update.expected not in (ANY, before):
            raise Conflict(
                f"Record {update.key} was changed since it was read; nothing was changed",
                code=error_codes.RECORD_CHANGED,
                hint="Read it again, and decide anew",
                record=update.key,
            )
        if update.value is None and before is None:
            raise NotFound(f"There is no record {update.key}", code=error_codes.RECORD_NOT_FOUND, record=update.key)
        if update.value == before:
            continue
        update.kind.admit(overlay(map_, entries), update.id, before, update.value)
        parts.append(set_record(entries, update.key, update.value))
    return parts


def set_record(entries: dict[str, object | None], key: str, value: Json | None, **more: object) -> Json:
    """Enter the value of a record; returns the part of the event for it, which may have `more` fields."""
    entries[key] = value
    return {"kind": "record", "record": key, "sha256": hash_of(value), **more}


def hash_of(value: object | None) -> str | None:
    """The hash by which an event names the value of a record; None where it was deleted."""
    return None if value is None else hashlib.sha256(canonical(value)).hexdigest()


def record_at(entries: Entries, key: str) -> Json | None:
    """The record of this key, or None. Raises `Corrupt` for one that is no object."""
    value = entries(key)
    if not isinstance(value, dict | None):
        malformed(f"record {key}", "it is not an object")
    return value


def records_of(map_: Map, kind: RecordKind) -> Iterator[tuple[str, Json]]:
    """The ids and values of all records of a kind, by id."""
    for key, value in map_.scan(f"{kind.name}/"):
        if not isinstance(value, dict):
            malformed(f"record {key}", "it is not an object")
        yield key.removeprefix(f"{kind.name}/"), value


def blobs_of(key: str, value: object) -> Iterator[str]:
    """Names of the `records` blobs that an entry of a map names: a long event, or a record of any kind, also one that
    this reader does not know."""
    if not isinstance(value, dict):
        return
    kind = key.partition("/")[0]
    if kind == "event":
        if isinstance(what := value.get("what"), dict):
            yield str(what.get("blob"))
    elif kind not in UNRECORDED and isinstance(blobs := value.get("blobs"), dict):
        yield from (str(name) for name in blobs.values())


def _are_blobs(blobs: object) -> bool:
    return (
        isinstance(blobs, dict)
        and len(blobs) <= BLOBS_MAX
        and all(isinstance(name, str) and _BLOB_NAME.fullmatch(name) for name in blobs.values())
    )
