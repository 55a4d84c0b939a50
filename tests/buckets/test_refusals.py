"""A wrong clock and credentials whose time is over are named as what they are, by every driver."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import parse_location
from skyhold.buckets.open import open_bucket
from skyhold.buckets.retry import RetryPolicy
from skyhold.errors import PermissionDenied
from skyhold.storage.replica_write import Written, not_durable
from tests import servers
from tests.buckets.scripted_server import Reply, scripted

ONCE = RetryPolicy(attempts_max=1)
THEN = "2026-11-30 05:00:00 UTC"
SKEWED = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time and the current time is
too large.</Message><RequestTime>20261130T074500Z</RequestTime><ServerTime>2026-11-30T05:00:00Z</ServerTime>
<MaxAllowedSkewMilliseconds>900000</MaxAllowedSkewMilliseconds></Error>"""
EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("LAB_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("LAB_ACCOUNT_KEY", servers.WRONG_AZURE_KEY)


def bucket_at(url: str, endpoint: str) -> Bucket:
    credentials = None if url.startswith("gs") else "env:LAB"
    return open_bucket(parse_location(url, endpoint=endpoint, credentials=credentials, name="lab"), ONCE)


def refused_by(bucket: Bucket, *, write: bool = False) -> PermissionDenied:
    with pytest.raises(PermissionDenied) as caught:
        bucket.write("k", b"body") if write else list(bucket.list())
    return caught.value


@pytest.mark.parametrize("write", [True, False])
def test_s3_names_both_times_of_a_wrong_clock(write: bool) -> None:
    with scripted(Reply(403, SKEWED)) as server:
        error = refused_by(bucket_at("s3://models", server.url), write=write)
    assert error.code == "clock_skew"
    assert "2026-11-30 07:45:00 UTC" in error.message
    assert THEN in error.message
    assert "``" not in error.message


@pytest.mark.parametrize(
    "times", [b"", b"<RequestTime>x</RequestTime>", b"<RequestTime>99999999T999999Z</RequestTime>"]
)
def test_s3_clock_without_times_is_still_a_clock(times: bytes) -> None:
    body = SKEWED.partition(b"<RequestTime>")[0] + times + b"<ServerTime>2026-13-99T99:99:99</ServerTime></Error>"
    with scripted(Reply(403, body)) as server:
        assert refused_by(bucket_at("s3://models", server.url)).code == "clock_skew"


@pytest.mark.parametrize("write", [True, False])
@pytest.mark.parametrize("status", [400, 403])
def test_s3_token_whose_time_is_over_is_named(write: bool, status: int) -> None:
    with scripted(Reply(status, EXPIRED)) as server:
        error = refused_by(bucket_at("s3://models", server.url), write=write)
    assert error.code == "credentials_expired"
    assert "Renew" in (error.hint or "")


@pytest.mark.parametrize("url", ["az://account/models", "gs://models"])
def test_date_of_a_refusal_reveals_a_wrong_clock(url: str) -> None:
    date = format_datetime(datetime.now(UTC) - timedelta(hours=2), usegmt=True)

    with scripted(Reply(403, b"", {"Date": date, "x-ms-error-code": "AuthenticationFailed"})) as server:
        error = refused_by(bucket_at(url, server.url))
    assert error.code == "clock_skew"
    assert (datetime.now(UTC) - timedelta(hours=2)).strftime("%Y-%m-%d %H") in error.message


def test_azure_sas_whose_time_is_over_is_named() -> None:
    body = (
        b'<?xml version="1.0" encoding="utf-8"?><Error><Code>AuthenticationFailed</Code><Message>Server failed to '
        b"authenticate the request.</Message><AuthenticationErrorDetail>Signature not valid in the specified "
        b"time frame:"
        b" Start [Mon, 30 Nov 2020 05:00:00 GMT] - Expiry [Mon, 30 Nov 2020 06:00:00 GMT]"
        b"</AuthenticationErrorDetail></Error>"
    )
    headers = {"x-ms-error-code": "AuthenticationFailed", "content-type": "application/xml"}
    with scripted(Reply(403, body, headers)) as server:
        assert refused_by(bucket_at("az://account/models", server.url)).code == "credentials_expired"


@pytest.mark.parametrize("url", ["s3://models", "az://account/models", "gs://models"])
def test_wrong_credentials_at_the_right_time_are_neither(url: str) -> None:
    with scripted(Reply(403, b"", {"x-ms-error-code": "AuthenticationFailed"})) as server:
        assert refused_by(bucket_at(url, server.url)).code in {"permission_denied", "credentials_refused"}


def test_push_that_meets_an_expired_token_names_what_to_renew() -> None:
    with scripted(Reply(403, EXPIRED)) as server:
        expired = refused_by(bucket_at("s3://models", server.url), write=True)
    error = not_durable(Written("packs/x", 4, failed={"lab": expired}))
    assert error.code == "not_durable"
    assert isinstance(error, PermissionDenied)
    assert "Renew" in (error.hint or "")
    assert "fewer copies" not in (error.hint or "")
