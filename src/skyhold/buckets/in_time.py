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
    """A reply whose headers have to come by `end_s`; then each part of its body comes within the limit that the
    connection had on silence, also where a part is made of many (the sizes and trailers of chunks)."""

    def __init__(self, connected: socket.socket, *arguments: Any, end_s: float, **options: Any) -> None:
        super().__init__(connected, *arguments, **options)
        self._silence_s, self._received = connected.gettimeout(), _Received(connected, end_s)
        self.fp.close()
        self.fp = io.BufferedReader(self._received, BUFFER_BYTES)

    def begin(self) -> None:
        try:
            super().begin()
        except (OSError, http.client.HTTPException):
            raise
        except Exception as error:  # of the parser of mail, which reads the headers
            raise http.client.HTTPException("a reply whose headers cannot be read") from error

    def _read_status(self) -> Any:
        """Of the replies that announce another one `http.client` skips 100 only."""
        version, status, reason = super()._read_status()  # type: ignore[misc]
        return version, 100 if 101 < status < 200 else status, reason

    def read1(self, size: int = -1) -> bytes:
        self._received.end_s = None if self._silence_s is None else time.monotonic() + self._silence_s
        return super().read1(size)


def reply_by(end_s: float) -> Any:
    """What `http.client` makes of a reply whose headers have to come by then: the `response_class` of a connection.
    Reading them raises `TimeoutError`."""
    return partial(_Response, end_s=end_s)


def reply_within(limit_s: float, wire: http.client.HTTPConnection) -> http.client.HTTPResponse:
    """The reply to what was sent, once its headers have come. Raises `TimeoutError`, and as `http.client` does."""
    wire.response_class = reply_by(time.monotonic() + limit_s)
    response = wire.getresponse()
    if not _is_framed(response):
        response.close()
        raise http.client.HTTPException("a reply that does not declare where it ends")
    return response


def _is_framed(response: http.client.HTTPResponse) -> bool:
    """Whether the headers declare in one way where the reply ends: `http.client` takes the first of several lengths,
    the end of a connection among the headers for theirs."""
    sizes = response.headers.get_all("content-length", [])
    codings = response.headers.get_all("transfer-encoding", [])
    if response.status < 200 or response.headers.defects or len(sizes) + len(codings) > 1:
        return False
    if sizes:
        size = sizes[0].strip()
        plain = size.isascii() and size.isdigit() and len(size) < 20
        return plain and (response.status != 204 or int(size) == 0)
    return response.chunked or (not codings and (response.status >= 300 or response.status == 204))


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
        if done.done():  # just now, or the attempt raised it
            return done.result()
        raise OutcomeUnknown(
            f"Bucket `{bucket}` did not confirm the conditional put of `{key}` within {deadline_s:g} s",
            hint="Read the object back before you decide",
            bucket=bucket,
            key=key,
        ) from error
