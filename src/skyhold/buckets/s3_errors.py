"""One table from what obstore raises to our errors.

obstore tells the HTTP status, the S3 error code and the kind of a connection's failure in the text of its exceptions
only (measured with 0.12.1, one request each, retries off):

    412, 404 on If-None-Match/If-Match   AlreadyExistsError, PreconditionError    "… status code: 412 …<Code>…</Code>"
    409                                  AlreadyExistsError on PUT, else GenericError
    404                                  FileNotFoundError (GenericError when listing)
    401, 403                             UnauthenticatedError, PermissionDeniedError (GenericError when listing)
    400, 416, 429, 5xx                   GenericError                             "… status code: 503 …"
    refused · stalled · dropped · cut    GenericError                             "kind: Connect · Timeout · Request …"

So the text is parsed once, here, into `Failure`, and the exception's class decides nothing. A HEAD has no body and so
no S3 code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from skyhold.buckets.bounded import misbehaves
from skyhold.buckets.bucket import range_not_satisfiable
from skyhold.buckets.refusals import clock_skew, expired
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

_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>")
_KIND: Final = re.compile(r"HttpError \{\s*kind: ([A-Za-z]+)")
INSTANCE_METADATA: Final = ("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254")
NOWHERE: Final = "http://127.0.0.1:1"
"""The proxy by which obstore goes to other hosts than the bucket's, so that it does not (see `s3_options`)."""

