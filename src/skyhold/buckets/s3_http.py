"""One signed request to one S3 endpoint, and its reply, on the standard library's `http.client`.

Why neither obstore nor boto3: `docs/decisions/023-s3-over-http-client.md`. Here is what both lack: nothing of a reply
is taken in before its size is known to be right, no redirect is followed, each wait has a limit and each reply a pace,
and a request that was never sent is distinguished from one whose reply was lost.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
import weakref
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from skyhold import error_codes
from skyhold.buckets.bounded import Pace
from skyhold.buckets.in_time import cut, reply_by, reply_within
from skyhold.buckets.retry import RetryPolicy
from skyhold.buckets.s3_signing import Keys, path_of, query_of, signed_headers
from skyhold.errors import InvalidInput
from skyhold.units import Buffer

BLOCK_BYTES: Final = 256 << 10
"""What is sent or received at a time, each within the limit on silence."""
CONNECTIONS_KEPT: Final = 64
EMPTY_SHA256: Final = sha256(b"").hexdigest()
USER_AGENT: Final = "skyhold"


class NoReply(Exception):
    """No whole reply came. `sent`: the request may have been; else it was not, and nothing was done."""

    def __init__(self, reason: str, *, sent: bool, late: bool = False) -> None:
        super().__init__(reason)
        self.sent, self.late = sent, late


class Closed(NoReply):
    """The bucket was closed, here and by us."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__("the bucket was closed", sent=sent)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a bucket is: `url` is its own, with the bucket in its host or path."""

    url: str
    region: str
    tls: ssl.SSLContext | None


