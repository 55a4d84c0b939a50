"""Reading an object whose size nobody has vouched for."""

from __future__ import annotations

from skyhold.buckets.bucket import Bucket
from skyhold.errors import Corrupt


def read_bounded(bucket: Bucket, key: str, limit_bytes: int) -> bytearray:
    """A whole object. Raises `Corrupt` where it is longer than such an object can be, before it is taken in."""
    body = bytearray()
    for part in bucket.read_stream(key):
        if len(body) + len(part) > limit_bytes:
            raise Corrupt(
                f"Object {key} in bucket `{bucket.name}` is longer than {limit_bytes} bytes, the most that it can have",
                code="object_too_large",
                hint="Run `skyhold repair`",
                bucket=bucket.name,
                key=key,
            )
        body += part
    return body
