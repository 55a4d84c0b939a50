"""`--verbose`: each request to a bucket, on stderr as it ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from skyhold.cli.output import print_stderr, printable

_REQUESTS = logging.getLogger("skyhold.requests")


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print_stderr(printable(record.getMessage()))


@contextmanager
def requests_shown() -> Iterator[None]:
    """Show requests inside the block."""
    lines, level = _Lines(), _REQUESTS.level
    _REQUESTS.addHandler(lines)
    _REQUESTS.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        _REQUESTS.setLevel(level)
        _REQUESTS.removeHandler(lines)