class Reply:
    """A reply whose headers have come. Its body is taken by `body` or `take`; `close` gives up what is left of it."""

    def __init__(self, wires: Wires, wire: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self.status: Final = response.status
        self.headers: Final = {name.lower(): value for name, value in response.headers.items()}
        self._wires, self._wire, self._response = wires, wire, response
        self._broken = False

    @property
    def announced_bytes(self) -> int | None:
        """How many bytes of the body are still to come, or None where the reply does not announce it."""
        return self._response.length

    def take(self, size_bytes: int, pace: Pace) -> Iterator[bytes]:
        """The next `size_bytes` of the body as they come; fewer where it ends. Raises `NoReply`, and as `pace`."""
        left_bytes = size_bytes
        try:
            while left_bytes > 0 and (part := pace.take(partial(self._response.read1, min(left_bytes, BLOCK_BYTES)))):
                left_bytes -= len(part)
                yield part
        except (OSError, http.client.HTTPException, ValueError) as error:  # the last for the size of a chunk
            self._wire.close()  # what else may come of it is no reply to another request
            self._broken = True
            raise _no_reply(error) from error

    def close(self) -> None:
        """Keep the connection for the next request where the reply was taken whole, else end it."""
        whole = not self._broken and (self._response.isclosed() or self._response.length == 0)
        self._response.close()
        if whole and not self._response.will_close:
            self._wires.keep(self._wire)
        else:
            self._wire.close()

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class Wires:
    """The connections to one endpoint. Safe for many threads at once."""

    def __init__(self, endpoint: Endpoint, policy: RetryPolicy) -> None:
        self._endpoint, self._policy = endpoint, policy
        self._parts = urlsplit(endpoint.url)
        self._proxy = _proxy_of(self._parts)
        self._idle: list[http.client.HTTPConnection] = []
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock = threading.RLock()  # a reply that is collected while it is held gives back its connection
        self._closed = False

    def exchange(
        self,
        method: str,
        keys: Keys,
        *,
        path: str = "",
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Buffer = b"",
        limit_s: float | None = None,
    ) -> Reply:
        """Send one request, on the wire once, and return the reply when its headers have come. `path` is below the
        bucket's own; with a `body` goes its `x-amz-content-sha256`. Both sending and the wait for the reply may take
        `limit_s`, or what the policy has for the body's size. Raises `NoReply`."""
        view = memoryview(body).cast("B")
        target, asked = path_of(self._parts.path + path) or "/", query_of(query or {})
        given = {"host": self._parts.netloc, "x-amz-content-sha256": EMPTY_SHA256, **(headers or {})}
        signed = signed_headers(method, target, asked, given, keys, self._endpoint.region, datetime.now(UTC))
        signed |= {"accept-encoding": "identity", "user-agent": USER_AGENT}
        if method == "PUT":
            signed["content-length"] = str(len(view))
        if self._proxy and self._endpoint.tls is None:
            target = f"http://{self._parts.netloc}{target}"
            signed |= _proxy_headers(self._proxy)
        wire = self._take_wire()
        connected = wire.sock  # the wire forgets it where the reply is the last one
        try:
            limit_s = limit_s or self._policy.upload_timeout_s(len(view))
            self._send(wire, method, f"{target}?{asked}" if asked else target, signed, view, limit_s)
            connected.settimeout(self._policy.stall_timeout_s)  # for each wait for its body
            response = reply_within(limit_s, wire)
        except (OSError, http.client.HTTPException) as error:
            wire.close()
            raise Closed(sent=True) if self._closed else _no_reply(error) from error
        except BaseException:
            wire.close()
            raise
        return Reply(self, wire, response)

    def keep(self, wire: http.client.HTTPConnection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < CONNECTIONS_KEPT:
                self._idle.append(wire)
                return
        wire.close()

    def close(self) -> None:
        """End every connection, also those that a thread still waits for."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            connected = list(self._sockets)
        for wire in idle:
            wire.close()
        for one in connected:
            cut(one)

    def _send(
        self,
        wire: http.client.HTTPConnection,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: memoryview,
        limit_s: float,
    ) -> None:
        wire.sock.settimeout(min(limit_s, self._policy.stall_timeout_s))
        end_s = time.monotonic() + limit_s
        # One that answers before it has all of the body may have closed the connection; its reply can be read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            wire.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                wire.putheader(name, value)
            wire.endheaders()
            for start in range(0, len(body), BLOCK_BYTES):
                if time.monotonic() > end_s:
                    raise TimeoutError("the body could not be sent in time")
                wire.send(body[start : start + BLOCK_BYTES])

    def _take_wire(self) -> http.client.HTTPConnection:
        """An open connection. Raises `NoReply` where none can be made."""
        while True:
            with self._lock:
                if self._closed:
                    raise Closed(sent=False)
                wire = self._idle.pop() if self._idle else None
            if wire is None:
                return self._connected()
            if _is_idle(wire):
                return wire
            wire.close()

    def _connected(self) -> http.client.HTTPConnection:
        to, tls = self._proxy or self._parts, self._endpoint.tls
        host, limit_s = to.hostname or "", self._policy.connect_timeout_s
        port = to.port or (80 if self._proxy or tls is None else 443)
        if tls is None:
            wire = http.client.HTTPConnection(host, port, timeout=limit_s)
        else:
            wire = http.client.HTTPSConnection(host, port, timeout=limit_s, context=tls)
            if self._proxy:
                wire.set_tunnel(self._parts.hostname or "", self._parts.port or 443, _proxy_headers(self._proxy))
        wire.response_class = reply_by(time.monotonic() + limit_s)  # a proxy's to CONNECT
        try:
            wire.connect()
        except (OSError, http.client.HTTPException, UnicodeError) as error:  # the last for a name that is none
            wire.close()
            raise _no_reply(error, sent=False) from error
        with self._lock:
            self._sockets.add(wire.sock)
            closed = self._closed
        if closed:
            wire.close()
            raise Closed(sent=False)
        return wire


def _no_reply(error: Exception, *, sent: bool = True) -> NoReply:
    reason = (str(error) or type(error).__name__)[:200]
    return NoReply(reason, sent=sent, late=isinstance(error, TimeoutError))


def _is_idle(wire: http.client.HTTPConnection) -> bool:
    """Whether a kept connection is still open: nothing came, no end either."""
    connected = wire.sock
    if isinstance(connected, ssl.SSLSocket) and connected.pending():
        return False
    try:
        connected.settimeout(0.0)
        socket.socket.recv(connected, 1, socket.MSG_PEEK)  # TLS has no such look at what is there
    except (BlockingIOError, InterruptedError):
        return True
    except OSError:
        return False
    return False


def _proxy_of(parts: SplitResult) -> SplitResult | None:
    """The proxy that the environment names for this endpoint, by the rules of the standard library."""
    proxies = getproxies_environment()
    named = proxies.get(parts.scheme) or proxies.get("all")
    if not named or proxy_bypass(parts.netloc):
        return None
    try:
        proxy = urlsplit(named if "://" in named else f"http://{named}")
        usable = proxy.scheme == "http" and bool(proxy.hostname) and (proxy.port or 80) > 0
    except ValueError:
        usable = False
    if not usable:
        raise InvalidInput(
            f"The proxy that the environment names for {parts.scheme}:// is none that S3 buckets can use",
            code=error_codes.UNSUPPORTED_PROXY,
            hint=f"Name one as http://host:port in {parts.scheme}_proxy, or this host in no_proxy",
        )
    return proxy


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    account = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(account.encode()).decode()}"}
