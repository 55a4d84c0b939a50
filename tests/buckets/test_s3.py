"""The S3 driver passes the conformance suite against two independent servers, and the fault suite."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest

from skyhold.buckets.admission import admit
from skyhold.buckets.bucket import Bucket
from skyhold.buckets.check import check_bucket
from skyhold.buckets.location import BucketLocation, parse_location
from skyhold.buckets.open import open_bucket
from skyhold.errors import Corrupt, OutcomeUnknown, PermissionDenied, Unavailable
from tests import servers
from tests.buckets.conformance import QUICK, BucketConformance, every_call, tag_of
from tests.buckets.places import SeaweedPlace, ThroughProxy, VersitygwPlace
from tests.buckets.scripted_server import Reply, scripted
from tests.faults.bucket_faults import BucketFaults
from tests.faults.faulty_s3 import CREDENTIALS, FaultyS3, faulty_s3
from tests.faults.proxy import WRITES, Fault, FaultProxy
from tests.faults.s3_faults import S3Fault


class S3Conformance(BucketConformance):
    def test_unknown_access_key_is_permission_denied(
        self, location: BucketLocation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NOBODY_ACCESS_KEY_ID", "nobody")
        monkeypatch.setenv("NOBODY_SECRET_ACCESS_KEY", servers.SECRET_KEY)
        for call in every_call(open_bucket(replace(location, credentials="env:NOBODY"), QUICK)):
            with pytest.raises(PermissionDenied):
                call()

    def test_check_calls_no_right_missing_where_the_credentials_are_wrong(self, denied: BucketLocation) -> None:
        report = check_bucket(open_bucket(denied, QUICK), denied)
        assert report.reachable
        assert not any(trial.works for trial in report.trials)
        assert report.missing_rights == ()


class TestVersitygw(VersitygwPlace, S3Conformance):
    pass


class TestSeaweedFS(SeaweedPlace, S3Conformance):
    def test_listing_out_of_order_is_refused_rather_than_cut(self, bucket: Bucket) -> None:
        for key in ["a-b", "a/b", "b"]:
            bucket.write(key, b"x")
        with pytest.raises(Corrupt) as caught:
            list(bucket.list())
        assert caught.value.code == "listing_out_of_order"

    def test_store_that_keeps_contenders_waiting_is_atomic_and_votes_only_where_it_answers(
        self, bucket: Bucket
    ) -> None:
        """Its filer's lock on a key is polled once a second (measured, also without a kept connection: only conditional
        puts to one key wait, and for whole seconds). How many of 16 contenders meet it depends on when they come."""
        verdict = admit(bucket, rounds=20, clients=16, deadline_s=1.0)
        assert verdict.wins <= verdict.rounds
        assert verdict.admitted or verdict.hangs > 0
        assert all("had no answer within 1 s" in reason for reason in verdict.reasons), verdict


class TestVersitygwFaults(ThroughProxy, VersitygwPlace, BucketFaults):
    pass


CONFIRMS_OTHER_BYTES = partial(
    Fault, "answer", times=1, status=200, methods=WRITES, headers=(("ETag", f'"{"0" * 32}"'),)
)
"""A 200 with the tag of other bytes, of a server that has stored nothing."""


class TestVersitygwConfirmations(ThroughProxy, VersitygwPlace):
    @pytest.fixture
    def bucket(self, location: BucketLocation) -> Iterator[Bucket]:
        with open_bucket(location, QUICK) as opened:
            yield opened

    @pytest.mark.parametrize("there", [None, b"older", b"longer than what is sent"])
    def test_write_that_was_acknowledged_but_not_stored_is_an_error(
        self, there: bytes | None, bucket: Bucket, proxy: FaultProxy
    ) -> None:
        if there is not None:
            bucket.write("k", there)
        proxy.inject(CONFIRMS_OTHER_BYTES())
        with pytest.raises(Corrupt) as caught:
            bucket.write("k", b"bytes")
        assert caught.value.code == "stored_differently"

    def test_conditional_put_that_was_acknowledged_but_not_stored_is_in_doubt(
        self, bucket: Bucket, proxy: FaultProxy
    ) -> None:
        proxy.inject(CONFIRMS_OTHER_BYTES())
        with pytest.raises(OutcomeUnknown):
            bucket.write_if("new", b"bytes", expected_tag=None)
        tag = bucket.write_if("new", b"bytes", expected_tag=None)
        proxy.inject(CONFIRMS_OTHER_BYTES())
        with pytest.raises(OutcomeUnknown):
            bucket.write_if("new", b"newer", expected_tag=tag)

    def test_tag_that_is_no_md5_is_confirmed_by_reading_back(
        self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As under SSE-KMS, and in directory buckets."""
        monkeypatch.setattr("skyhold.buckets.s3.md5_in", lambda _tag: b"")
        body = bytes(range(256)) * 40_000
        bucket.write("k", body)
        assert bytes(bucket.read("k")) == body
        first = bucket.write_if("small", b"first", expected_tag=None)
        assert bucket.write_if("small", b"next", expected_tag=first) == tag_of(bucket, "small")

    def test_tag_of_a_write_is_compared_and_nothing_read(self, bucket: Bucket, proxy: FaultProxy) -> None:
        bucket.write("k", b"bytes")
        bucket.write_if("new", b"bytes", expected_tag=None)
        assert proxy.count() == 2


