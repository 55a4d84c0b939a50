"""Clients that send too slowly, over real sockets."""

from __future__ import annotations

import socket
import threading

import pytest

from skyhold.serving.app import Limits
from skyhold.serving.metrics import ServerMetrics
from skyhold.serving.models import Models
from skyhold.serving.server import Listening, open_socket, run_server


@pytest.fixture(scope="module")
def port() -> int:
    listening = Listening(port=0, limits=Limits(headers_s=0.3, body_s=0.3))
    bound = open_socket(listening)
    ready = threading.Event()
    threading.Thread(
        target=run_server,
        args=(Models(ServerMetrics()), listening, bound),
        kwargs={"when_ready": ready.set},
        daemon=True,
    ).start()
    assert ready.wait(60)
    taken: int = bound.getsockname()[1]
    return taken


def until_closed(port: int, *sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        for part in sent:
            connection.sendall(part)
        received = b""
        while part := connection.recv(65536):
            received += part
        return received


@pytest.mark.parametrize("sent", [b"", b"GET /v2 HTTP/1.1\r\nhost: x\r\nslow: "])
def test_connection_without_complete_headers_is_closed(port: int, sent: bytes) -> None:
    assert until_closed(port, sent) == b""


def test_next_headers_of_a_connection_are_bounded_too(port: int) -> None:
    answer = until_closed(port, b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n", b"GET /v2 HT")
    assert answer.startswith(b"HTTP/1.1 200")


def test_body_that_does_not_arrive_is_answered_and_its_connection_closed(port: int) -> None:
    head = b"POST /v2/repository/index HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
    assert until_closed(port, head).startswith(b"HTTP/1.1 408")
