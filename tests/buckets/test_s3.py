"""The S3 driver passes the conformance suite against two independent servers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

import pytest

from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import BucketLocation, parse_location
from skyhold.buckets.open import open_bucket
from skyhold.errors import Corrupt, PermissionDenied
from tests import servers
from tests.buckets.conformance import QUICK, BucketConformance, every_call
from tests.faults.bucket_faults import BucketFaults
from tests.faults.proxy import FaultProxy, fault_proxy

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

    @pytest.fixture
    def denied(self, location: BucketLocation, monkeypatch: pytest.MonkeyPatch) -> BucketLocation:
        monkeypatch.setenv("WRONG_ACCESS_KEY_ID", servers.ACCESS_KEY)
        monkeypatch.setenv("WRONG_SECRET_ACCESS_KEY", "guessed")
        return replace(location, credentials="env:WRONG")

    def test_unknown_access_key_is_permission_denied(
        self, location: BucketLocation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NOBODY_ACCESS_KEY_ID", "nobody")
        monkeypatch.setenv("NOBODY_SECRET_ACCESS_KEY", servers.SECRET_KEY)
        for call in every_call(open_bucket(replace(location, credentials="env:NOBODY"), QUICK)):
            with pytest.raises(PermissionDenied):
                call()


class TestOnVersitygw(S3Conformance):
    @pytest.fixture
    def server(self) -> servers.Server:
        return servers.versitygw()


class TestOnSeaweedFS(S3Conformance):
    exempt: ClassVar[Mapping[str, str]] = {
        "test_listing_order_is_that_of_the_bytes": "SeaweedFS lists by folders; the driver refuses, as tested below",
        "test_gone_bucket_is_named_by_every_call": "SeaweedFS makes a missing bucket on the first write; see versitygw",
    }

    def test_listing_out_of_order_is_refused_rather_than_cut(self, bucket: Bucket) -> None:
        for key in ["a-b", "a/b", "b"]:
            bucket.write(key, b"x")
        with pytest.raises(Corrupt) as caught:
            list(bucket.list())
        assert caught.value.code == "listing_out_of_order"

    @pytest.fixture
    def server(self) -> servers.Server:
        return servers.seaweedfs()


class TestFaults(BucketFaults):
    @pytest.fixture
    def proxy(self) -> Iterator[FaultProxy]:
        with fault_proxy(servers.versitygw().port) as proxy:
            yield proxy

    @pytest.fixture
    def location(self, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> BucketLocation:
        monkeypatch.setenv("RIGHT_ACCESS_KEY_ID", servers.ACCESS_KEY)
        monkeypatch.setenv("RIGHT_SECRET_ACCESS_KEY", servers.SECRET_KEY)
        servers.versitygw().make_bucket(SHARED_BUCKET)
        return parse_location(
            f"s3://{SHARED_BUCKET}/{uuid.uuid4().hex}", endpoint=proxy.url, credentials="env:RIGHT", name="lab"
        )