def test_store_that_stores_nothing_is_found_out_whatever_tag_it_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANY_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("ANY_SECRET_ACCESS_KEY", "any")
    for tag in ('"another"', f'"{"0" * 32}"', f'"{"0" * 32}-2"'):
        with scripted(Reply(headers={"ETag": tag}), Reply(404)) as server:
            location = parse_location("s3://models", endpoint=server.url, credentials="env:ANY", name="lab")
            with open_bucket(location, QUICK) as bucket, pytest.raises(Corrupt) as caught:
                bucket.write("k", b"bytes")
            assert caught.value.code == "stored_differently"
            assert [request.split()[0] for request in server.requests] == ["PUT", "GET"]


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with faulty_s3() as server:
        yield server


def test_put_that_was_stored_is_confirmed_by_reading_back_where_its_reply_has_no_tag(faulty: FaultyS3) -> None:
    faulty.inject(S3Fault("no_etag"))
    with open_bucket(faulty.location("models"), QUICK) as bucket:
        bucket.write("k", b"bytes")
        tag = bucket.write_if("new", b"first", expected_tag=None)
        assert tag == tag_of(bucket, "new")
        assert bucket.write_if("new", b"next", expected_tag=tag) == tag_of(bucket, "new")
    assert bytes(faulty.buckets["models"].by_key["k"].body) == b"bytes"


def test_refusal_by_a_condition_that_was_not_sent_is_no_conflict(faulty: FaultyS3) -> None:
    faulty.inject(S3Fault("stored_but_refused"))
    with open_bucket(faulty.location("models"), QUICK) as bucket, pytest.raises(Unavailable) as caught:
        bucket.write("k", b"bytes")
    assert caught.value.code == "bucket_misbehaves"


SEALED = {"ETag": f'"{"0" * 32}"', "x-amz-server-side-encryption": "aws:kms"}


@pytest.mark.parametrize(("digest", "reads"), [(b"bytes", 0), (b"other", 1)])
def test_checksum_is_compared_where_encryption_makes_the_tag_another(
    digest: bytes, reads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under SSE-KMS: nothing is read back where the store repeats the SHA-256."""
    monkeypatch.setenv("ANY_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("ANY_SECRET_ACCESS_KEY", "any")
    checksum = base64.b64encode(hashlib.sha256(digest).digest()).decode()
    with scripted(Reply(headers=SEALED | {"x-amz-checksum-sha256": checksum}), Reply(404)) as server:
        bucket = open_bucket(parse_location("s3://models", endpoint=server.url, credentials="env:ANY"), QUICK)
        with nullcontext() if not reads else pytest.raises(Corrupt):
            bucket.write("k", b"bytes")
        assert len(server.requests) == 1 + reads
