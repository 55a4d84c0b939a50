"""AWS Signature Version 4 in the header of a request (https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html).

Our own thirty lines, since each request of the driver goes through them and botocore is needed for roles alone. Pure.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Keys:
    """As whom a request is signed; `session_token` is empty for keys that do not expire."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


def path_of(text: str) -> str:
    """A path as S3 signs it and as it is sent: each byte that is not unreserved is encoded, once."""
    return quote(text, safe="/-_.~")


def query_of(parameters: Mapping[str, str]) -> str:
    """A query as it is signed and as it is sent: sorted, and a parameter without a value has its `=`."""
    return "&".join(f"{quote(name, safe='-_.~')}={quote(parameters[name], safe='-_.~')}" for name in sorted(parameters))


def signed_headers(
    method: str, path: str, query: str, headers: Mapping[str, str], keys: Keys, region: str, now: datetime
) -> dict[str, str]:
    """`headers` and those that sign them. They have lower-case names, and among them are `host` and
    `x-amz-content-sha256`, which is the SHA-256 of the body. `path` and `query` are encoded as they are sent."""
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    signed = {**headers, "x-amz-date": stamp}
    if keys.session_token:
        signed["x-amz-security-token"] = keys.session_token
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name].strip()}\n" for name in sorted(signed))
    request = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{signed['x-amz-content-sha256']}"
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{keys.secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    signed["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.access_key_id}/{scope},SignedHeaders={names},Signature={signature}"
    )
    return signed
