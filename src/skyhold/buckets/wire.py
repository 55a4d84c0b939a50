"""What the Google and the Azure driver share: both travel on `requests`."""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests
import urllib3

from skyhold.errors import Corrupt, OutcomeUnknown, SkyholdError, Unavailable


def no_other_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """As the `auth` of a session: `requests` would else replace a token by what `~/.netrc` has for the host, and that
    may have a default for all hosts."""
    return request


def within(deadline_s: float, put: Callable[[], str], bucket: str, key: str) -> str:
    """The result of `put`, the one attempt of a conditional put, or `OutcomeUnknown` once `deadline_s` has passed.

    The time limits of `requests` are for each wait on a socket (and none covers a name's resolution or a token's
    renewal), so a reply that trickles would outlive any of them. The attempt is left to a thread, which ends by those.
    """
    done: Future[str] = Future()

    def attempt() -> None:
        try:
            done.set_result(put())
        except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
            done.set_exception(error)

    threading.Thread(target=attempt, name=f"conditional put to {bucket}", daemon=True).start()
    try:
        return done.result(timeout=deadline_s)
    except TimeoutError as error:
        if done.done():
            raise
        raise OutcomeUnknown(
            f"Bucket `{bucket}` did not confirm the conditional put of `{key}` within {deadline_s:g} s",
            hint="Read the object back before you decide",
            bucket=bucket,
            key=key,
        ) from error


def error_of_no_reply(error: BaseException, bucket: str, key: str, *, conditional: bool) -> SkyholdError:
    """What it means that no whole reply came: nothing was done only where the request was never sent."""
    fields: dict[str, Any] = {"bucket": bucket, "key": key}
    if never_sent(error):
        return Unavailable(
            f"Bucket `{bucket}` cannot be reached ({type(error).__name__})",
            code="unreachable",
            hint="Check the network, the endpoint and its certificate",
            **fields,
        )
    if conditional:
        return OutcomeUnknown(f"The reply to the conditional put of `{key}` in bucket `{bucket}` was lost", **fields)
    return Unavailable(f"Bucket `{bucket}` broke off or stalled ({type(error).__name__})", code="no_reply", **fields)


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


def parsed_date(text: str) -> datetime | None:
    """The time of a reply's Date, or None where it has none that can be read."""
    try:
        return parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None


def checksum_refused(bucket: str, key: str) -> Corrupt:
    return Corrupt(
        f"Bucket `{bucket}` received other bytes of `{key}` than were sent",
        code="checksum_refused",
        bucket=bucket,
        key=key,
    )


def truncated(bucket: str, key: str) -> Unavailable:
    return Unavailable(
        f"Bucket `{bucket}` sent fewer bytes of `{key}` than it announced",
        code="truncated_reply",
        bucket=bucket,
        key=key,
    )


def decode_md5(text: object) -> bytes:
    """An MD5 as Google's JSON API writes it, or nothing where it has none (an object that was composed of others)."""
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except binascii.Error:
        return b""
