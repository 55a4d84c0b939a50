"""The errors of Skyhold: few classes, grouped by what the caller does next.

Every error that leaves a public function is a `SkyholdError`. `code` names the exact failure, is stable, and is what
scripts should match; the class says how to react; `hint` is the next step for the user, as one sentence or command.
Drivers translate the errors of their SDKs in one table each; the original stays reachable as `__cause__`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from skyhold import error_codes


class SkyholdError(Exception):
    """Root of all errors: what failed, on what, and what to do next.

    `fields` holds the machine-readable particulars (JSON values), such as `bucket`, `key`, `repository`.
    """

    code: str = error_codes.ERROR
    retryable: ClassVar[bool] = False
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, code: str | None = None, hint: str | None = None, **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.hint = hint
        self.fields = fields

    def to_json(self) -> dict[str, object]:
        """The error as a JSON object, for `--json` and the HTTP API."""
        return {
            "class": type(self).__name__,
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "retryable": self.retryable,
            "fields": self.fields,
        }


class InvalidInput(SkyholdError):
    """The request itself is wrong: correct it. Nothing was changed."""

    code = error_codes.INVALID_INPUT
    exit_status = 2


class NotFound(SkyholdError):
    """The named thing does not exist (or no longer)."""

    code = error_codes.NOT_FOUND
    exit_status = 3


class AlreadyExists(SkyholdError):
    """The name is taken."""

    code = error_codes.ALREADY_EXISTS
    exit_status = 4


class Conflict(SkyholdError):
    """Another client changed it first; nothing of this change took effect. Read it again, then decide again."""

    code = error_codes.CONFLICT
    exit_status = 5


class PermissionDenied(SkyholdError):
    """Credentials are missing, wrong or not allowed to do this, or a key is wrong."""

    code = error_codes.PERMISSION_DENIED
    exit_status = 6


class QuotaExceeded(SkyholdError):
    """A limit of space, rate or size was reached: free some, raise it, or send less."""

    code = error_codes.QUOTA_EXCEEDED
    exit_status = 7


class Cancelled(SkyholdError):
    """The caller ended it, or its deadline passed. What had no effect by then has none; run it again to continue."""

    code = error_codes.CANCELLED
    exit_status = 130


class Unavailable(SkyholdError):
    """A place cannot be reached or answers with failures now; the operation had no effect and may be tried again."""

    code = error_codes.UNAVAILABLE
    retryable = True
    exit_status = 8


class OutcomeUnknown(SkyholdError):
    """A write was sent and its reply was lost: it may or may not have taken effect. Read back before you decide."""

    code = error_codes.OUTCOME_UNKNOWN
    exit_status = 9


class Corrupt(SkyholdError):
    """Bytes are not what was stored; they were not returned. Verify and repair."""

    code = error_codes.CORRUPT
    exit_status = 10


def reasons_of(errors: Mapping[str, SkyholdError]) -> str:
    """What went wrong with each bucket, by its name; what is the same for several appears once."""
    alike: dict[str, list[str]] = {}
    for name, error in sorted(errors.items()):
        alike.setdefault(error.message.replace(f"`{name}`", "``"), []).append(name)
    parts = []
    for names in alike.values():
        text = errors[names[0]].message
        if len(names) > 1:
            text = text.replace(f" in bucket `{names[0]}`", "").replace(f"Bucket `{names[0]}`", "each")
        parts.append(f"{', '.join(f'`{name}`' for name in names)}: {text}")
    return "; ".join(parts)
