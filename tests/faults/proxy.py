"""An HTTP proxy that does to chosen requests what networks and clouds do now and then.

It is in front of one plain-HTTP server and passes every byte on unchanged, the Host header included, so that signed
requests stay valid. (Toxiproxy, the usual choice, knows connections but no requests: it cannot lose the reply to a
write that the server has taken.)
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "answer",
    "answer_after",
    "drop",
    "lose_reply",
    "arrive_late",
    "repeat_late",
    "truncate",
    "stall",
    "stall_body",
    "delay",
    "trickle",
    "corrupt_request",
]
UNASKED = frozenset({"answer", "drop", "arrive_late", "stall"})
SPOILING = frozenset({"answer_after", "lose_reply", "truncate", "stall_body", "trickle"})
READS = frozenset({"GET", "HEAD"})
WRITES = frozenset({"PUT", "POST", "PATCH", "DELETE"})
ANY = READS | WRITES
SOCKET_TIMEOUT_S = 60.0


@dataclass
class Fault:
    """What happens to the next `times` requests of these methods, to targets that contain `target`.

    `answer`: our `status`, without asking the server. `answer_after`: our `status`, whatever the server answered.
    `drop`: the connection closes, the server never sees it. `lose_reply`: the server answers, the connection closes.
    `arrive_late`: the connection closes, and the server sees the request after `delay_s`. `repeat_late`: the server
    answers, and sees the request again after `delay_s`. `truncate`: half of the reply's body, then closed.
    `stall`: silence, the server never sees it. `stall_body`: half of the reply's body, then silence.
    `delay`: passed on after `delay_s`. `trickle`: the reply, a byte each `delay_s`. `corrupt_request`: the middle byte
    of the body is another one.
    """

    kind: Kind
    times: int = 1_000_000
    methods: frozenset[str] = ANY
    status: int = 503
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    delay_s: float = 0.0
    target: str = ""


@dataclass(frozen=True)
class Seen:
    """One request that reached the proxy, and what was done to it (`""`: passed on)."""

    method: str
    target: str
    fault: str


class FaultProxy:
    """Listens from construction to `close`. `seen` lists all requests; `connections` counts the open ones."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.seen: list[Seen] = []
        self.connections = 0
        self.sent_bytes = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def inject(self, *faults: Fault) -> None:
        """Replace the faults; each request meets the first one that is for it and not used up."""
        with self._lock:
            self._faults = list(faults)
            self.seen.clear()

    def count(self, methods: frozenset[str] = ANY) -> int:
        with self._lock:
            return sum(request.method in methods for request in self.seen)

    def close(self) -> None:
        self._closing.set()
        self._stop_listening()

    def _stop_listening(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts: closing alone would not
        self._listener.close()

    def _accept(self) -> None:
        listener = self._listener
        while not self._closing.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(SOCKET_TIMEOUT_S)
        with self._lock:
            self.connections += 1
        try:
            with client, client.makefile("rb") as requests, suppress(OSError, EOFError, ValueError):
                while self._serve_one(client, requests):
                    pass
        finally:
            with self._lock:
                self.connections -= 1

    def _serve_one(self, client: socket.socket, requests: object) -> bool:
        """Serve one request; whether the connection goes on."""
        head = _read_head(requests)
        method, target = head.split(b" ", 2)[:2]
        if re.search(rb"\r\nexpect: *100-continue", head, re.IGNORECASE):
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = re.sub(rb"\r\nexpect:[^\r]*", b"", head, flags=re.IGNORECASE)
        body = _read_body(head, requests, until_close=False)
        fault = self._fault_for(method.decode(), target.decode())
        if fault and fault.kind in UNASKED:
            return self._keep_from_server(client, fault, (head, body, method))
        if fault and fault.kind == "delay":
            self._closing.wait(fault.delay_s)
        if fault and fault.kind == "corrupt_request" and body:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        reply_head, reply_body = self._ask(head, body, method)
        if fault and fault.kind == "repeat_late":
            self._ask_later(fault.delay_s, head, body, method)
        if fault and fault.kind in SPOILING:
            return self._spoil(client, fault, method, reply_head + reply_body, len(reply_body))
        self._send(client, reply_head + reply_body)
        return not re.search(rb"\r\nconnection: *close", reply_head, re.IGNORECASE)

    def _keep_from_server(self, client: socket.socket, fault: Fault, request: tuple[bytes, bytes, bytes]) -> bool:
        """Serve a request that the server does not see, or not now; whether the connection goes on."""
        if fault.kind == "answer":
            self._answer(client, fault, request[2])
            return True
        if fault.kind == "arrive_late":
            self._ask_later(fault.delay_s, *request)
        elif fault.kind == "stall":
            self._silence(client)
        return False

    def _spoil(self, client: socket.socket, fault: Fault, method: bytes, reply: bytes, body_bytes: int) -> bool:
        """Apply the fault to a reply; returns whether the connection stays open."""
        if fault.kind == "answer_after":
            self._answer(client, fault, method)
            return True
        if fault.kind == "trickle":
            self._trickle(client, reply, fault.delay_s)
        elif fault.kind != "lose_reply":
            self._send(client, reply[: len(reply) - (body_bytes + 1) // 2])
            if fault.kind == "stall_body":
                self._silence(client)
        return False

    def _fault_for(self, method: str, target: str) -> Fault | None:
        with self._lock:
            fault = next((f for f in self._faults if f.times > 0 and method in f.methods and f.target in target), None)
            if fault:
                fault.times -= 1
            self.seen.append(Seen(method, target, fault.kind if fault else ""))
            return fault

    def _ask(self, head: bytes, body: bytes, method: bytes) -> tuple[bytes, bytes]:
        with socket.create_connection(("127.0.0.1", self._upstream_port), timeout=SOCKET_TIMEOUT_S) as server:
            return self._exchange(server, head, body, method)

    def _exchange(self, server: socket.socket, head: bytes, body: bytes, method: bytes) -> tuple[bytes, bytes]:
        server.sendall(head + body)
        with server.makefile("rb") as replies:
            reply_head = _read_head(replies)
            while reply_head.split(b" ", 2)[1] == b"100":
                reply_head = _read_head(replies)
            if method == b"HEAD" or reply_head.split(b" ", 2)[1][:3] in {b"204", b"304"}:
                return reply_head, b""
            return reply_head, _read_body(reply_head, replies, until_close=True)

    def _ask_later(self, delay_s: float, head: bytes, body: bytes, method: bytes) -> None:
        def ask() -> None:
            if not self._closing.wait(delay_s):
                with suppress(OSError, EOFError, ValueError):
                    self._ask(head, body, method)

        threading.Thread(target=ask, daemon=True).start()

    def _answer(self, client: socket.socket, fault: Fault, method: bytes) -> None:
        lines = [f"HTTP/1.1 {fault.status} Fault", f"Content-Length: {len(fault.body)}"]
        lines += [f"{name}: {value}" for name, value in fault.headers]
        client.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if method == b"HEAD" else fault.body))

    def _send(self, client: socket.socket, data: bytes) -> None:
        for offset in range(0, len(data), 64 << 10):
            piece = data[offset : offset + (64 << 10)]
            client.sendall(piece)
            with self._lock:
                self.sent_bytes += len(piece)

    def _trickle(self, client: socket.socket, data: bytes, delay_s: float) -> None:
        for byte in data:
            self._send(client, bytes([byte]))
            if self._closing.wait(delay_s):
                return

    def _silent(self) -> bool:
        """Whether a silence still goes on."""
        return not self._closing.is_set()

    def _silence(self, client: socket.socket) -> None:
        """Say nothing until the client gives up or the proxy closes."""
        client.settimeout(0.1)
        while self._silent():
            try:
                if not client.recv(1):
                    return
            except TimeoutError:
                continue


@contextmanager
def fault_proxy(upstream_port: int) -> Iterator[FaultProxy]:
    proxy = FaultProxy(upstream_port)
    try:
        yield proxy
    finally:
        proxy.close()


def _read_head(stream: object) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line: bytes = stream.readline(64 << 10)  # type: ignore[attr-defined]
        if not line:
            raise EOFError
        head += line
    return head


def _read_body(head: bytes, stream: object, *, until_close: bool) -> bytes:
    """A body as it is on the wire: chunks keep their framing."""
    read = stream.read  # type: ignore[attr-defined]
    if re.search(rb"\r\ntransfer-encoding: *chunked", head, re.IGNORECASE):
        body = b""
        while True:
            size_line: bytes = stream.readline()  # type: ignore[attr-defined]
            chunk: bytes = read(int(size_line.split(b";")[0], 16) + 2)
            body += size_line + chunk
            if len(chunk) == 2:
                return body
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    if length:
        whole: bytes = read(int(length[1]))
        return whole
    rest: bytes = read() if until_close else b""
    return rest
