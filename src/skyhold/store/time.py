"""The one form of time in documents: RFC 3339 in UTC with seconds, such as `2026-11-23T20:05:02Z`."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from skyhold import error_codes
from skyhold.errors import InvalidInput

_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"
_TIME: Final = re.compile(r"\d{4}-\d{2}-\d{2}T([01]\d|2[0-3]):\d{2}:\d{2}Z", re.ASCII)


def format_time(moment: datetime) -> str:
    """A moment (with a time zone) as documents write it; parts of a second are dropped."""
    if moment.tzinfo is None:
        raise InvalidInput(f"Expected a time with a time zone but got {moment}", code=error_codes.INVALID_TIME)
    utc = moment.astimezone(UTC)
    return f"{utc.year:04}" + utc.strftime(_FORMAT.removeprefix("%Y"))


def now() -> str:
    """The present moment, as documents write it."""
    return format_time(datetime.now(UTC))


def parse_time(text: str) -> datetime:
    """The moment that a document gives. Raises `InvalidInput`."""
    try:
        moment = datetime.fromisoformat(text) if _TIME.fullmatch(text) else None
    except ValueError:  # of the right form, but no such day or hour
        moment = None
    if moment is None:
        raise InvalidInput(
            f"Expected a time such as 2026-11-23T20:05:02Z but got {text!r}", code=error_codes.INVALID_TIME
        )
    return moment


def check_time(text: str) -> str:
    """Return `text`, or raise `InvalidInput` unless it is a time of this form."""
    parse_time(text)
    return text
