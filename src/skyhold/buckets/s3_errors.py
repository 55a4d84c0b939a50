"""One table from the replies of S3, and from those that did not come, to our errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from skyhold import error_codes
from skyhold.buckets.bounded import misbehaves
from skyhold.buckets.bucket import range_not_satisfiable
from skyhold.buckets.refusals import clock_skew, expired
from skyhold.buckets.retry import retry_after_s
from skyhold.buckets.s3_http import Closed, NoReply
from skyhold.buckets.s3_xml import NoDocument, child_text, parsed
from skyhold.errors import (
    Conflict,
    Corrupt,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    QuotaExceeded,
    SkyholdError,
    Unavailable,
)

_CODE: Final = re.compile(r"[A-Za-z0-9.]{1,64}")
_REGION: Final = re.compile(r"[a-z0-9-]{1,32}")

_CHECKSUM_CODES: Final = frozenset(
    {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "ChecksumMismatch"}
)
_CREDENTIAL_CODES: Final = frozenset(
    {"InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "XAdminUserNotFound"}
)
_EXPIRED_CODES: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
_SPACE_CODES: Final = frozenset(
    {"QuotaExceeded", "XMinioStorageFull", "EntityTooLarge", "TooManyBuckets", "NoSpaceLeft"}
)
_BUSY_CODES: Final = frozenset({"RequestTimeout", "SlowDown", "ServiceUnavailable", "InternalError"})
_ABSENT_CODES: Final = frozenset({"NoSuchKey", "NotFound"})


@dataclass(frozen=True, slots=True)
class Failure:
    """A reply that is no success, as facts: HTTP status, S3 error code and the bucket's region (either may be empty);
    of a wrong clock, our time and the server's; after how long the server wants to be asked again."""

    status: int
    code: str = ""
    region: str = ""
    times: tuple[datetime, datetime] | None = None
    wait_s: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What failed, for the message: `conditional` marks a `write_if`, whose every doubt is `OutcomeUnknown`;
    `replacing` one that replaces; `resumed` a read that continues an object."""

    bucket: str
    key: str
    start: int = 0
    length: int | None = None
    conditional: bool = False
    replacing: bool = False
    resumed: bool = False
    listing: bool = False


def failure_of(status: int, headers: Mapping[str, str], body: bytes | None) -> Failure:
    """The facts of a reply; its body is None where it is too large to be S3's. A HEAD has none, and so no code."""
    region = headers.get("x-amz-bucket-region", "")
    region = region if _REGION.fullmatch(region) else ""
    wait_s = retry_after_s(headers.get("retry-after", ""), headers.get("date", ""))
    try:
        document = parsed(body or b"")
    except NoDocument:
        return Failure(status, region=region, wait_s=wait_s)
    code, named = child_text(document, "Code"), child_text(document, "Region")
    times = _time(child_text(document, "RequestTime")), _time(child_text(document, "ServerTime"))
    return Failure(
        status,
        code if _CODE.fullmatch(code) else "",
        region or (named if _REGION.fullmatch(named) else ""),
        (times[0], times[1]) if times[0] and times[1] else None,
        wait_s,
    )


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def to_error(failure: Failure, request: Request) -> SkyholdError:
    """The error for a failed request: the table itself."""
    error = _unauthorized(failure, request) or _refused(failure, request) or _in_doubt(failure, request)
    if failure.wait_s is not None:
        error.fields["retry_after_s"] = failure.wait_s
    return error


def _unauthorized(failure: Failure, request: Request) -> PermissionDenied | None:
    """What is wrong with the credentials, or None."""
    bucket, key, status, code = request.bucket, request.key, failure.status, failure.code
    where: dict[str, Any] = {"bucket": bucket, "key": key, "status": status, "s3_code": code}
    if code == "RequestTimeTooSkewed":
        ours, theirs = failure.times or (datetime.now(UTC), None)
        return clock_skew(bucket, ours, theirs, key=key, status=status, s3_code=code)
    if code in _EXPIRED_CODES:
        return expired(bucket, key=key, status=status, s3_code=code)
    if (status in {401, 403} and code != "NoSuchBucket") or code in _CREDENTIAL_CODES:
        return PermissionDenied(
            f"Bucket `{bucket}` refused our credentials for {_what(key)} ({code or status})",
            code=error_codes.CREDENTIALS_REFUSED
            if status == 401 or code in _CREDENTIAL_CODES
            else error_codes.PERMISSION_DENIED,
            hint=f"Check them, and see what is missing: skyhold bucket check {bucket}",
            **where,
        )
    return None


