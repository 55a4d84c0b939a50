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
_ERRORS: Final[dict[int, tuple[type[SkyholdError], str, str, str]]] = {
    sqlite3.SQLITE_CORRUPT: (Corrupt, "registers_damaged", "is damaged", _RECOVER),
    sqlite3.SQLITE_NOTADB: (Corrupt, "registers_damaged", "is damaged, or not an SQLite file", _RECOVER),
    sqlite3.SQLITE_FULL: (QuotaExceeded, "disk_full", "has no space left on its disk", "Free some space"),
    sqlite3.SQLITE_READONLY: (PermissionDenied, "registers_read_only", "cannot be written", _MODE),
    sqlite3.SQLITE_PERM: (PermissionDenied, "registers_not_openable", "may not be used", _MODE),
    sqlite3.SQLITE_CANTOPEN: (PermissionDenied, "registers_not_openable", "cannot be opened", _MODE),
    sqlite3.SQLITE_BUSY: (Unavailable, "registers_locked", "is locked by another process", _LOCKED),
    sqlite3.SQLITE_LOCKED: (Unavailable, "registers_locked", "is locked by another process", _LOCKED),
}


@contextmanager
def translated(path: Path, *, committing: bool = False) -> Iterator[None]:
    """Run SQLite calls on the file `path`, raising our errors for its own.

    A failure that is not in the table had no effect, except while `committing`: SQLite may then have written the
    change or not.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        what = f"Register file {path}"
        if code == sqlite3.SQLITE_IOERR_SHMSIZE:  # the file of the shared memory could not be made larger
            code = sqlite3.SQLITE_FULL
        if code is not None and code & 0xFF in _ERRORS:
            class_, our_code, says, hint = _ERRORS[code & 0xFF]
            raise class_(f"{what} {says}: {error}", code=our_code, hint=hint, path=str(path)) from error
        if committing:
            raise OutcomeUnknown(
                f"{what} failed while a change was written: {error}; it may or may not have taken effect",
                code="register_outcome_unknown",
                hint="Run the command again: a change that took effect is recognised",
                path=str(path),
            ) from error
        raise Unavailable(f"{what} cannot be used: {error}", code="registers_failed", path=str(path)) from error
    except OSError as error:
        class_ = PermissionDenied if isinstance(error, PermissionError) else InvalidInput
        raise class_(
            f"Folder {path.parent} cannot be used: {error.strerror}", code="registers_not_openable", path=str(path)
        ) from error


def format_unknown(path: Path) -> InvalidInput:
    """The error for a file of another program, or of a later Skyhold."""
    return InvalidInput(
        f"File {path} is not a register file that this Skyhold knows; it was left as it is",
        code="registers_format_unknown",
        hint="Upgrade Skyhold, or set the file aside",
        path=str(path),
    )
