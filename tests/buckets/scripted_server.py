"""An HTTP server that answers each request with the next reply of a script, and remembers what it was asked.

For what no emulator does: replies that are lost, cut short, late, or that confirm other bytes than were sent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Reply:
    """`announced_bytes` more than the body has cuts the reply short; `lost` closes the connection without a word;
    a `Date` among the headers is sent instead of this machine's."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    announced_bytes: int | None = None
    lost: bool = False
    delay_s: float = 0.0


class ScriptedServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, script: list[Reply]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.requests = list(script), list[str]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedServer
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.requests.append(f"{self.command} {self.path}")
        reply = self.server.script.pop(0)
        time.sleep(reply.delay_s)
        self.close_connection = True
        if reply.lost:
            return
        size = len(reply.body) if reply.announced_bytes is None else reply.announced_bytes
        (self.send_response_only if "Date" in reply.headers else self.send_response)(reply.status)
        for name, value in {"content-length": str(size), "connection": "close", **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def scripted(*script: Reply) -> Iterator[ScriptedServer]:
    with ScriptedServer(list(script)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
