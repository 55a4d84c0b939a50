"""Versions that were deleted: by whom, when and why (format.md, 10). Reserved: nothing deletes a version yet."""

from __future__ import annotations

import re
from typing import Final

from skyhold import error_codes
from skyhold.errors import AlreadyExists, InvalidInput, NotFound
from skyhold.storage.canonical import Json
from skyhold.store.event import Origin
from skyhold.store.record import Entries, RecordKind


def _check(id_: str, value: Json) -> None:
    author, time, reason = value.get("author"), value.get("time"), value.get("reason")
    if value.keys() != {"author", "time", "reason"} or not (
        isinstance(author, str) and isinstance(time, str) and isinstance(reason, str)
    ):
        raise InvalidInput(
            f"Expected author, time and reason of deleted/{id_[:10]} but got {value}", code=error_codes.INVALID_RECORD
        )
    Origin(author, time, reason)


def _admit(entries: Entries, id_: str, _before: Json | None, after: Json | None) -> None:
    if after is not None and entries(f"version/{id_}") is not None:
        raise AlreadyExists(
            f"Version {id_[:10]} is in the repository: it cannot be recorded as deleted",
            code=error_codes.VERSION_EXISTS,
            version=id_,
        )


DELETED: Final = RecordKind("deleted", re.compile(r"[0-9a-f]{64}"), _check, _admit)


def version_not_found(digest: str, record: object) -> NotFound:
    """The error for a version that is not in a repository. `record` is what the map has at `deleted/<digest>`, or
    None."""
    if isinstance(record, dict):
        why = f" because: {record['reason']}" if record.get("reason") else ""
        return NotFound(
            f"Version {digest[:10]} was deleted by {record.get('author')} at {record.get('time')}{why}",
            code=error_codes.VERSION_DELETED,
            version=digest,
        )
    return NotFound(
        f"Version {digest[:10]} is not in the repository",
        code=error_codes.VERSION_NOT_FOUND,
        hint="List the versions with `skyhold log`",
        version=digest,
    )
