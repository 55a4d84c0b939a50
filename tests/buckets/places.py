"""Where each driver's suites run: the fixtures of a location on a real server, or through a fault proxy before it.

A test class is a place and a suite: `class TestAzurite(AzuritePlace, BucketConformance)`, and with the proxy
`class TestAzuriteFaults(ThroughProxy, AzuritePlace, BucketFaults)`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace

import pytest

from skyhold.buckets.location import BucketLocation, parse_location
from tests import servers
from tests.faults.proxy import FaultProxy, fault_proxy

CONTAINER = "models"


class Place:
    @pytest.fixture
    def server(self) -> servers.Server:
        """The server, which has the bucket `CONTAINER`."""
        raise NotImplementedError

    @pytest.fixture
    def endpoint(self, server: servers.Server) -> str:
        return server.url


class ThroughProxy:
    @pytest.fixture
    def proxy(self, server: servers.Server) -> Iterator[FaultProxy]:
        with fault_proxy(server.port) as proxy:
            yield proxy

    @pytest.fixture
    def endpoint(self, proxy: FaultProxy) -> str:
        return proxy.url


class S3Place(Place):
    @pytest.fixture
    def location(self, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> BucketLocation:
        monkeypatch.setenv("RIGHT_ACCESS_KEY_ID", servers.ACCESS_KEY)
        monkeypatch.setenv("RIGHT_SECRET_ACCESS_KEY", servers.SECRET_KEY)
        url = f"s3://{CONTAINER}/{secrets.token_hex(8)}"
        return parse_location(url, endpoint=endpoint, credentials="env:RIGHT", name="lab")

    @pytest.fixture
    def gone(self, location: BucketLocation) -> BucketLocation:
        return replace(location, url="s3://no-such-bucket/prefix")

    @pytest.fixture
    def denied(self, location: BucketLocation, monkeypatch: pytest.MonkeyPatch) -> BucketLocation:
        monkeypatch.setenv("WRONG_ACCESS_KEY_ID", servers.ACCESS_KEY)
        monkeypatch.setenv("WRONG_SECRET_ACCESS_KEY", "guessed")
        return replace(location, credentials="env:WRONG")


class VersitygwPlace(S3Place):
    @pytest.fixture
    def server(self) -> servers.Server:
        return servers.versitygw().with_bucket(CONTAINER)


class SeaweedPlace(S3Place):
    @pytest.fixture
    def server(self) -> servers.Server:
        return servers.seaweedfs().with_bucket(CONTAINER)


class FakeGcsPlace(Place):
    @pytest.fixture
    def server(self) -> servers.Server:
        return servers.fake_gcs_server().with_bucket(CONTAINER)

    @pytest.fixture
    def location(self, endpoint: str) -> BucketLocation:
        return parse_location(f"gs://{CONTAINER}/{secrets.token_hex(8)}", endpoint=endpoint)

    @pytest.fixture
    def gone(self, location: BucketLocation) -> BucketLocation:
        return replace(location, url="gs://no-such-bucket/prefix")


class AzuritePlace(Place):
    @pytest.fixture
    def server(self) -> servers.Server:
        return servers.azurite().with_bucket(CONTAINER)

    @pytest.fixture
    def location(self, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> BucketLocation:
        monkeypatch.setenv("AZURITE_ACCOUNT_KEY", servers.AZURITE_KEY)
        url = f"az://{servers.AZURITE_ACCOUNT}/{CONTAINER}/{secrets.token_hex(8)}"
        at = f"{endpoint}/{servers.AZURITE_ACCOUNT}"
        return parse_location(url, endpoint=at, credentials="env:AZURITE")

    @pytest.fixture
    def gone(self, location: BucketLocation) -> BucketLocation:
        return replace(location, url=f"az://{servers.AZURITE_ACCOUNT}/no-such-container/prefix")

    @pytest.fixture
    def denied(self, location: BucketLocation, monkeypatch: pytest.MonkeyPatch) -> BucketLocation:
        monkeypatch.setenv("WRONG_ACCOUNT_KEY", servers.WRONG_AZURE_KEY)
        return replace(location, credentials="env:WRONG")
