"""What an S3 reply shows of the stored bytes, and the errors of a store that holds others than it acknowledged. Pure.

The tag of an object that was put whole is the MD5 of its bytes, but under SSE-KMS, SSE-C, and in some compatible
stores. Each put asks the store to keep its SHA-256, and to repeat it in the reply. Where the tag is another, and
encryption is not the reason for it, the bytes are read back.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Final

from skyhold import error_codes
from skyhold.errors import Corrupt, OutcomeUnknown
from skyhold.units import Buffer

CHECKSUM: Final = "x-amz-checksum-sha256"
_BY_CUSTOMER: Final = "x-amz-server-side-encryption-customer-algorithm"
_MD5: Final = re.compile(r'"?([0-9a-fA-F]{32})"?')


def md5_of(body: Buffer) -> bytes:
    return hashlib.md5(body, usedforsecurity=False).digest()


def md5_in(tag: str) -> bytes:
    """The MD5 that a tag may be, or nothing."""
    found = _MD5.fullmatch(tag)
    return bytes.fromhex(found[1]) if found else b""


def usable_tag(text: str) -> str:
    """A tag that a later request can name, or nothing."""
    return text if text.isascii() and text.isprintable() else ""


def is_sealed_as(digest: bytes, headers: Mapping[str, str]) -> bool:
    """Whether the reply to a put shows why its tag is no MD5, and repeats the SHA-256 of what was sent."""
    sealed = headers.get("x-amz-server-side-encryption", "").startswith("aws:kms") or _BY_CUSTOMER in headers
    return sealed and headers.get(CHECKSUM, "") == base64.b64encode(digest).decode()


def stored_differently(bucket: str, key: str) -> Corrupt:
    return Corrupt(
        f"Bucket `{bucket}` acknowledged `{key}` but does not hold the bytes that were sent",
        code=error_codes.STORED_DIFFERENTLY,
        hint=f"Do not rely on it: run `skyhold bucket check {bucket}`",
        bucket=bucket,
        key=key,
    )


def not_confirmed(bucket: str, key: str) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"Bucket `{bucket}` acknowledged the conditional put of `{key}`, but does not give back what was sent",
        hint="Read the object back before you decide",
        bucket=bucket,
        key=key,
    )
