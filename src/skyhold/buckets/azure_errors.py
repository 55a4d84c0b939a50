"""The error table of Azure Blob Storage: from a reply, or from no reply, to our classes
(https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

import requests
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

from skyhold import error_codes
from skyhold.buckets.refusals import clock_skew, expired, is_skewed, parsed_date
from skyhold.buckets.retry import retry_after_s
from skyhold.buckets.wire import checksum_refused, error_of_no_reply, truncated
from skyhold.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    QuotaExceeded,
    SkyholdError,
    Unavailable,
)

Meaning = tuple[type[SkyholdError], str, str]

BY_CODE: Final[dict[str, Meaning]] = {
    "ContainerNotFound": (NotFound, error_codes.BUCKET_NOT_FOUND, "There is no container of {what}"),
    "ContainerBeingDeleted": (NotFound, error_codes.BUCKET_NOT_FOUND, "The container of {what} is being deleted"),
    "BlobAlreadyExists": (Conflict, error_codes.PRECONDITION_FAILED, "Another client created {what} first"),
    "BlobImmutableDueToPolicy": (
        PermissionDenied,
        error_codes.OBJECT_RETAINED,
        "An immutability policy keeps {what} as it is",
    ),
    "AuthenticationFailed": (
        PermissionDenied,
        error_codes.CREDENTIALS_REFUSED,
        "Azure does not accept the credentials for {what}",
    ),
    "AccountBeingCreated": (Unavailable, error_codes.UNAVAILABLE, "The account of {what} is being created"),
}
BY_STATUS: Final[dict[int, Meaning]] = {
    401: (PermissionDenied, error_codes.CREDENTIALS_REFUSED, "Azure does not accept the credentials for {what}"),
    403: (
        PermissionDenied,
        error_codes.PERMISSION_DENIED,
        "Azure does not allow this on {what}",
    ),
    404: (NotFound, error_codes.OBJECT_NOT_FOUND, "There is no {what}"),
    408: (Unavailable, error_codes.UNAVAILABLE, "Azure did not wait for the request on {what}"),
    412: (Conflict, error_codes.PRECONDITION_FAILED, "Another client changed {what} first"),
    413: (QuotaExceeded, error_codes.QUOTA_EXCEEDED, "Azure takes no objects as large as {what}"),
    416: (InvalidInput, error_codes.RANGE_NOT_SATISFIABLE, "The range is not inside {what}"),
    429: (Unavailable, error_codes.THROTTLED, "Azure throttles requests on {what}"),
    507: (QuotaExceeded, error_codes.QUOTA_EXCEEDED, "There is no space for {what}"),
}
"""What a status means where its code is not in the table above. Any other 5xx is `Unavailable`, any other 4xx
`InvalidInput`."""


_EXPIRED: Final = re.compile(r"not valid in the specified time frame|token is expired", re.IGNORECASE)
"""What Azure answers to an expired SAS or token, where its code is that of any wrong credentials."""


def meaning_of(status: int, code: str, *, conditional: bool) -> Meaning:
    """The table's row. For a conditional put, a status that leaves the effect open is `OutcomeUnknown`."""
    if code in BY_CODE:
        return BY_CODE[code]
    if conditional and (status < 400 or status in {408, 409} or status >= 500):
        return OutcomeUnknown, error_codes.OUTCOME_UNKNOWN, "The outcome of the conditional put is not known: {what}"
    if status in BY_STATUS:
        return BY_STATUS[status]
    if status >= 500:
        return Unavailable, error_codes.UNAVAILABLE, "Azure fails on {what}"
    return InvalidInput, error_codes.REQUEST_REFUSED, "Azure refused the request on {what}"


def translated(error: AzureError, bucket: str, key: str = "", *, conditional: bool = False) -> SkyholdError:
    """Our error for the SDK's. `conditional` for the one attempt of `write_if`."""
    what = f"`{key}` in bucket `{bucket}`" if key else f"bucket `{bucket}`"
    fields: dict[str, Any] = {"bucket": bucket, "key": key}
    if isinstance(error, HttpResponseError) and error.status_code:
        return _of_reply(error, what, fields, conditional=conditional)
    if isinstance(error, ClientAuthenticationError):  # no token was given, so nothing was sent
        hint = "Run `az login`, or give the bucket a credentials reference of its own"
        return PermissionDenied(
            f"Azure gave no token for bucket `{bucket}`", code=error_codes.CREDENTIALS_REFUSED, hint=hint, **fields
        )
    if "MD5 mismatch" in str(error.message):  # the SDK's own comparison
        return checksum_refused(bucket, key)
    cause = error.inner_exception
    if isinstance(cause, requests.exceptions.ChunkedEncodingError) and not conditional:
        return truncated(bucket, key)
    return error_of_no_reply(cause or error, bucket, key, conditional=conditional)


def _of_reply(error: HttpResponseError, what: str, fields: dict[str, Any], *, conditional: bool) -> SkyholdError:
    if error.status_code == 400 and "md5" in str(error.message).lower():  # Azurite calls it an InvalidOperation
        return checksum_refused(fields["bucket"], fields["key"])
    status, azure_code = error.status_code or 0, getattr(error, "error_code", "") or ""
    azure_code = str(getattr(azure_code, "value", azure_code))  # the SDK makes enumeration members of those it knows
    headers = getattr(error.response, "headers", {})
    if status in {401, 403}:
        theirs = parsed_date(headers.get("Date", ""))
        if is_skewed(theirs):
            return clock_skew(fields["bucket"], datetime.now(UTC), theirs, key=fields["key"], status=status)
        if _EXPIRED.search(str(error.message)):
            return expired(fields["bucket"], key=fields["key"], status=status)
    failure, code, sentence = meaning_of(status, azure_code, conditional=conditional)
    wait_s = retry_after_s(str(headers.get("Retry-After", "")), str(headers.get("Date", "")))
    if wait_s is not None:
        fields = fields | {"retry_after_s": wait_s}
    if status == 404 and not fields["key"]:
        code = error_codes.BUCKET_NOT_FOUND
    hint = f"Ask what is missing with `skyhold bucket check {fields['bucket']}`" if status in {401, 403} else None
    reply = f"{status} {azure_code}".strip()
    return failure(f"{sentence.format(what=what)} ({reply})", code=code, hint=hint, status=status, **fields)
