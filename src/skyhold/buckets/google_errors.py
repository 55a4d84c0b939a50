"""The error table of Google Cloud Storage: from a reply, or from no reply, to our classes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import requests
from google.auth.exceptions import GoogleAuthError, TransportError

from skyhold import error_codes
from skyhold.buckets.refusals import clock_skew, is_skewed, parsed_date
from skyhold.buckets.retry import retry_after_s
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

Meaning = tuple[type[SkyholdError], str, str]

MEANINGS: Final[dict[int, Meaning]] = {
    401: (PermissionDenied, error_codes.CREDENTIALS_REFUSED, "Google does not accept the credentials for {what}"),
    403: (PermissionDenied, error_codes.PERMISSION_DENIED, "Google does not allow this on {what}"),
    404: (NotFound, error_codes.OBJECT_NOT_FOUND, "There is no {what}"),
    408: (Unavailable, error_codes.UNAVAILABLE, "Google did not wait for the request on {what}"),
    412: (Conflict, error_codes.PRECONDITION_FAILED, "Another client changed {what} first"),
    413: (QuotaExceeded, error_codes.QUOTA_EXCEEDED, "Google takes no objects as large as {what}"),
    416: (InvalidInput, error_codes.RANGE_NOT_SATISFIABLE, "The range is not inside {what}"),
    429: (Unavailable, error_codes.THROTTLED, "Google throttles requests on {what}"),
    507: (QuotaExceeded, error_codes.QUOTA_EXCEEDED, "There is no space for {what}"),
}
"""What a status means. Any other 5xx is `Unavailable`, any other 4xx `InvalidInput`."""


def meaning_of(status: int, reply: str, *, conditional: bool) -> Meaning:
    """The table's row for a reply with the text `reply`. For a conditional put, a status that leaves its effect open is
    `OutcomeUnknown` (https://cloud.google.com/storage/docs/retry-strategy)."""
    if status == 400 and "crc32c" in reply:
        return Corrupt, error_codes.CHECKSUM_REFUSED, "Google received other bytes than were sent for {what}"
    if status == 403 and "retention" in reply:
        return PermissionDenied, error_codes.OBJECT_RETAINED, "A retention rule keeps {what} as it is"
    if conditional and (status < 400 or status in {408, 409} or status >= 500):
        return OutcomeUnknown, error_codes.OUTCOME_UNKNOWN, "The outcome of the conditional put is not known: {what}"
    if status in MEANINGS:
        return MEANINGS[status]
    if status >= 500:
        return Unavailable, error_codes.UNAVAILABLE, "Google fails on {what}"
    return InvalidInput, error_codes.REQUEST_REFUSED, "Google refused the request on {what}"


def error_of_status(response: requests.Response, bucket: str, key: str, *, conditional: bool) -> SkyholdError:
    """What a reply other than success means; `conditional` for the one attempt of `write_if`."""
    status = response.status_code
    failure, code, sentence = meaning_of(status, response.text.lower(), conditional=conditional)
    theirs = parsed_date(response.headers.get("date", ""))
    if status in {401, 403} and is_skewed(theirs):
        return clock_skew(bucket, datetime.now(UTC), theirs, key=key, status=status)
    if status == 404 and not key:
        code = error_codes.BUCKET_NOT_FOUND
    what = f"`{key}` in bucket `{bucket}`" if key else f"bucket `{bucket}`"
    fields: dict[str, Any] = {"bucket": bucket, "key": key, "status": status}
    wait_s = retry_after_s(response.headers.get("retry-after", ""), response.headers.get("date", ""))
    if wait_s is not None:
        fields["retry_after_s"] = wait_s
    hint = f"Ask what is missing with `skyhold bucket check {bucket}`" if status in {401, 403} else None
    return failure(f"{sentence.format(what=what)} ({status})", code=code, hint=hint, **fields)


def error_of_token(error: GoogleAuthError, bucket: str) -> SkyholdError:
    """What it means that there is no token: our request was not sent, or it was refused with a 401."""
    if isinstance(error, TransportError):
        return Unavailable(f"No token for bucket `{bucket}`: its server cannot be reached", bucket=bucket)
    if "iat and exp" in str(error):  # its error for a token with times of another clock
        return clock_skew(bucket, datetime.now(UTC), None)
    return PermissionDenied(
        f"Google gave no token for bucket `{bucket}` ({type(error).__name__})",
        code=error_codes.CREDENTIALS_REFUSED,
        hint="Run `gcloud auth application-default login`, or renew the service account's key",
        bucket=bucket,
    )
