"""Google Cloud Storage: its credentials, its uploads, and the suites on fake-gcs-server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from skyhold.buckets.bucket import Bucket
from skyhold.buckets.google import GoogleBucket
from skyhold.buckets.google_upload import MultipartForm, crc32c_base64
from skyhold.buckets.location import parse_location
from skyhold.errors import Corrupt, InvalidInput, OutcomeUnknown, PermissionDenied
from tests.buckets.conformance import QUICK, BucketConformance
from tests.buckets.places import CONTAINER, FakeGcsPlace, ThroughProxy
from tests.faults.bucket_faults import BucketFaults
from tests.faults.proxy import WRITES, Fault, FaultProxy


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
    path.chmod(0o600)
    bucket = GoogleBucket(parse_location("gs://models", credentials=f"file:{path}"), QUICK)
    with pytest.raises(InvalidInput) as caught:
        bucket.read("key")
    assert caught.value.code == "invalid_credentials"
    assert SECRET not in str(caught.value) + repr(caught.value.__cause__) + repr(bucket)


def test_key_file_that_every_user_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text("{}")
    path.chmod(0o644)
    with pytest.raises(PermissionDenied) as caught:
        GoogleBucket(parse_location("gs://models", credentials=f"file:{path}"), QUICK).read("key")
    assert caught.value.code == "credentials_exposed"


def test_unset_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(PermissionDenied, match="NO_SUCH_KEY") as caught:
        GoogleBucket(parse_location("gs://models", credentials="env:NO_SUCH_KEY"), QUICK).read("key")
    assert caught.value.code == "credentials_missing"


class TestFakeGcsServer(FakeGcsPlace, BucketConformance):
    def test_upload_that_declares_another_checksum_is_refused_by_the_store(
        self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("skyhold.buckets.google.crc32c_base64", lambda _body: "AAAAAA==")
        with pytest.raises(Corrupt) as caught:
            bucket.write("key", b"bytes")
        assert caught.value.code == "checksum_refused"
        assert list(bucket.list()) == []

    def test_emulator_variable_is_honoured(self, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint.removeprefix("http://"))
        with GoogleBucket(parse_location(f"gs://{CONTAINER}/by-variable"), QUICK) as bucket:
            bucket.write("key", b"1")
            assert bytes(bucket.read("key")) == b"1"


class TestFakeGcsServerFaults(ThroughProxy, FakeGcsPlace, BucketFaults):
    def test_confirmation_of_other_bytes_is_corrupt(self, bucket: Bucket, proxy: FaultProxy) -> None:
        other = json.dumps({"generation": "18", "crc32c": crc32c_base64(b"other bytes")}).encode()
        proxy.inject(Fault("answer", status=200, body=other, methods=WRITES))
        with pytest.raises(Corrupt) as caught:
            bucket.write("k", b"bytes")
        assert caught.value.code == "checksum_refused"

    def test_confirmation_without_a_generation_is_in_doubt(self, bucket: Bucket, proxy: FaultProxy) -> None:
        proxy.inject(Fault("answer", status=200, body=b"{}", methods=WRITES))
        with pytest.raises(OutcomeUnknown):
            bucket.write_if("new", b"bytes", expected_tag=None)
        assert proxy.count() == 1
