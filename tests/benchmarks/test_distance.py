"""The proxy that simulates distance, and the limits for the registers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import consensus_report
import distance
import pytest

ROUND_TRIP_MS = 60.0


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""

    def answer(peer: socket.socket) -> None:
        with peer:
            while part := peer.recv(1 << 16):
                peer.sendall(part)

    def serve() -> None:
        with suppress(OSError):  # the server is closed
            while True:
                threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def test_distance_holds_every_byte_back_and_keeps_their_order(echo: int) -> None:
    sent = bytes(range(256)) * 2000
    with distance.far([echo], [ROUND_TRIP_MS]) as (port,), socket.create_connection(("127.0.0.1", port), 20) as peer:
        took_s = []
        for part in (sent[:1], sent[1:]):
            began_s, received = time.monotonic(), b""
            peer.sendall(part)
            first_s = 0.0
            while len(received) < len(part):
                received += peer.recv(1 << 16)
                first_s = first_s or time.monotonic() - began_s
            assert received == part
            took_s.append(first_s)
    assert took_s[0] >= 2 * ROUND_TRIP_MS / 1000  # the connection costs one more
    assert took_s[1] >= ROUND_TRIP_MS / 1000


def latency(**rows_s: float) -> dict[str, object]:
    rows = {"GET 0": 0.010, "GET 1": 0.040, "GET 2": 0.090, "PUT 0": 0.011, "PUT 1": 0.041, "PUT 2": 0.091}
    ours = {"read": 0.04, "warm write": 0.041, "first write of a proposer": 0.123, "new register": 0.123}
    ours |= {name.replace("_", " "): seconds for name, seconds in rows_s.items()}
    return {"latency": {"rows": {name: [seconds] for name, seconds in (rows | ours).items()}}}


def test_limits_are_multiples_of_the_second_fastest_bare_request() -> None:
    assert consensus_report.missed(latency()) == []
    assert consensus_report.missed(latency(read=0.049)) == ["read of a quiet register: 1.23 > 1.2"]
    assert consensus_report.missed(latency(warm_write=0.060)) == ["warm write: 1.46 > 1.3"]
    assert [text.partition(":")[0] for text in consensus_report.missed(latency(new_register=0.2))] == [
        "first write of a register (cold)"
    ]
