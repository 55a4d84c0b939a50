"""A process that listens: uvicorn over the application, with authentication and its bounds."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from skyhold import error_codes
from skyhold.errors import AlreadyExists, InvalidInput, PermissionDenied
from skyhold.serving.app import InferenceApp, Limits
from skyhold.serving.models import Models

CONNECTIONS_MAX: Final = 1000
KEEP_ALIVE_S: Final = 30
DRAIN_S: Final = 30
TOKEN_CHARACTERS_MIN: Final = 16
_OPEN_PATHS: Final = frozenset({"/v2/health/live", "/v2/health/ready"})


@dataclass(frozen=True, slots=True)
class Listening:
    """Where to listen, and for whom. With a `token` every request but the health checks needs it as a bearer token."""

    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = field(default=None, repr=False)
    force_public: bool = False
    limits: Limits = field(default_factory=Limits)


def open_socket(listening: Listening) -> socket.socket:
    """Bind before anything is loaded. Raises `InvalidInput`, `PermissionDenied` code `public_bind`, or `AlreadyExists`
    code `port_taken`."""
    if listening.token is not None and len(listening.token) < TOKEN_CHARACTERS_MIN:
        raise InvalidInput(f"The token has less than {TOKEN_CHARACTERS_MIN} characters")
    if not _is_loopback(listening.host) and listening.token is None and not listening.force_public:
        raise PermissionDenied(
            f"{listening.host} is reached from other machines, and the server would answer all of them",
            code=error_codes.PUBLIC_BIND,
            hint="Set SKYHOLD_SERVE_TOKEN, or add --force-public where the network itself keeps others out",
        )
    family = socket.AF_INET6 if ":" in listening.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((listening.host, listening.port))
    except (socket.gaierror, TypeError):  # the latter of a name that cannot be encoded
        bound.close()
        raise InvalidInput(f"{listening.host!r:.100} is no address of this machine, and no name of one") from None
    except OSError as error:
        bound.close()
        raise AlreadyExists(
            f"Cannot listen on {listening.host}:{listening.port}: {error.strerror}",
            code=error_codes.PORT_TAKEN,
            hint="Choose another with --port; 0 takes a free one",
        ) from error
    return bound


def run_server(models: Models, listening: Listening, bound: socket.socket, *, when_ready: Callable[[], None]) -> None:
    """Answer until SIGTERM or SIGINT; then take no more connections, and answer what has begun, for at most `DRAIN_S`.
    From the main thread."""
    application: ASGIApp = InferenceApp(models, listening.limits).application()
    if listening.token is not None:
        application = BearerToken(application, listening.token)
    config = uvicorn.Config(
        application,
        http=_bounded_protocol(listening.limits.headers_s),
        access_log=False,
        log_config=None,
        lifespan="off",
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
        server_header=False,
        ws="none",
    )
    _Server(config, when_ready).run(sockets=[bound])


def _bounded_protocol(headers_s: float) -> type[HttpToolsProtocol]:
    """uvicorn's protocol, which closes a connection whose next headers are not complete in time: uvicorn itself bounds
    only the idle time after a response."""

    class Bounded(HttpToolsProtocol):
        _headers_due: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._expect_headers()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                self._expect_headers()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._expect_headers()

        def on_headers_complete(self) -> None:
            self._forget_headers()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget_headers()
            super().connection_lost(exc)

        def _expect_headers(self) -> None:
            if self._headers_due is None and not self.transport.is_closing():
                self._headers_due = self.loop.call_later(headers_s, self.transport.close)

        def _forget_headers(self) -> None:
            if self._headers_due is not None:
                self._headers_due.cancel()
                self._headers_due = None

    return Bounded


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, when_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._when_ready = when_ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As in uvicorn, but that the signal is not raised again afterwards: the caller still has models to close."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._when_ready()


class BearerToken:
    """Lets requests with the token pass, and health checks."""

    def __init__(self, application: ASGIApp, token: str) -> None:
        self._application, self._expected = application, b"Bearer " + token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _OPEN_PATHS:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
                await send({"type": "http.response.start", "status": 401, "headers": headers})
                body = b'{"error":"The request needs the bearer token of this server","code":"permission_denied"}'
                await send({"type": "http.response.body", "body": body})
                return
        await self._application(scope, receive, send)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
