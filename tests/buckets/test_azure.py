"""Azure Blob Storage: its replies, its credentials, and a real Azurite."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import ContainerClient

from skyhold.buckets.azure import AzureBucket
from skyhold.buckets.azure_errors import translated
from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import BucketLocation, parse_location, with_credentials
from skyhold.errors import InvalidInput, PermissionDenied
from tests.buckets.conformance import BucketConformance
from tests.buckets.emulators import AZURITE_ACCOUNT, AZURITE_KEY, azurite
from tests.buckets.lost_replies import HASTY, LostReplies
from tests.buckets.real_store import RealStore
from tests.buckets.scripted_server import Reply

KEY = base64.b64encode(b"a secret key of an account").decode()


class TestAzureReplies(LostReplies):
    @pytest.fixture(autouse=True)
    def _credentials(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LAB_ACCOUNT_KEY", KEY)

    def open_at(self, url: str) -> Bucket:
        return AzureBucket(
            parse_location("az://account/models", endpoint=f"{url}/account", credentials="env:LAB"), HASTY
        )

    def confirmation(self, body: bytes) -> Reply:
        md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
        modified = "Mon, 23 Nov 2026 20:00:00 GMT"
        return Reply(201, headers={"ETag": '"0x18"', "Content-MD5": md5, "Last-Modified": modified})


@pytest.mark.parametrize("content", [KEY, json.dumps([KEY])])
def test_malformed_credentials_file_is_refused_without_quoting_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "azure.json"
    path.write_text(content)
    path.chmod(0o600)
    bucket = AzureBucket(parse_location("az://account/models", credentials=f"file:{path}"), HASTY)
    with pytest.raises(InvalidInput) as caught:
        bucket.read("key")
    assert KEY not in str(caught.value) + repr(caught.value.__cause__) + repr(bucket)


def test_credentials_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "azure.json"
    path.write_text(json.dumps({"account_key": KEY}))
    path.chmod(0o644)
    with pytest.raises(PermissionDenied) as caught:
        AzureBucket(parse_location("az://account/models", credentials=f"file:{path}"), HASTY).read("key")
    assert caught.value.code == "credentials_exposed"


def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAB_ACCOUNT_KEY", raising=False)
    with pytest.raises(PermissionDenied) as caught:
        AzureBucket(parse_location("az://account/models", credentials="env:LAB"), HASTY).read("key")
    assert caught.value.code == "credentials_missing"


class TestRealAzure(RealStore):
    @pytest.fixture(scope="class")
    def endpoint(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        with azurite(tmp_path_factory.mktemp("azurite")) as url:
            ContainerClient(url, "models", credential=AZURITE_KEY).create_container()
            yield url

    @pytest.fixture(autouse=True)
    def _credentials(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AZURITE_CONNECTION_STRING", f"AccountName={AZURITE_ACCOUNT};AccountKey={AZURITE_KEY}")

    def at(self, path: str, endpoint: str) -> BucketLocation:
        return parse_location(f"az://{AZURITE_ACCOUNT}/{path}", endpoint=endpoint, credentials="env:AZURITE")

    @pytest.fixture
    def location(self, endpoint: str) -> BucketLocation:
        return self.at(f"models/{secrets.token_hex(4)}/team", endpoint)

    @pytest.fixture
    def missing(self, endpoint: str) -> BucketLocation:
        return self.at("missing", endpoint)

    def test_wrong_key_is_refused(self, location: BucketLocation, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WRONG_ACCOUNT_KEY", KEY)
        with AzureBucket(with_credentials(location, "env:WRONG"), HASTY) as bucket:
            with pytest.raises(PermissionDenied) as caught:
                bucket.write("key", b"1")
            assert KEY not in str(caught.value)

    def test_upload_that_declares_another_checksum_is_refused_by_the_store(self, endpoint: str) -> None:
        """The driver rests on this: Azurite, like Azure, compares Content-MD5 with what it received."""
        client = ContainerClient(endpoint, "models", credential=AZURITE_KEY, retry_total=0)
        with pytest.raises(HttpResponseError) as caught:
            client.get_blob_client("key").upload_blob(
                b"bytes", headers={"Content-MD5": base64.b64encode(bytes(16)).decode()}
            )
        assert translated(caught.value, "models", "key").code == "checksum_refused"


class TestAzureConformance(BucketConformance):
    @pytest.fixture(scope="class")
    def endpoint(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        with azurite(tmp_path_factory.mktemp("azurite")) as url:
            ContainerClient(url, "models", credential=AZURITE_KEY).create_container()
            yield url

    @pytest.fixture
    def location(self, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> BucketLocation:
        monkeypatch.setenv("AZURITE_ACCOUNT_KEY", AZURITE_KEY)
        url = f"az://{AZURITE_ACCOUNT}/models/{secrets.token_hex(8)}"
        return parse_location(url, endpoint=endpoint, credentials="env:AZURITE")

    @pytest.fixture
    def gone(self, location: BucketLocation) -> BucketLocation:
        return replace(location, url=f"az://{AZURITE_ACCOUNT}/no-such-container/prefix")

    @pytest.fixture
    def denied(self, location: BucketLocation, monkeypatch: pytest.MonkeyPatch) -> BucketLocation:
        monkeypatch.setenv("WRONG_ACCOUNT_KEY", KEY)
        return with_credentials(location, "env:WRONG")
