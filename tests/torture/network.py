"""The network before one server: a process of its own, so that its threads take no time from the workers.

Requests meet the faults that the plan draws for them. The whole network can also refuse connections, swallow what is
sent, or be slow, until it is set to fair again.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

from tests.faults.proxy import Fault, FaultProxy
from tests.servers import end_with_parent
from tests.torture.plan import RequestFaults
from tests.torture.processes import PROCESSES

Weather = Literal["fair", "refuses", "swallows", "slow"]
SLOW_S = 0.15
IDLE_S_MAX = 2.0
"""Servers close connections on which nothing was asked for longer (Azurite: 5 s)."""


class Upstream(threading.local):
    """One connection to the server for each connection of a client."""

    server: socket.socket | None = None
    used_s: float = 0.0


class StormyProxy(FaultProxy):
    def __init__(self, upstream_port: int, faults: RequestFaults, *, strip: str = "") -> None:
        self._drawn = faults
        self._strip = strip.encode()
        self._weather: Weather = "fair"
        self._upstream = Upstream()
        self.requests = 0
        self.injected: Counter[str] = Counter()
        super().__init__(upstream_port)

    def set_weather(self, weather: Weather) -> None:
        """Where connections are refused the port stays reserved: it is bound, without a listener."""
        if weather == "refuses":
            self._stop_listening()
            self._listener = socket.socket()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(("127.0.0.1", self.port))
        elif self._weather == "refuses":
            self._listener.listen(128)
            threading.Thread(target=self._accept, daemon=True).start()
        self._weather = weather

    def _fault_for(self, method: str, target: str) -> Fault | None:
        with self._lock:
            self.requests += 1
            drawn = self._drawn.next(method)
            if self._weather == "refuses":
                return Fault("drop")  # on a connection that was open already
            if self._weather == "swallows":
                return Fault("stall")
            if drawn is not None:
                self.injected[drawn[0]] += 1
                return drawn[1]
            return Fault("delay", delay_s=SLOW_S) if self._weather == "slow" else None

    def _silent(self) -> bool:
        return super()._silent() and self._weather == "swallows"

    def _ask(self, head: bytes, body: bytes, method: bytes) -> tuple[bytes, bytes]:
        if self._strip:
            line, rest = head.split(b"\r\n", 1)
            head = line.replace(self._strip, b"ignored") + b"\r\n" + rest
        upstream = self._upstream
        if upstream.server is None or time.monotonic() - upstream.used_s > IDLE_S_MAX:
            self._hang_up()
            upstream.server = socket.create_connection(("127.0.0.1", self._upstream_port), timeout=60.0)
            upstream.server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            reply_head, reply_body = self._exchange(upstream.server, head, body, method)
        except BaseException:
            self._hang_up()
            raise
        upstream.used_s = time.monotonic()
        if b"\r\nconnection: close" in reply_head.lower():
            self._hang_up()
        return reply_head, reply_body

    def _serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            super()._serve(client)
        finally:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._upstream.server is not None:
            self._upstream.server.close()
            self._upstream.server = None


@dataclass
class Network:
    """A `StormyProxy` in a process of its own, before the server at `upstream_port`."""

    upstream_port: int
    seed: int
    rate: float
    strip: str = ""

    def __post_init__(self) -> None:
        self._pipe, theirs = PROCESSES.Pipe()
        arguments = (theirs, self.upstream_port, self.seed, self.rate, self.strip)
        self._process = PROCESSES.Process(target=_run_proxy, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self.port: int = self._receive()

    def set_weather(self, weather: Weather) -> None:
        self._pipe.send(weather)
        self._receive()

    def close(self) -> tuple[int, Counter[str]]:
        """End it; how many requests came, and the faults that they met."""
        self._pipe.send("close")
        requests, injected = self._receive()
        self._process.join(10)
        return requests, injected

    def _receive(self) -> Any:
        if not self._pipe.poll(30):
            raise AssertionError(f"the network before port {self.upstream_port} does not answer")
        return self._pipe.recv()


def _run_proxy(pipe: Connection, upstream_port: int, seed: int, rate: float, strip: str) -> None:
    end_with_parent()
    proxy = StormyProxy(upstream_port, RequestFaults(seed, rate), strip=strip)
    pipe.send(proxy.port)
    with suppress(EOFError):
        while (weather := pipe.recv()) != "close":
            proxy.set_weather(weather)
            pipe.send(None)
        proxy.close()
        pipe.send((proxy.requests, proxy.injected))
