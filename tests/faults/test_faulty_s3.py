"""The faulty S3 server: without faults it is an S3 server, and each fault does what its name means."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.open import open_bucket
from skyhold.errors import SkyholdError
from tests.buckets.conformance import QUICK, BucketConformance
from tests.faults.faulty_s3 import CREDENTIALS, FaultyS3, faulty_s3
from tests.faults.s3_faults import ANY_FAULTS, LIST_FAULTS, READ_FAULTS, READS, WRITE_FAULTS, S3Fault

BODY = bytes(range(256)) * 8


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with faulty_s3() as server:
        yield server


@pytest.fixture
def bucket(server: FaultyS3) -> Iterator[Bucket]:
    with open_bucket(server.location("a"), QUICK) as bucket:
        bucket.write("k", b"first")
        bucket.write("k", BODY)
        bucket.write("other", BODY[::-1])
        yield bucket


class TestWithoutFaults(BucketConformance):
    """Without faults it passes what every S3 server has to."""

    @pytest.fixture
    def location(self, server: FaultyS3) -> BucketLocation:
        return server.location("models", "some/prefix")

    test_gone_bucket_is_named_by_every_call = None  # type: ignore[assignment]  # every bucket is there
    test_wrong_credentials_are_permission_denied = None  # type: ignore[assignment]  # it asks for none


def ask(server: FaultyS3, method: str, target: str, headers: dict[str, str] | None = None) -> tuple[int, bytes, int]:
    """Status, the first KiB of the body, and the size that is announced."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request(method, target, headers=headers or {})
        reply = connection.getresponse()
        return reply.status, reply.read1(1024), int(reply.headers.get("content-length", -1))
    finally:
        connection.close()


def test_folder_bucket_is_taken_in_whole(server: FaultyS3, tmp_path: Path) -> None:
    (tmp_path / "packs").mkdir()
    (tmp_path / ".skyhold").mkdir()
    (tmp_path / "packs" / "p").write_bytes(b"x")
    (tmp_path / ".skyhold" / "bucket.json").write_bytes(b"{}")
    server.buckets["b"].fill(tmp_path)
    assert list(server.buckets["b"].by_key) == ["packs/p"]


@pytest.mark.parametrize(
    ("kind", "status", "body", "announced_bytes"),
    [
        ("oversize", 200, BODY[:1024], 20 << 30),
        ("sparse", 200, BODY[:1024], 20 << 30),
        ("excess", 206, BODY[:1024], len(BODY) + (20 << 30)),
        ("truncate", 200, BODY[:1024], len(BODY)),
        ("short", 200, BODY[:1024], len(BODY) // 2),
        ("empty", 200, b"", 0),
        ("stale", 200, b"first", 5),
        ("other", 200, BODY[::-1][:1024], len(BODY)),
        ("missing", 404, b"<Error><Code>NoSuchKey</Code><Message>NoSuchKey</Message></Error>", 65),
    ],
)
def test_fault_of_an_object_is_what_its_name_means(
    server: FaultyS3, bucket: Bucket, kind: str, status: int, body: bytes, announced_bytes: int
) -> None:
    server.inject(S3Fault(kind, key="k", other_key="other", times=1))  # type: ignore[arg-type]
    assert ask(server, "GET", "/a/k") == (status, body, announced_bytes)
    assert [seen.fault for seen in server.seen] == [kind]
    assert ask(server, "GET", "/a/k") == (200, BODY[:1024], len(BODY))


@pytest.mark.parametrize("kind", WRITE_FAULTS)
def test_fault_of_a_write_is_what_its_name_means(server: FaultyS3, bucket: Bucket, kind: str) -> None:
    server.inject(S3Fault(kind))  # type: ignore[arg-type]
    status, _, _ = ask(server, "PUT", "/a/new")
    assert status == (412 if kind == "stored_but_refused" else 200)
    stored = server.buckets["a"].get("new")
    assert (stored is None) == (kind in {"wrong_etag", "not_stored"})
    assert stored is None or (stored.body != b"") == (kind == "stored_other")


@pytest.mark.parametrize("kind", READ_FAULTS + LIST_FAULTS + ANY_FAULTS)
def test_fault_ends_with_the_next_injection(server: FaultyS3, bucket: Bucket, kind: str) -> None:
    target = "/a?list-type=2" if kind in LIST_FAULTS else "/a/k"
    server.inject(
        S3Fault(kind, key="" if kind in LIST_FAULTS else "k", size_bytes=1 << 20, delay_s=0.01, calls=READS | {"LIST"})
    )  # type: ignore[arg-type]
    try:
        ask(server, "GET", target, {"Range": "bytes=0-9"} if kind in {"ignore_range", "wrong_range"} else None)
    except (OSError, http.client.HTTPException):
        assert kind in {"silent", "drop", "endless_head"}
    assert server.seen[-1].fault == kind
    server.inject()
    assert bytes(bucket.read("k")) == BODY
    assert [info.key for info in bucket.list()] == ["k", "other"]


def test_each_request_is_kept_with_its_headers(server: FaultyS3, bucket: Bucket) -> None:
    server.inject(S3Fault("redirect", location="http://127.0.0.1:9/elsewhere", calls=READS))
    with pytest.raises(SkyholdError):
        bucket.read("k")
    assert server.seen[0].call == "GET"
    assert "AWS4-HMAC-SHA256" in server.seen[0].headers["authorization"]
