"""Azure Blob Storage: its credentials, and the suites on Azurite."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import ContainerClient

from skyhold.buckets.azure import AzureBucket
from skyhold.buckets.azure_errors import translated
from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import parse_location
from skyhold.errors import Corrupt, InvalidInput, OutcomeUnknown, PermissionDenied
from tests import servers
from tests.buckets.conformance import QUICK, BucketConformance
from tests.buckets.places import CONTAINER, AzuritePlace, ThroughProxy
from tests.faults.bucket_faults import BucketFaults
from tests.faults.proxy import WRITES, Fault, FaultProxy

KEY = servers.WRONG_AZURE_KEY


@pytest.mark.parametrize("content", [KEY, json.dumps([KEY])])
def test_malformed_credentials_file_is_refused_without_quoting_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "azure.json"
    path.write_text(content)
    path.chmod(0o600)
    bucket = AzureBucket(parse_location("az://account/models", credentials=f"file:{path}"), QUICK)
    with pytest.raises(InvalidInput) as caught:
        bucket.read("key")
    assert KEY not in str(caught.value) + repr(caught.value.__cause__) + repr(bucket)


def test_credentials_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "azure.json"
    path.write_text(json.dumps({"account_key": KEY}))
    path.chmod(0o644)
    with pytest.raises(PermissionDenied) as caught:
        AzureBucket(parse_location("az://account/models", credentials=f"file:{path}"), QUICK).read("key")
    assert caught.value.code == "credentials_exposed"


def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAB_ACCOUNT_KEY", raising=False)
    with pytest.raises(PermissionDenied) as caught:
        AzureBucket(parse_location("az://account/models", credentials="env:LAB"), QUICK).read("key")
    assert caught.value.code == "credentials_missing"


class TestAzurite(AzuritePlace, BucketConformance):
    list_keys = 257

    @pytest.fixture(autouse=True)
    def _small_pages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Azurite writes slowly: its page ends are met with fewer objects."""
        monkeypatch.setattr("skyhold.buckets.azure.PAGE_OBJECTS", 100)

    def test_upload_that_declares_another_checksum_is_refused_by_the_store(self, endpoint: str) -> None:
        """The driver rests on this: Azurite, like Azure, compares Content-MD5 with what it received."""
        account = f"{endpoint}/{servers.AZURITE_ACCOUNT}"
        client = ContainerClient(account, CONTAINER, credential=servers.AZURITE_KEY, retry_total=0)
        with pytest.raises(HttpResponseError) as caught:
            client.get_blob_client("key").upload_blob(
                b"bytes", headers={"Content-MD5": base64.b64encode(bytes(16)).decode()}
            )
        assert translated(caught.value, CONTAINER, "key").code == "checksum_refused"


class TestAzuriteFaults(ThroughProxy, AzuritePlace, BucketFaults):
    def test_confirmation_of_other_bytes_is_corrupt(self, bucket: Bucket, proxy: FaultProxy) -> None:
        md5 = base64.b64encode(hashlib.md5(b"other bytes").digest()).decode()
        headers = (("ETag", '"0x18"'), ("Content-MD5", md5), ("Last-Modified", "Mon, 23 Nov 2026 20:00:00 GMT"))
        proxy.inject(Fault("answer", status=201, headers=headers, methods=WRITES))
        with pytest.raises(Corrupt) as caught:
            bucket.write("k", b"bytes")
        assert caught.value.code == "checksum_refused"

    def test_confirmation_without_a_tag_is_in_doubt(self, bucket: Bucket, proxy: FaultProxy) -> None:
        proxy.inject(Fault("answer", status=201, methods=WRITES))
        with pytest.raises(OutcomeUnknown):
            bucket.write_if("new", b"bytes", expected_tag=None)
        assert proxy.count() == 1