_CHECKSUM_CODES: Final = frozenset(
    {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "ChecksumMismatch"}
)
_CREDENTIAL_CODES: Final = frozenset(
    {"InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "XAdminUserNotFound"}
)
_EXPIRED_CODES: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
_TIMES: Final = re.compile(
    r"<RequestTime>(?P<ours>[0-9TZ]{16})</RequestTime>.*?<ServerTime>(?P<theirs>[0-9TZ:.+-]{16,40})</ServerTime>",
    re.DOTALL,
)
_SPACE_CODES: Final = frozenset(
    {"QuotaExceeded", "XMinioStorageFull", "EntityTooLarge", "TooManyBuckets", "NoSpaceLeft"}
)
_BUSY_CODES: Final = frozenset({"RequestTimeout", "SlowDown", "ServiceUnavailable", "InternalError"})
_ABSENT_CODES: Final = frozenset({"NoSuchKey", "NotFound"})


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception's text as facts: HTTP status (0 where no reply came), S3 error code, kind of connection failure
    (both may be empty); of a wrong clock, our time and the server's."""

    status: int
    code: str
    kind: str
    at_metadata: bool = False
    redirected: bool = False
    times: tuple[datetime, datetime] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What failed, for the message: `conditional` marks a `write_if`, whose every doubt is `OutcomeUnknown`."""

    bucket: str
    key: str
    start: int = 0
    length: int | None = None
    conditional: bool = False
    replacing: bool = False
    listing: bool = False


def failure_of(error: BaseException) -> Failure:
    """Read the facts out of an obstore exception."""
    text = str(error)
    status, code, kind = _STATUS.search(text), _CODE.search(text), _KIND.search(text)
    return Failure(
        int(status[1]) if status else (301 if "BareRedirect" in text else 0),
        code[1] if code else "",
        kind[1] if kind else "",
        any(address in text for address in INSTANCE_METADATA),
        f"{NOWHERE.removeprefix('http://')}," in text and f"{NOWHERE}/" not in text,
        _times(text),
    )


def _times(text: str) -> tuple[datetime, datetime] | None:
    found = _TIMES.search(text)
    try:
        return found and (datetime.fromisoformat(found["ours"]), datetime.fromisoformat(found["theirs"]))
    except ValueError:
        return None


def to_error(failure: Failure, request: Request) -> SkyholdError:
    """The error for a failed request: the table itself."""
    return _unauthorized(failure, request) or _refused(failure, request) or _in_doubt(failure, request)


def _unauthorized(failure: Failure, request: Request) -> PermissionDenied | None:
    """What is wrong with the credentials, or None."""
    bucket, key, status, code = request.bucket, request.key, failure.status, failure.code
    where: dict[str, Any] = {"bucket": bucket, "key": key, "status": status, "s3_code": code}
    if failure.at_metadata:
        return PermissionDenied(
            f"No credentials for bucket `{bucket}`: none in the environment or ~/.aws, and no instance role",
            code="credentials_missing",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name other credentials for this bucket",
            **where,
        )
    if code == "RequestTimeTooSkewed":
        ours, theirs = failure.times or (datetime.now(UTC), None)
        return clock_skew(bucket, ours, theirs, key=key, status=status, s3_code=code)
    if code in _EXPIRED_CODES:
        return expired(bucket, key=key, status=status, s3_code=code)
    if (status in {401, 403} and code != "NoSuchBucket") or code in _CREDENTIAL_CODES:
        return PermissionDenied(
            f"Bucket `{bucket}` refused our credentials for {_what(key)} ({code or status})",
            code="credentials_refused" if status == 401 or code in _CREDENTIAL_CODES else "permission_denied",
            hint=f"Check them, and see what is missing: skyhold bucket check {bucket}",
            **where,
        )
    return None


def _refused(failure: Failure, request: Request) -> SkyholdError | None:  # noqa: PLR0911 - the table's rows
    """A definite answer of the store, or None. Nothing was changed by the request."""
    bucket, key, status, code = request.bucket, request.key, failure.status, failure.code
    where: dict[str, Any] = {"bucket": bucket, "key": key, "status": status, "s3_code": code}
    if failure.redirected:
        return InvalidInput(
            f"Bucket `{bucket}` sent the request for {_what(key)} on to another host, where its credentials do not go",
            code="request_refused",
            hint="Check region and endpoint of the bucket",
            **where,
        )
    if code == "NoSuchBucket" or (request.listing and status == 404 and code not in _CREDENTIAL_CODES):
        return NotFound(
            f"Bucket `{bucket}` does not exist at its provider",
            code="bucket_not_found",
            hint="Check the URL, region and endpoint, or create it with the provider's tools",
            **where,
        )
    if status == 412 or (request.replacing and status == 404):
        return Conflict(f"Object `{key}` in bucket `{bucket}` is not what was expected", **where)
    if status == 404 and (code in _ABSENT_CODES or not code):
        return NotFound(f"Bucket `{bucket}` has no object `{key}`", code="object_not_found", **where)
    if status == 416:
        return range_not_satisfiable(key, request.start, request.length)
    if code in _CHECKSUM_CODES:
        return Corrupt(
            f"Bucket `{bucket}` received other bytes of `{key}` than were sent", code="checksum_refused", **where
        )
    if status == 507 or code in _SPACE_CODES:
        return QuotaExceeded(f"Bucket `{bucket}` has no room for `{key}` ({code or status})", code="no_space", **where)
    if status == 429:
        return Unavailable(f"Bucket `{bucket}` is throttling us (429)", code="throttled", **where)
    if (300 <= status < 500) and status not in {408, 409, 425} and code not in _BUSY_CODES:
        return InvalidInput(
            f"Bucket `{bucket}` did not accept the request for {_what(key)} ({code or status})",
            code="request_refused",
            hint="Check region, endpoint and path style of the bucket",
            **where,
        )
    return None


def _in_doubt(failure: Failure, request: Request) -> SkyholdError:
    """No answer, or one that does not say what happened."""
    bucket, key, status = request.bucket, request.key, failure.status
    where: dict[str, Any] = {"bucket": bucket, "key": key, "status": status, "s3_code": failure.code}
    if status == 0 and failure.kind == "Connect":
        return Unavailable(f"Bucket `{bucket}` cannot be reached", code="unreachable", **where)
    what = {"Timeout": "did not answer in time", "Request": "dropped the connection"}.get(
        failure.kind, "broke off its reply"
    )
    if status:
        what = f"answered {failure.code or 'an error'} ({status})"
    if request.listing and not status and not failure.kind:
        return misbehaves(bucket, "sends a listing that cannot be read: it is malformed, or has names such as `..`")
    if request.conditional:
        return OutcomeUnknown(
            f"Bucket `{bucket}` {what}: the write of `{key}` may or may not have taken effect",
            hint="Read the object back before you decide",
            **where,
        )
    if status == 0 and failure.kind not in {"Timeout", "Request"}:
        return Unavailable(f"Bucket `{bucket}` {what} for {_what(key)}", code="truncated_reply", **where)
    return Unavailable(f"Bucket `{bucket}` {what} for {_what(key)}", **where)


def _what(key: str) -> str:
    return f"`{key}`" if key else "a listing"
