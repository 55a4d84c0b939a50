"""What obstore has no call for: the GETs of a bucket's `?lifecycle`, `?versioning` and `?object-lock`, signed by AWS
Signature Version 4 (https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html), with the standard
library alone: botocore would weigh more than the rest of this driver.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Final
from urllib.parse import urlsplit
from xml.etree import ElementTree

from skyhold.buckets.rules import BucketRules, s3_rules

TIMEOUT_S: Final = 20.0
REPLY_BYTES_MAX: Final = 1 << 20
EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
NOT_SET: Final = frozenset({"NoSuchLifecycleConfiguration", "ObjectLockConfigurationNotFoundError"})
ACTIONS: Final = ("Expiration", "Transition", "NoncurrentVersionExpiration", "NoncurrentVersionTransition")


@dataclass(frozen=True, slots=True)
class SignedBucket:
    """Where and as whom to ask. `url` is the bucket's own, in path or virtual-hosted style."""

    url: str
    region: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    ca_certificates: str | None = field(default=None, repr=False)


def ask_rules(bucket: SignedBucket) -> BucketRules:
    """The bucket's rules; a document that the store does not have, or keeps from us, leaves its rule unknown."""
    lifecycle, versioning, lock = (_document(bucket, name) for name in ("lifecycle", "versioning", "object-lock"))
    return s3_rules(
        None if lifecycle is None else _lifecycle_actions(lifecycle),
        None if versioning is None else _text(versioning, "Status"),
        None if lock is None else _text(lock, "Mode"),
    )


def ask_time(bucket: SignedBucket) -> datetime | None:
    """The Date of a reply, whatever its status."""
    _status, headers, _body = _get(bucket, "versioning")
    date = headers.get("Date", "")
    return parsedate_to_datetime(date) if date else None


def signed_headers(bucket: SignedBucket, subresource: str, now: datetime) -> dict[str, str]:
    """The headers of a signed GET of `?subresource`. Pure."""
    parts, stamp = urlsplit(bucket.url), now.strftime("%Y%m%dT%H%M%SZ")
    headers = {"host": parts.netloc, "x-amz-content-sha256": EMPTY_SHA256, "x-amz-date": stamp}
    if bucket.session_token:
        headers["x-amz-security-token"] = bucket.session_token
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = f"GET\n{parts.path or '/'}\n{subresource}=\n{lines}\n{names}\n{EMPTY_SHA256}"
    scope = f"{stamp[:8]}/{bucket.region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{bucket.secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={bucket.access_key_id}/{scope},SignedHeaders={names},Signature={signature}"
    )
    return headers


def _get(bucket: SignedBucket, subresource: str) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers and body; status 0 where no reply came."""
    request = urllib.request.Request(  # noqa: S310 - http or https, by `BucketLocation`
        f"{bucket.url}?{subresource}=", headers=signed_headers(bucket, subresource, datetime.now(UTC))
    )
    context = ssl.create_default_context(cadata=bucket.ca_certificates) if bucket.url.startswith("https:") else None
    try:
        opener = urllib.request.build_opener(_NoRedirects, urllib.request.HTTPSHandler(context=context))
        with opener.open(request, timeout=TIMEOUT_S) as reply:
            return reply.status, dict(reply.headers), reply.read(REPLY_BYTES_MAX)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read(REPLY_BYTES_MAX)
    except (OSError, HTTPException):
        return 0, {}, b""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A signature is for one host: it must not follow a redirect to another."""

    def redirect_request(self, *_arguments: object) -> None:
        return None


def _document(bucket: SignedBucket, subresource: str) -> ElementTree.Element | None:
    """The document, an empty one where the store says that none is set, None where it does not tell."""
    status, _headers, body = _get(bucket, subresource)
    try:
        document = ElementTree.fromstring(body)  # noqa: S314 - at most 1 MiB, from the store itself
    except ElementTree.ParseError:
        return None
    if status == 404 and _text(document, "Code") in NOT_SET:
        return ElementTree.Element(subresource)
    return document if status == 200 else None


def _text(document: ElementTree.Element, name: str) -> str:
    return next((found.text or "" for found in document.iter() if _local(found) == name), "")


def _lifecycle_actions(document: ElementTree.Element) -> list[str]:
    """The actions of the rules that are enabled. An Expiration that only clears delete markers deletes no object."""
    rules = [rule for rule in document if _local(rule) == "Rule" and _text(rule, "Status") == "Enabled"]
    return [
        _local(action)
        for rule in rules
        for action in rule
        if _local(action) in ACTIONS and not _text(action, "ExpiredObjectDeleteMarker")
    ]


def _local(element: ElementTree.Element) -> str:
    """A tag without its namespace, which compatible stores leave out."""
    return element.tag.rpartition("}")[2]
