"""The signed requests are AWS's own example, and the documents are read as AWS writes them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from skyhold.buckets.s3_subresources import SignedBucket, ask_rules, ask_time, signed_headers
from tests.buckets.scripted_server import Reply, scripted

SPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
NONE_SET = Reply(404, b"<Error><Code>NoSuchLifecycleConfiguration</Code></Error>")
NO_LOCK = Reply(404, b"<Error><Code>ObjectLockConfigurationNotFoundError</Code></Error>")
UNVERSIONED = Reply(200, f"<VersioningConfiguration {SPACE}/>".encode())


def signed(url: str) -> SignedBucket:
    return SignedBucket(url, "us-east-1", "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")


def test_signature_is_that_of_the_documented_example() -> None:
    """`GET Bucket Lifecycle` in AWS's page on header-based authentication."""
    headers = signed_headers(
        signed("https://examplebucket.s3.amazonaws.com"), "lifecycle", datetime(2013, 5, 24, tzinfo=UTC)
    )
    assert headers["authorization"].endswith("fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543")


def test_secret_is_in_no_repr() -> None:
    assert "wJalr" not in repr(signed("https://models.example"))


def test_bucket_without_rules_has_none() -> None:
    with scripted(NONE_SET, UNVERSIONED, NO_LOCK) as server:
        rules = ask_rules(signed(f"{server.url}/models"))
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
    with scripted(Reply(200, document), UNVERSIONED, NO_LOCK) as server:
        assert ask_rules(signed(server.url)).lifecycle.verdict == verdict


def test_versioning_and_default_lock_are_read() -> None:
    versioned = Reply(
        200, f"<VersioningConfiguration {SPACE}><Status>Enabled</Status></VersioningConfiguration>".encode()
    )
    locked = Reply(200, b"<ObjectLockConfiguration><Rule><DefaultRetention><Mode>GOVERNANCE</Mode></DefaultRetention>"
                        b"</Rule></ObjectLockConfiguration>")  # fmt: skip
    with scripted(NONE_SET, versioned, locked) as server:
        rules = ask_rules(signed(server.url))
    assert (rules.versioning.verdict, rules.retention.verdict) == ("costly", "harmful")


@pytest.mark.parametrize(
    "reply", [Reply(403, b"<Error><Code>AccessDenied</Code></Error>"), Reply(501), Reply(lost=True)]
)
def test_what_the_store_does_not_tell_is_unknown(reply: Reply) -> None:
    with scripted(reply, reply, reply) as server:
        rules = ask_rules(signed(server.url))
    assert {rules.lifecycle.verdict, rules.versioning.verdict, rules.retention.verdict} == {"unknown"}


def test_signature_does_not_follow_a_redirect() -> None:
    with scripted() as elsewhere, scripted(*[Reply(307, headers={"Location": elsewhere.url})] * 3) as server:
        assert ask_rules(signed(server.url)).lifecycle.verdict == "unknown"
        assert elsewhere.requests == []


def test_time_is_the_date_of_a_reply() -> None:
    with scripted(Reply(403)) as server:
        told = ask_time(signed(server.url))
    assert told is not None
    assert abs((datetime.now(UTC) - told).total_seconds()) < 5
