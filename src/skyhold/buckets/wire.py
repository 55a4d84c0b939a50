"""What the Google and the Azure driver share: both travel on `requests`.

Its time limits are for each wait on a socket, and it takes a body whole, of any size: a reply that trickles outlives
them, and a huge one fills the memory. So here the headers of a reply have to come within the one limit, and a body is
taken in parts, as far as its bound and at no less than the policy's pace.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import requests
import urllib3
from requests.adapters import HTTPAdapter

from skyhold import error_codes
from skyhold.buckets.bounded import Pace, misbehaves, too_large
from skyhold.buckets.in_time_pools import InTimePool, InTimeTlsPool
from skyhold.buckets.retry import RetryPolicy
from skyhold.errors import Corrupt, OutcomeUnknown, SkyholdError, Unavailable

REPLY_BYTES_MAX: Final = 16 << 20
"""The most that a reply has which is no object's body: a page of a listing has a few MiB, an error less."""
PART_BYTES: Final = 256 << 10
BLOCK_BYTES: Final = 32 << 10
"""What is sent at a time: the default of `urllib3` is half of it."""
NO_REPLY: Final = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)
"""What `requests` raises where no whole reply came."""


class InTime(HTTPAdapter):
    """An adapter of `requests` whose replies begin in time."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options, blocksize=BLOCK_BYTES)
        self.poolmanager.pool_classes_by_scheme = {"http": InTimePool, "https": InTimeTlsPool}


def arriving(response: requests.Response, size_bytes: int, pace: Pace) -> Iterator[bytes]:
    """The next `size_bytes` of a reply's body as they come, as they were sent; fewer where it ends."""
    left_bytes = size_bytes
    while left_bytes > 0:
        part = pace.take(partial(response.raw.read1, min(left_bytes, PART_BYTES), decode_content=False))
        if not part:
            return
        left_bytes -= len(part)
        yield part


def take_reply(response: requests.Response, policy: RetryPolicy, bucket: str, limit_bytes: int, key: str = "") -> None:
    """Take in a reply's body, so that `requests` has it as its content; `key` where it is that of an object.

    Raises `Corrupt` code `object_too_large` or, where it is none, `Unavailable` code `bucket_misbehaves` for one of
    more than `limit_bytes`, the latter also for one that is too slow, and what `NO_REPLY` holds where it is cut short.
    """
    try:
        body = _bounded_body(response, Pace(policy, bucket, key), limit_bytes)
    except BaseException:
        response.close()
        raise
    if body is None:
        response.close()
        if key:
            raise too_large(bucket, key, limit_bytes)
        raise misbehaves(bucket, f"sends a reply of more than {limit_bytes} bytes")
    response._content, response._content_consumed = body, True


def _bounded_body(response: requests.Response, pace: Pace, limit_bytes: int) -> bytes | None:
    """A reply's body, or None where it is larger."""
    if (response.raw.length_remaining or 0) > limit_bytes:
        return None
    body = b"".join(arriving(response, limit_bytes + 1, pace))
    if len(body) > limit_bytes:
        return None
    if response.raw.length_remaining:
        raise urllib3.exceptions.IncompleteRead(len(body), response.raw.length_remaining)
    return body


def no_other_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """As the `auth` of a session: `requests` would else replace a token by what `~/.netrc` has for the host, and that
    may have a default for all hosts."""
    return request


def error_of_no_reply(error: BaseException, bucket: str, key: str, *, conditional: bool) -> SkyholdError:
    """What it means that no whole reply came: nothing was done only where the request was never sent."""
    fields: dict[str, Any] = {"bucket": bucket, "key": key}
    if never_sent(error):
        return Unavailable(
            f"Bucket `{bucket}` cannot be reached ({type(error).__name__})",
            code=error_codes.UNREACHABLE,
            hint="Check the network, the endpoint and its certificate",
            **fields,
        )
    if conditional:
        return OutcomeUnknown(f"The reply to the conditional put of `{key}` in bucket `{bucket}` was lost", **fields)
    return Unavailable(
        f"Bucket `{bucket}` broke off or stalled ({type(error).__name__})", code=error_codes.NO_REPLY, **fields
    )


def never_sent(error: BaseException) -> bool:
    """Whether the connection was never made: refused, unresolved, not in time, or its certificate is not trusted."""
    if isinstance(error, requests.exceptions.ConnectTimeout | requests.exceptions.ProxyError):
        return True
    reason: object = error
    if isinstance(error, requests.exceptions.ConnectionError) and error.args:
        reason = error.args[0]
    if isinstance(reason, urllib3.exceptions.MaxRetryError):
        reason = reason.reason
    if isinstance(reason, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError):
        return True
    return isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error)


def checksum_refused(bucket: str, key: str) -> Corrupt:
    return Corrupt(
        f"Bucket `{bucket}` received other bytes of `{key}` than were sent",
        code=error_codes.CHECKSUM_REFUSED,
        bucket=bucket,
        key=key,
    )


def truncated(bucket: str, key: str) -> Unavailable:
    return Unavailable(
        f"Bucket `{bucket}` sent fewer bytes of `{key}` than it announced",
        code=error_codes.TRUNCATED_REPLY,
        hint="Try again: the connection ended early",
        bucket=bucket,
        key=key,
    )


def decode_md5(text: object) -> bytes:
    """An MD5 as Google's JSON API writes it, or nothing where it has none (an object that was composed of others)."""
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except binascii.Error:
        return b""
