"""What Google's and Azure's drivers do with replies that no cloud sends."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator

import pytest

from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import parse_location
from skyhold.buckets.open import open_bucket
from skyhold.buckets.retry import RetryPolicy
from skyhold.errors import SkyholdError, Unavailable
from tests import servers
from tests.buckets.scripted_server import Reply, ScriptedServer, scripted

POLICY = RetryPolicy(attempts_max=2, total_s=3.0, first_delay_s=0.01, delay_s_max=0.05, stall_timeout_s=0.6)
MEMORY_BYTES_MAX = 200 << 20
HUGE = 20 << 30
GOOGLE = {"x-goog-generation": "1"}
AZURE = {"ETag": '"1"', "x-ms-blob-type": "BlockBlob", "Last-Modified": "Mon, 30 Nov 2026 06:00:00 GMT"}


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < MEMORY_BYTES_MAX


def google(server: ScriptedServer) -> Bucket:
    return open_bucket(parse_location("gs://models/p", endpoint=server.url), POLICY)


def azure(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setenv("AZURITE_ACCOUNT_KEY", servers.AZURITE_KEY)
    url = f"az://{servers.AZURITE_ACCOUNT}/models/p"
    return open_bucket(
        parse_location(url, endpoint=f"{server.url}/{servers.AZURITE_ACCOUNT}", credentials="env:AZURITE"), POLICY
    )


def both(cloud: str, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    return google(server) if cloud == "google" else azure(server, monkeypatch)


@pytest.mark.parametrize("cloud", ["google", "azure"])
@pytest.mark.parametrize("call", ["read", "read_stream", "read_tagged"])
def test_object_of_20_gib_is_refused_by_its_announcement(
    cloud: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = {"Content-Range": f"bytes 0-{HUGE - 1}/{HUGE}"}
    reply = Reply(206 if cloud == "azure" else 200, b"x", GOOGLE if cloud == "google" else AZURE | ranges, HUGE)
    with scripted(reply, reply) as server:
        bucket = both(cloud, server, monkeypatch)
        with pytest.raises(SkyholdError) as caught:
            list(getattr(bucket, call)("k"))
        assert caught.value.code == "object_too_large"
        assert len(server.requests) == 1


@pytest.mark.parametrize("cloud", ["google", "azure"])
@pytest.mark.parametrize("status", [200, 500])
def test_page_or_error_of_20_gib_is_refused(cloud: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = Reply(status, b"x", announced_bytes=HUGE)
    with scripted(reply, reply) as server, pytest.raises(Unavailable) as caught:
        list(both(cloud, server, monkeypatch).list())
    assert caught.value.code == "bucket_misbehaves"


def google_page(*keys: str, token: str = "", size: object = "1") -> Reply:
    items = [{"name": key, "size": size, "generation": "1", "updated": "2026-11-30T06:00:00Z"} for key in keys]
    return Reply(body=json.dumps({"items": items, "nextPageToken": token}).encode())


def azure_page(*keys: str, token: str = "", size: object = "1") -> Reply:
    blobs = "".join(
        f"<Blob><Name>{key}</Name><Properties><Last-Modified>Mon, 30 Nov 2026 06:00:00 GMT</Last-Modified>"
        f"<Etag>0x1</Etag><Content-Length>{size}</Content-Length><BlobType>BlockBlob</BlobType></Properties></Blob>"
        for key in keys
    )
    body = (
        '<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="x" ContainerName="models">'
        f"<Blobs>{blobs}</Blobs><NextMarker>{token}</NextMarker></EnumerationResults>"
    )
    return Reply(body=body.encode(), headers={"Content-Type": "application/xml"})


PAGES = {"google": google_page, "azure": azure_page}


@pytest.mark.parametrize("cloud", ["google", "azure"])
def test_listing_of_sound_pages_is_read(cloud: str, monkeypatch: pytest.MonkeyPatch) -> None:
    page = PAGES[cloud]
    with scripted(page("p/a", "p/b c", token="t"), page(token="u"), page("p/d")) as server:
        assert [info.key for info in both(cloud, server, monkeypatch).list()] == ["a", "d"]


@pytest.mark.parametrize("cloud", ["google", "azure"])
@pytest.mark.parametrize(
    "kind", ["same page", "descending", "same token", "negative", "no number", "outside", "endless"]
)
def test_listing_that_breaks_its_promises_is_refused(cloud: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    page = PAGES[cloud]
    script = {
        "same page": [page("p/a", token="t"), page("p/a", token="u")],
        "descending": [page("p/b", "p/a")],
        "same token": [page("p/a", token="t"), page("p/b", token="t"), page("p/c", token="t")],
        "negative": [page("p/a", size="-1")],
        "no number": [page("p/a", size="9" * 5000)] * 2,
        "outside": [page("q/a")],
        "endless": [page(token=str(number)) for number in range(60)],
    }[kind]
    monkeypatch.setattr("skyhold.buckets.bounded.EMPTY_PAGES_MAX", 50)
    with scripted(*script) as server, pytest.raises(Unavailable) as caught:
        list(both(cloud, server, monkeypatch).list())
    assert caught.value.code == "bucket_misbehaves"


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"items": 3}', b'{"items": [{}]}', b"[" * 100_000, b"\xff"])
def test_listing_of_google_that_is_none_is_refused(body: bytes) -> None:
    with scripted(Reply(body=body), Reply(body=body)) as server, pytest.raises(Unavailable) as caught:
        list(google(server).list())
    assert caught.value.code == "bucket_misbehaves"


@pytest.mark.parametrize("headers", [{}, {"x-goog-generation": "x"}, GOOGLE | {"content-length": "x"}])
def test_reply_of_google_without_what_it_needs_is_unavailable(headers: dict[str, str]) -> None:
    reply = Reply(body=b"x", headers=headers)
    with scripted(reply, reply) as server, pytest.raises(Unavailable):
        google(server).read_tagged("k")
