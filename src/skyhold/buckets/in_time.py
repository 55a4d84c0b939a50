"""Waits that end in time. The limit of a socket is for each wait alone, so bytes that come one at a time would keep it
from passing: here the headers of a reply have a limit in all, and so has a conditional put."""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

from skyhold.errors import OutcomeUnknown

BUFFER_BYTES: Final = 16 << 10
"""Of what is read of a reply at once where less is asked for: its headers."""


class _Received(io.RawIOBase):
    """What comes from a connection; until `end_s`, where that is set."""

    def __init__(self, connected: socket.socket, end_s: float) -> None:
        self.end_s: float | None = end_s
        self._connected, self._raw = connected, connected.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.end_s is not None:
            left_s = self.end_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("the headers of the reply did not come in time")
            self._connected.settimeout(left_s)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """A reply whose headers have to come by `end_s`; then each wait has the limit that the connection had."""

    def __init__(self, connected: socket.socket, *arguments: Any, end_s: float, **options: Any) -> None:
        super().__init__(connected, *arguments, **options)
        self._connected, self._received = connected, _Received(connected, end_s)
        self.fp.close()
        self.fp = io.BufferedReader(self._received, BUFFER_BYTES)

    def begin(self) -> None:
        silence_s = self._connected.gettimeout()
        super().begin()
        self._received.end_s = None
        self._connected.settimeout(silence_s)


def reply_by(end_s: float) -> Any:
    """What `http.client` makes of a reply whose headers have to come by then: the `response_class` of a connection.
    Reading them raises `TimeoutError`."""
    return partial(_Response, end_s=end_s)


def reply_within(limit_s: float, wire: http.client.HTTPConnection) -> http.client.HTTPResponse:
    """The reply to what was sent, once its headers have come. Raises `TimeoutError`, and as `http.client` does."""
    wire.response_class = reply_by(time.monotonic() + limit_s)
    response = wire.getresponse()
    if response.status < 300 and response.length is None and not response.chunked:
        response.close()  # `http.client` takes the end of a connection among the headers for their end
        raise http.client.IncompleteRead(b"")
    return response


def cut(connected: socket.socket) -> None:
    """End a connection that another thread may wait for; its TLS object is that thread's own."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


def within(deadline_s: float, put: Callable[[], str], bucket: str, key: str) -> str:
    """The result of `put`, the one attempt of a conditional put, or `OutcomeUnknown` once `deadline_s` has passed.

    Nothing else covers a name's resolution or a token's renewal. The attempt is left to a thread, which ends by the
    limits of its waits.
    """
    done: Future[str] = Future()

    def attempt() -> None:
        try:
            done.set_result(put())
        except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
            done.set_exception(error)

    threading.Thread(target=attempt, name=f"conditional put to {bucket}", daemon=True).start()
    try:
        return done.result(timeout=deadline_s)
    except TimeoutError as error:
        if done.done():
            raise
        raise OutcomeUnknown(
            f"Bucket `{bucket}` did not confirm the conditional put of `{key}` within {deadline_s:g} s",
            hint="Read the object back before you decide",
            bucket=bucket,
            key=key,
        ) from error
