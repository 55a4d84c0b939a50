"""A server of an attacker: it answers every request alike, and keeps all that it was sent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class CatchingServer(ThreadingHTTPServer):
    """`caught` holds each request as text, with its headers. `location`: where it redirects each request."""

    daemon_threads = True

    def __init__(self, host: str, status: int, headers: dict[str, str], location: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), _Handler)
        self.status, self.headers, self.location = status, headers, location
        self.caught: list[str] = []

    @property
    def url(self) -> str:
        host = str(self.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: CatchingServer
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.caught.append(f"{self.command} {self.path}\n{self.headers}")
        self.close_connection = True
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        if self.server.location:
            self.send_header("location", self.server.location + self.path)
        self.send_header("content-length", "0")
        self.end_headers()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_CONNECT = answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def catching(
    host: str = "127.0.0.1", status: int = 403, headers: dict[str, str] | None = None, location: str = ""
) -> Iterator[CatchingServer]:
    with CatchingServer(host, status, headers or {}, location) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
