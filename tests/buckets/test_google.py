"""Google Cloud Storage: its replies, its credentials, and a real fake-gcs-server."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import requests

from skyhold.buckets.bucket import Bucket
from skyhold.buckets.google import GoogleBucket
from skyhold.buckets.google_upload import MultipartForm, crc32c_base64
from skyhold.buckets.location import BucketLocation, parse_location
from skyhold.errors import Corrupt, InvalidInput, PermissionDenied
from tests.buckets.conformance import BucketConformance
from tests.buckets.emulators import fake_gcs_server
from tests.buckets.lost_replies import HASTY, LostReplies
from tests.buckets.real_store import RealStore
from tests.buckets.scripted_server import Reply


class TestGoogleReplies(LostReplies):
    def open_at(self, url: str) -> Bucket:
        return GoogleBucket(parse_location("gs://models", endpoint=url), HASTY)

    def confirmation(self, body: bytes) -> Reply:
        return Reply(body=json.dumps({"generation": "18", "crc32c": crc32c_base64(body)}).encode())


def test_checksum_is_that_of_the_specification() -> None:
    """RFC 3720, B.4: 32 bytes of zeros have the CRC32C 8a9136aa."""
    assert crc32c_base64(bytes(32)) == "ipE2qg=="


def test_form_has_the_length_that_it_sends() -> None:
    body = bytes(range(256)) * 3000
    form = MultipartForm({"name": "key"}, memoryview(body))
    first, second = (b"".join(bytes(part) for part in form) for _ in range(2))
    assert len(first) == len(form)
    assert first == second
    assert body in first


SECRET = "MIIEsecretkeymaterial"


@pytest.mark.parametrize("content", [SECRET, json.dumps({"private_key": SECRET}), json.dumps([SECRET])])
def test_malformed_key_file_is_refused_without_quoting_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key.json"
    path.write_text(content)
    bucket = GoogleBucket(parse_location("gs://models", credentials=f"file:{path}"), HASTY)
    with pytest.raises(InvalidInput) as caught:
        bucket.read("key")
    assert caught.value.code == "invalid_credentials"
    assert SECRET not in str(caught.value) + repr(caught.value.__cause__) + repr(bucket)


def test_unset_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(PermissionDenied, match="NO_SUCH_KEY") as caught:
        GoogleBucket(parse_location("gs://models", credentials="env:NO_SUCH_KEY"), HASTY).read("key")
    assert caught.value.code == "credentials_missing"


class TestRealGoogle(RealStore):
    @pytest.fixture(scope="class")
    def endpoint(self) -> Iterator[str]:
        with fake_gcs_server() as url:
            requests.post(f"{url}/storage/v1/b", json={"name": "models"}, timeout=10).raise_for_status()
            yield url

    @pytest.fixture
    def location(self, endpoint: str) -> BucketLocation:
        return parse_location(f"gs://models/{secrets.token_hex(4)}/team", endpoint=endpoint)

    @pytest.fixture
    def missing(self, endpoint: str) -> BucketLocation:
        return parse_location("gs://missing", endpoint=endpoint)

    def test_upload_that_declares_another_checksum_is_refused_by_the_store(
        self, location: BucketLocation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("skyhold.buckets.google.crc32c_base64", lambda _body: "AAAAAA==")
        with GoogleBucket(location, HASTY) as bucket:
            with pytest.raises(Corrupt) as caught:
                bucket.write("key", b"bytes")
            assert caught.value.code == "checksum_refused"
            assert list(bucket.list()) == []

    def test_emulator_variable_is_honoured(self, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint.removeprefix("http://"))
        with GoogleBucket(parse_location("gs://models/by-variable"), HASTY) as bucket:
            bucket.write("key", b"1")
            assert bytes(bucket.read("key")) == b"1"


class TestGoogleConformance(BucketConformance):
    exempt: ClassVar = {
        "test_wrong_credentials_are_permission_denied": "fake-gcs-server asks for none; TestGoogleReplies has 401, 403"
    }

    @pytest.fixture(scope="class")
    def endpoint(self) -> Iterator[str]:
        with fake_gcs_server() as url:
            requests.post(f"{url}/storage/v1/b", json={"name": "models"}, timeout=10).raise_for_status()
            yield url

    @pytest.fixture
    def location(self, endpoint: str) -> BucketLocation:
        return parse_location(f"gs://models/{secrets.token_hex(8)}", endpoint=endpoint)

    @pytest.fixture
    def gone(self, location: BucketLocation) -> BucketLocation:
        return replace(location, url="gs://no-such-bucket/prefix")