def _refused(failure: Failure, request: Request) -> SkyholdError | None:  # noqa: PLR0911 - the table's rows
    """A definite answer of the store, or None. Nothing was changed by the request."""
    bucket, key, status, code = request.bucket, request.key, failure.status, failure.code
    where: dict[str, Any] = {"bucket": bucket, "key": key, "status": status, "s3_code": code}
    if status < 300 or status == 304:
        what = f"answers the request for {_what(key)} by a status that it cannot have ({status})"
        return _unknown(request, what, where) or misbehaves(bucket, what)
    if status < 400:
        return InvalidInput(
            f"Bucket `{bucket}` redirects the request for {_what(key)} to another address, which is not followed",
            code=error_codes.REQUEST_REFUSED,
            hint=_region_hint(failure) or "Check region and endpoint of the bucket",
            **where,
        )
    if code == "NoSuchBucket" or (request.listing and status == 404 and code not in _CREDENTIAL_CODES):
        return NotFound(
            f"Bucket `{bucket}` does not exist at its provider",
            code=error_codes.BUCKET_NOT_FOUND,
            hint="Check the URL, region and endpoint, or create it with the provider's tools",
            **where,
        )
    if (status == 412 and (request.conditional or request.resumed)) or (request.replacing and status == 404):
        return Conflict(f"Object `{key}` in bucket `{bucket}` is not what was expected", **where)
    if status == 404 and (code in _ABSENT_CODES or not code):
        return NotFound(f"Bucket `{bucket}` has no object `{key}`", code=error_codes.OBJECT_NOT_FOUND, **where)
    if status == 416:
        return range_not_satisfiable(key, request.start, request.length)
    if code in _CHECKSUM_CODES:
        return Corrupt(
            f"Bucket `{bucket}` received other bytes of `{key}` than were sent",
            code=error_codes.CHECKSUM_REFUSED,
            **where,
        )
    if status == 507 or code in _SPACE_CODES:
        return QuotaExceeded(
            f"Bucket `{bucket}` has no room for `{key}` ({code or status})", code=error_codes.NO_SPACE, **where
        )
    if status == 429:
        return Unavailable(f"Bucket `{bucket}` is throttling us (429)", code=error_codes.THROTTLED, **where)
    if status == 412:
        return misbehaves(bucket, f"answers the request for {_what(key)} by a condition that it did not have (412)")
    if 400 <= status < 500 and status not in {408, 409, 425} and code not in _BUSY_CODES:
        return InvalidInput(
            f"Bucket `{bucket}` did not accept the request for {_what(key)} ({code or status})",
            code=error_codes.REQUEST_REFUSED,
            hint=_region_hint(failure) or "Check region, endpoint and path style of the bucket",
            **where,
        )
    return None


def _in_doubt(failure: Failure, request: Request) -> SkyholdError:
    """A reply that does not show what happened."""
    bucket, key = request.bucket, request.key
    where: dict[str, Any] = {"bucket": bucket, "key": key, "status": failure.status, "s3_code": failure.code}
    what = f"answered {failure.code or 'an error'} ({failure.status})"
    return _unknown(request, what, where) or Unavailable(f"Bucket `{bucket}` {what} for {_what(key)}", **where)


def error_of_no_reply(error: NoReply, request: Request) -> SkyholdError:
    """What it means that no whole reply came."""
    bucket, key = request.bucket, request.key
    where: dict[str, Any] = {"bucket": bucket, "key": key}
    if isinstance(error, Closed):
        what = "was closed before it had answered"
        unknown = _unknown(request, what, where) if error.sent else None
        return unknown or Unavailable(f"Bucket `{bucket}` {what}", code=error_codes.BUCKET_CLOSED, **where)
    if not error.sent:
        return Unavailable(
            f"Bucket `{bucket}` cannot be reached ({error})",
            code=error_codes.UNREACHABLE,
            hint="Check the network, the endpoint and its certificate",
            **where,
        )
    what = "did not answer in time" if error.late else "dropped the connection"
    return _unknown(request, what, where) or Unavailable(f"Bucket `{bucket}` {what} for {_what(key)}", **where)


def _unknown(request: Request, what: str, where: dict[str, Any]) -> OutcomeUnknown | None:
    if not request.conditional:
        return None
    return OutcomeUnknown(
        f"Bucket `{request.bucket}` {what}: the write of `{request.key}` may or may not have taken effect",
        hint="Read the object back before you decide",
        **where,
    )


def _region_hint(failure: Failure) -> str:
    return (
        f"The bucket is in region {failure.region}: add `region={failure.region}` to its URL" if failure.region else ""
    )


def _what(key: str) -> str:
    return f"`{key}`" if key else "a listing"
