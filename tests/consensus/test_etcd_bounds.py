"""A node of etcd that answers without end, or a byte at a time, is given up like one that does not answer."""

from __future__ import annotations

import json
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from skyhold.consensus.etcd_client import EtcdClient
from skyhold.consensus.etcd_credentials import EtcdCredentials
from skyhold.consensus.etcd_errors import AttemptFailed

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
MIB = bytes(1 << 20)


def drip_head(client: socket.socket) -> None:
    for byte in HEAD * 1000:  # for minutes
        client.sendall(bytes([byte]))
        time.sleep(0.05)


def drip_body(client: socket.socket) -> None:
    client.sendall(HEAD + b"Content-Length: 100000\r\n\r\n{")
    while True:
        client.sendall(b" ")
        time.sleep(0.05)


def announce(client: socket.socket) -> None:
    client.sendall(HEAD + b"Content-Length: 21474836480\r\n\r\n")
    while True:
        client.sendall(MIB)


def without_end(client: socket.socket) -> None:
    client.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        client.sendall(b"100000\r\n" + MIB + b"\r\n")


def nested(client: socket.socket) -> None:
    client.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n" + b"[" * 1_000_000)


def no_text(client: socket.socket) -> None:
    client.sendall(HEAD + b"Content-Length: 2\r\n\r\n\xff\xfe")


@pytest.fixture
def node() -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    listener = socket.create_server(("127.0.0.1", 0))

    def start(answer: Callable[[socket.socket], None]) -> str:
        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client, suppress(OSError):
                        client.recv(65536)
                        answer(client)
                        client.shutdown(socket.SHUT_WR)  # to close what still has something to read would reset it
                        while client.recv(65536):
                            pass

        threading.Thread(target=serve, daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield start
    listener.close()


@pytest.mark.parametrize("answer", [drip_head, drip_body, announce, without_end, nested, no_text])
def test_answer_that_is_endless_slow_or_unreadable_ends_the_attempt(
    node: Callable[[Callable[[socket.socket], None]], str], answer: Callable[[socket.socket], None]
) -> None:
    endpoint, before = node(answer), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    client = EtcdClient((endpoint,), EtcdCredentials(), tls=None)
    began_s = time.monotonic()
    with pytest.raises(AttemptFailed):
        client.post(endpoint, "/v3/kv/range", {}, 1.0)
    assert time.monotonic() - began_s < 60  # of answers that go on for minutes or for ever
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10 < 400
    client.close()


def test_answer_of_a_node_is_read_whole(node: Callable[[Callable[[socket.socket], None]], str]) -> None:
    body = json.dumps({"kvs": ["x" * (1 << 20)]}).encode()
    head = HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode()
    endpoint = node(lambda client: client.sendall(head + body))
    client = EtcdClient((endpoint,), EtcdCredentials(), tls=None)
    assert client.post(endpoint, "/v3/kv/range", {}, 5.0) == json.loads(body)
    client.close()
