"""Times as a user gives them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import click

_AGO: Final = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class TimeType(click.ParamType):  # type: ignore[type-arg]  # generic in the newest Click only
    """`30m`, `12h`, `7d` (ago), or a date or time, in UTC where it names no zone. Converted to the form of events."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from skyhold.store.time import format_time

        text = str(value)
        try:
            if ago := _AGO.fullmatch(text):
                return format_time(datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])}))
            moment = datetime.fromisoformat(text)
            return format_time(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
        except (ValueError, OverflowError):
            self.fail(f"{text!r} is neither a time such as 2026-11-23T20:05:02Z nor an age such as 7d", param, ctx)
