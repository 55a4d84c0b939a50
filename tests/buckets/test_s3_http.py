"""What a server may send that is no plain reply: no reply is taken for that to another request, every error is ours,
and nothing waits for ever. The server here is a socket: it sends what an HTTP library would not."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import parse_location
from skyhold.buckets.open import open_bucket
from skyhold.buckets.retry import RetryPolicy
from skyhold.errors import OutcomeUnknown, PermissionDenied, SkyholdError, Unavailable

ONCE = RetryPolicy(attempts_max=1, stall_timeout_s=1.0)
Answer = Callable[[socket.socket, str], None]


@contextmanager
def served(answer: Answer) -> Iterator[Bucket]:
    """A bucket at a server that answers each request, of which it knows the first line, by writing to the socket."""

    def serve(client: socket.socket) -> None:
        with client, client.makefile("rb") as requests, suppress(OSError):
            while line := requests.readline():
                size = 0
                while (header := requests.readline()) not in {b"\r\n", b""}:
                    name, _, value = header.partition(b":")
                    size = int(value) if name.lower() == b"content-length" else size
                requests.read(size)
                answer(client, line.decode())

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with open_bucket(parse_location("s3://models", endpoint=url, credentials="env:ANY"), ONCE) as bucket:
            yield bucket
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANY_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("ANY_SECRET_ACCESS_KEY", "any")


def whole(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    return f'HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nETag: "t"\r\n{headers}\r\n'.encode() + body


@pytest.mark.parametrize("status", ["100 Continue", "102 Processing", "103 Early Hints"])
def test_reply_that_was_announced_is_not_taken_for_that_to_the_next_request(status: str) -> None:
    def answer(client: socket.socket, line: str) -> None:
        client.sendall(f"HTTP/1.1 {status}\r\n\r\n".encode())
        time.sleep(0.1)
        client.sendall(whole(b"bytes of " + line.split()[1].rpartition("/")[2].encode()))

    with served(answer) as bucket:
        assert [bytes(bucket.read(key)) for key in ("one", "two")] == [b"bytes of one", b"bytes of two"]


SMUGGLED = whole(b"smuggled")


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 9\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
    ],
)
def test_bytes_behind_a_reply_are_no_reply(first: bytes) -> None:
    def answer(client: socket.socket, line: str) -> None:
        if "/first" in line:
            client.sendall(first)
            time.sleep(0.05)
            client.sendall(SMUGGLED)
        else:
            client.sendall(whole(b"right"))

    with served(answer) as bucket:
        try:
            assert bytes(bucket.read("first")) == b"x"
        except SkyholdError as error:
            assert isinstance(error, Unavailable)
        time.sleep(0.1)
        assert bytes(bucket.read("next")) == b"right"


@pytest.mark.parametrize(
    "header",
    ["Content-Type: multipart/mixed; boundary*=undefined''x", "Content-Type: multipart/mixed; boundary*=a\0b''x",
     "Content-Type: multipart/mixed; boundary=x", "No colon", "Content-Length: 0_5", f"Content-Length: {'9' * 5000}"],
)  # fmt: skip
def test_headers_that_cannot_be_read_are_an_error_of_ours(header: str) -> None:
    with served(lambda client, _line: client.sendall(f"HTTP/1.1 200 OK\r\n{header}\r\n\r\nxxxxx".encode())) as bucket:
        for call in (lambda: bucket.read("k"), lambda: list(bucket.list()), lambda: bucket.delete("k")):
            with pytest.raises(Unavailable):
                call()
        with pytest.raises(OutcomeUnknown):
            bucket.write_if("k", b"x", expected_tag=None)


@pytest.mark.parametrize("drip", [b"x: y\r\n", b"0"])
def test_chunks_whose_sizes_or_trailers_never_end_are_given_up(drip: bytes) -> None:
    def answer(client: socket.socket, _line: str) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"0\r\n" if b":" in drip else b""))
        for _ in range(1200):
            client.sendall(drip)
            time.sleep(0.1)

    with served(answer) as bucket:
        began_s = time.monotonic()
        with pytest.raises(Unavailable):
            list(bucket.list())
        assert time.monotonic() - began_s < 60  # of two minutes


def test_not_modified_is_a_success_only_where_it_was_asked_for() -> None:
    with served(lambda client, _line: client.sendall(b'HTTP/1.1 304 Not Modified\r\nETag: "t"\r\n\r\n')) as bucket:
        assert bucket.read_tagged("k", unless_tag='"t"') is None
        for call in (lambda: bucket.read_tagged("k"), lambda: bucket.write("k", b"x"), lambda: bucket.delete("k")):
            with pytest.raises(Unavailable) as caught:
                call()
            assert caught.value.code == "bucket_misbehaves"
        with pytest.raises(OutcomeUnknown):
            bucket.write_if("k", b"x", expected_tag=None)


def test_conditional_put_that_was_sent_when_its_bucket_was_closed_is_in_doubt() -> None:
    sent = threading.Event()

    def answer(_client: socket.socket, _line: str) -> None:
        sent.set()
        time.sleep(1)

    with served(answer) as bucket:
        threading.Timer(0.3, bucket.close).start()
        with pytest.raises(OutcomeUnknown):
            bucket.write_if("k", b"x", expected_tag=None)
        assert sent.is_set()
        with pytest.raises(Unavailable) as caught:
            bucket.write_if("k", b"x", expected_tag=None)
        assert caught.value.code == "bucket_closed"


def test_stream_does_not_go_on_with_another_object_where_the_store_knows_no_condition() -> None:
    replies = [
        b'HTTP/1.1 200 OK\r\nContent-Length: 20\r\nETag: "old"\r\n\r\nAAAAAAAAAA',
        b'HTTP/1.1 206 OK\r\nContent-Length: 10\r\nContent-Range: bytes 10-19/20\r\nETag: "new"\r\n\r\nBBBBBBBBBB',
    ]

    def answer(client: socket.socket, _line: str) -> None:
        client.sendall(replies.pop(0))
        client.shutdown(socket.SHUT_RDWR)

    with served(answer) as bucket:
        bucket._policy = RetryPolicy(attempts_max=3, first_delay_s=0.01)  # type: ignore[attr-defined]
        with pytest.raises(SkyholdError) as caught:
            b"".join(bytes(part) for part in bucket.read_stream("k", part_bytes=5))
        assert caught.value.exit_status == 5


def test_token_with_the_end_of_a_line_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANY_SESSION_TOKEN", "SECRET\nx")
    with served(lambda _client, _line: None) as bucket, pytest.raises(PermissionDenied) as caught:
        bucket.read("k")
    assert "SECRET" not in str(caught.value)
