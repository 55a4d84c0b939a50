"""SQLite's result codes (https://www.sqlite.org/rescode.html) as our errors, in one table."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from skyhold import error_codes
from skyhold.errors import (
    Corrupt,
    InvalidInput,
    OutcomeUnknown,
    PermissionDenied,
    QuotaExceeded,
    SkyholdError,
    Unavailable,
)


@dataclass(frozen=True, slots=True)
class FileErrors:
    """How the errors of one kind of SQLite file are named: the file as `what`, and the code of each failure.
    `if_damaged` is the hint for a damaged file."""

    what: str
    if_damaged: str
    damaged: str
    failed: str
    locked: str
    not_openable: str
    read_only: str


REGISTER_FILE: Final = FileErrors(
    "Register file",
    "Set the file aside, then run `skyhold recover`, which rebuilds it from the checkpoints in the buckets",
    damaged=error_codes.REGISTERS_DAMAGED,
    failed=error_codes.REGISTERS_FAILED,
    locked=error_codes.REGISTERS_LOCKED,
    not_openable=error_codes.REGISTERS_NOT_OPENABLE,
    read_only=error_codes.REGISTERS_READ_ONLY,
)
_MODE: Final = "Check the owner and mode of the file and its folder"
_LOCKED: Final = "Wait for the other process, or end it"
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT: "is damaged", sqlite3.SQLITE_NOTADB: "is damaged, or not an SQLite file"}
_Failure = tuple[type[SkyholdError], Callable[[FileErrors], str], str, str]
_ERRORS: Final[dict[int, _Failure]] = {
    sqlite3.SQLITE_READONLY: (PermissionDenied, lambda file: file.read_only, "cannot be written", _MODE),
    sqlite3.SQLITE_PERM: (PermissionDenied, lambda file: file.not_openable, "may not be used", _MODE),
    sqlite3.SQLITE_CANTOPEN: (PermissionDenied, lambda file: file.not_openable, "cannot be opened", _MODE),
    sqlite3.SQLITE_BUSY: (Unavailable, lambda file: file.locked, "is locked by another process", _LOCKED),
    sqlite3.SQLITE_LOCKED: (Unavailable, lambda file: file.locked, "is locked by another process", _LOCKED),
}


@contextmanager
def translated(path: Path, file: FileErrors = REGISTER_FILE, *, committing: bool = False) -> Iterator[None]:
    """Run SQLite calls on the file `path`, raising our errors for its own.

    A failure that is not in the table had no effect, except while `committing`: SQLite may then have written the
    change or not.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _error(error, path, file, committing) from error
    except OSError as error:
        class_ = PermissionDenied if isinstance(error, PermissionError) else InvalidInput
        raise class_(
            f"Folder {path.parent} cannot be used: {error.strerror}", code=file.not_openable, path=str(path)
        ) from error


def _error(error: sqlite3.Error, path: Path, file: FileErrors, committing: bool) -> SkyholdError:
    what, place = f"{file.what} {path}", str(path)
    found = getattr(error, "sqlite_errorcode", None)
    found = None if found is None else found & 0xFF if found != sqlite3.SQLITE_IOERR_SHMSIZE else sqlite3.SQLITE_FULL
    if found in _DAMAGED:
        return Corrupt(f"{what} {_DAMAGED[found]}: {error}", code=file.damaged, hint=file.if_damaged, path=place)
    if found == sqlite3.SQLITE_FULL:
        return QuotaExceeded(
            f"{what} has no space left on its disk: {error}",
            code=error_codes.DISK_FULL,
            hint="Free some space",
            path=place,
        )
    if found in _ERRORS:
        class_, code_of, problem, hint = _ERRORS[found]
        return class_(f"{what} {problem}: {error}", code=code_of(file), hint=hint, path=place)
    if committing:
        return OutcomeUnknown(
            f"{what} failed while a change was written: {error}; it may or may not have taken effect",
            code=error_codes.REGISTER_OUTCOME_UNKNOWN,
            hint="Run the command again: a change that took effect is recognised",
            path=place,
        )
    return Unavailable(f"{what} cannot be used: {error}", code=file.failed, path=place)


def format_unknown(path: Path) -> InvalidInput:
    """The error for a file of another program, or of a later Skyhold."""
    return InvalidInput(
        f"File {path} is not a register file that this Skyhold knows; it was left as it is",
        code=error_codes.REGISTERS_FORMAT_UNKNOWN,
        hint="Upgrade Skyhold, or set the file aside",
        path=str(path),
    )
