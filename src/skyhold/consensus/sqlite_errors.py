"""SQLite's result codes (https://www.sqlite.org/rescode.html) as our errors, in one table."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from skyhold.errors import (
    Corrupt,
    InvalidInput,
    OutcomeUnknown,
    PermissionDenied,
    QuotaExceeded,
    SkyholdError,
    Unavailable,
)

_RECOVER: Final = (
    "Set the file aside, then run `skyhold recover`, which rebuilds it from the checkpoints in the buckets"
)
_MODE: Final = "Check the owner and mode of the file and its folder"
_LOCKED: Final = "Wait for the other process, or end it"
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT: "is damaged", sqlite3.SQLITE_NOTADB: "is damaged, or not an SQLite file"}
_ERRORS: Final[dict[int, tuple[type[SkyholdError], str, str, str]]] = {
    sqlite3.SQLITE_READONLY: (PermissionDenied, "read_only", "cannot be written", _MODE),
    sqlite3.SQLITE_PERM: (PermissionDenied, "not_openable", "may not be used", _MODE),
    sqlite3.SQLITE_CANTOPEN: (PermissionDenied, "not_openable", "cannot be opened", _MODE),
    sqlite3.SQLITE_BUSY: (Unavailable, "locked", "is locked by another process", _LOCKED),
    sqlite3.SQLITE_LOCKED: (Unavailable, "locked", "is locked by another process", _LOCKED),
}


@contextmanager
def translated(
    path: Path,
    *,
    committing: bool = False,
    what: str = "Register file",
    code: str = "registers",
    damaged: str = _RECOVER,
) -> Iterator[None]:
    """Run SQLite calls on the file `path`, raising our errors for its own.

    A failure that is not in the table had no effect, except while `committing`: SQLite may then have written the
    change or not. Errors speak of the file as `what`, their codes begin with `code`, and `damaged` says what to do
    about a damaged one.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _error(error, path, committing, what, code, damaged) from error
    except OSError as error:
        class_ = PermissionDenied if isinstance(error, PermissionError) else InvalidInput
        raise class_(
            f"Folder {path.parent} cannot be used: {error.strerror}", code=f"{code}_not_openable", path=str(path)
        ) from error


def _error(error: sqlite3.Error, path: Path, committing: bool, what: str, code: str, damaged: str) -> SkyholdError:
    what, place = f"{what} {path}", str(path)
    found = getattr(error, "sqlite_errorcode", None)
    found = None if found is None else found & 0xFF if found != sqlite3.SQLITE_IOERR_SHMSIZE else sqlite3.SQLITE_FULL
    if found in _DAMAGED:
        return Corrupt(f"{what} {_DAMAGED[found]}: {error}", code=f"{code}_damaged", hint=damaged, path=place)
    if found == sqlite3.SQLITE_FULL:
        return QuotaExceeded(
            f"{what} has no space left on its disk: {error}", code="disk_full", hint="Free some space", path=place
        )
    if found in _ERRORS:
        class_, our_code, says, hint = _ERRORS[found]
        return class_(f"{what} {says}: {error}", code=f"{code}_{our_code}", hint=hint, path=place)
    if committing:
        return OutcomeUnknown(
            f"{what} failed while a change was written: {error}; it may or may not have taken effect",
            code="register_outcome_unknown",
            hint="Run the command again: a change that took effect is recognised",
            path=place,
        )
    return Unavailable(f"{what} cannot be used: {error}", code=f"{code}_failed", path=place)


def format_unknown(path: Path) -> InvalidInput:
    """The error for a file of another program, or of a later Skyhold."""
    return InvalidInput(
        f"File {path} is not a register file that this Skyhold knows; it was left as it is",
        code="registers_format_unknown",
        hint="Upgrade Skyhold, or set the file aside",
        path=str(path),
    )
