"""The rules of a bucket are read as AWS writes them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from skyhold.buckets.location import parse_location
from skyhold.buckets.open import open_bucket
from skyhold.buckets.rules import BucketRules
from skyhold.buckets.s3 import S3Bucket
from tests.buckets.conformance import QUICK
from tests.buckets.scripted_server import Reply, ScriptedServer, scripted

SPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
NONE_SET = Reply(404, b"<Error><Code>NoSuchLifecycleConfiguration</Code></Error>")
NO_LOCK = Reply(404, b"<Error><Code>ObjectLockConfigurationNotFoundError</Code></Error>")
UNVERSIONED = Reply(200, f"<VersioningConfiguration {SPACE}/>".encode())


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANY_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("ANY_SECRET_ACCESS_KEY", "any")


def bucket_at(server: ScriptedServer) -> S3Bucket:
    return S3Bucket(parse_location("s3://models", endpoint=server.url, credentials="env:ANY"), QUICK)


def rules_of(*replies: Reply) -> BucketRules:
    with scripted(*replies) as server:
        return bucket_at(server).rules()


def test_bucket_without_rules_has_none() -> None:
    with scripted(NONE_SET, UNVERSIONED, NO_LOCK) as server:
        rules = bucket_at(server).rules()
        assert server.requests == [f"GET /models?{name}=" for name in ("lifecycle", "versioning", "object-lock")]
    assert {rules.lifecycle.verdict, rules.versioning.verdict, rules.retention.verdict} == {"absent"}


@pytest.mark.parametrize(
    ("action", "status", "verdict"),
    [
        ("<Expiration><Days>30</Days></Expiration>", "Enabled", "harmful"),
        ("<Expiration><Days>30</Days></Expiration>", "Disabled", "absent"),
        ("<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>", "Enabled", "absent"),
        ("<Transition><Days>30</Days><StorageClass>GLACIER</StorageClass></Transition>", "Enabled", "costly"),
    ],
)
def test_lifecycle_document_is_read(action: str, status: str, verdict: str) -> None:
    rule = f"<Rule><Status>{status}</Status>{action}</Rule>"
    document = f"<LifecycleConfiguration {SPACE}>{rule}</LifecycleConfiguration>".encode()
    assert rules_of(Reply(200, document), UNVERSIONED, NO_LOCK).lifecycle.verdict == verdict


def test_versioning_and_default_lock_are_read() -> None:
    versioned = Reply(
        200, f"<VersioningConfiguration {SPACE}><Status>Enabled</Status></VersioningConfiguration>".encode()
    )
    locked = Reply(200, b"<ObjectLockConfiguration><Rule><DefaultRetention><Mode>GOVERNANCE</Mode></DefaultRetention>"
                        b"</Rule></ObjectLockConfiguration>")  # fmt: skip
    rules = rules_of(NONE_SET, versioned, locked)
    assert (rules.versioning.verdict, rules.retention.verdict) == ("costly", "harmful")


@pytest.mark.parametrize(
    "reply",
    [
        Reply(403, b"<Error><Code>AccessDenied</Code></Error>"),
        Reply(501),
        Reply(200, b"none"),
        Reply(200, b"<x/>", announced_bytes=20 << 30),
    ],
)
def test_what_the_store_does_not_report_is_unknown(reply: Reply) -> None:
    rules = rules_of(reply, reply, reply)
    assert {rules.lifecycle.verdict, rules.versioning.verdict, rules.retention.verdict} == {"unknown"}


def test_rules_are_asked_for_again_where_a_reply_is_lost() -> None:
    with scripted(NONE_SET, Reply(lost=True), NONE_SET, UNVERSIONED, NO_LOCK) as server:
        rules = open_bucket(parse_location("s3://models", endpoint=server.url, credentials="env:ANY"), QUICK).rules()
        assert len(server.requests) == 5
    assert {rules.lifecycle.verdict, rules.versioning.verdict, rules.retention.verdict} == {"absent"}


def test_signature_does_not_follow_a_redirect() -> None:
    with scripted() as elsewhere, scripted(*[Reply(307, headers={"Location": elsewhere.url})] * 3) as server:
        assert bucket_at(server).rules().lifecycle.verdict == "unknown"
        assert elsewhere.requests == []


def test_time_is_the_date_of_a_reply() -> None:
    with scripted(Reply(403)) as server:
        reported = bucket_at(server).server_time()
    assert reported is not None
    assert abs((datetime.now(UTC) - reported).total_seconds()) < 5
