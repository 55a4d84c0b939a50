"""Two reasons to refuse credentials that are right, and what to do about each: the same for every driver."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from skyhold import error_codes
from skyhold.errors import PermissionDenied

SKEW_S_MAX: Final = 300.0
"""No provider takes requests that are signed earlier or later by more than 5 (Google) to 15 minutes."""


def clock_skew(bucket: str, ours: datetime, theirs: datetime | None, **fields: object) -> PermissionDenied:
    """This machine's clock differs from the provider's, whose time may not be known."""
    compared = f"that of bucket `{bucket}` {_text(theirs)}" if theirs else f"bucket `{bucket}` finds it wrong"
    return PermissionDenied(
        f"This machine's clock shows {_text(ours)}, and {compared}: signatures with a wrong time are refused",
        code=error_codes.CLOCK_SKEW,
        hint="Set the clock (as by `timedatectl set-ntp true`), and run the same command again: it continues",
        bucket=bucket,
        **fields,
    )


def expired(bucket: str, **fields: object) -> PermissionDenied:
    """The credentials were good for some time, which is over."""
    return PermissionDenied(
        f"The credentials for bucket `{bucket}` have expired",
        code=error_codes.CREDENTIALS_EXPIRED,
        hint="Renew them (`aws sso login`, `az login`, a new SAS), and run the same command again: it continues",
        bucket=bucket,
        **fields,
    )


def is_skewed(theirs: datetime | None) -> bool:
    """Whether the provider's clock, as a reply has just shown it, is too far from this machine's."""
    return theirs is not None and abs((datetime.now(UTC) - theirs).total_seconds()) > SKEW_S_MAX


def parsed_date(text: str) -> datetime | None:
    """The time of a reply's Date, or None where it has none that can be read."""
    try:
        found = parsedate_to_datetime(text)
        return found.astimezone(UTC) if found.tzinfo else None
    except (TypeError, ValueError, OverflowError):
        return None


def _text(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
