"""What an S3 tag says of the bytes behind it, and the errors of a store that holds others than it acknowledged. Pure.

The tag of an object that was put whole is the MD5 of its bytes, but under SSE-KMS, SSE-C, in directory buckets, and in
some compatible stores. obstore gives no other field of a reply (none of `x-amz-checksum-*`), so that a tag which is not
the MD5 of what was sent proves nothing in either direction, and the bytes are read back.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from skyhold.errors import Corrupt, OutcomeUnknown
from skyhold.units import Buffer

_MD5: Final = re.compile(r'"?([0-9a-fA-F]{32})"?')


def md5_of(body: Buffer) -> bytes:
    return hashlib.md5(body, usedforsecurity=False).digest()


def md5_in(tag: str) -> bytes:
    """The MD5 that a tag may be, or nothing."""
    found = _MD5.fullmatch(tag)
    return bytes.fromhex(found[1]) if found else b""


def stored_differently(bucket: str, key: str) -> Corrupt:
    return Corrupt(
        f"Bucket `{bucket}` acknowledged `{key}` but does not hold the bytes that were sent",
        code="stored_differently",
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
