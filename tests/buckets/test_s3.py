"""The S3 driver passes the conformance suite against two independent servers."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from skyhold.buckets.location import BucketLocation, parse_location
from tests import servers
from tests.buckets.conformance import BucketConformance

SHARED_BUCKET = "conformance"


class S3Conformance(BucketConformance):
    @pytest.fixture
    def server(self) -> servers.Server:
        raise NotImplementedError

    @pytest.fixture
    def location(self, server: servers.Server, monkeypatch: pytest.MonkeyPatch) -> BucketLocation:
        monkeypatch.setenv("RIGHT_ACCESS_KEY_ID", servers.ACCESS_KEY)
        monkeypatch.setenv("RIGHT_SECRET_ACCESS_KEY", servers.SECRET_KEY)
        server.make_bucket(SHARED_BUCKET)
        return parse_location(
            f"s3://{SHARED_BUCKET}/{uuid.uuid4().hex}", endpoint=server.url, credentials="env:RIGHT", name="lab"
        )

    @pytest.fixture
    def gone(self, location: BucketLocation) -> BucketLocation:
        return replace(location, url="s3://no-such-bucket/prefix")

    @pytest.fixture(params=["other key", "other secret"])
    def denied(
        self, location: BucketLocation, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
    ) -> BucketLocation:
        other_key = request.param == "other key"
        monkeypatch.setenv("WRONG_ACCESS_KEY_ID", "nobody" if other_key else servers.ACCESS_KEY)
        monkeypatch.setenv("WRONG_SECRET_ACCESS_KEY", servers.SECRET_KEY if other_key else "guessed")
        return replace(location, credentials="env:WRONG")


class TestOnVersitygw(S3Conformance):
    @pytest.fixture
    def server(self) -> servers.Server:
        return servers.versitygw()


class TestOnSeaweedFS(S3Conformance):
    @pytest.fixture
    def server(self) -> servers.Server:
        return servers.seaweedfs()
