"""A page of `ListObjectsV2` (https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html). Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final
from urllib.parse import unquote_plus
from xml.etree.ElementTree import Element

from skyhold import error_codes
from skyhold.buckets.bounded import below
from skyhold.buckets.bucket import ObjectInfo
from skyhold.buckets.listing import Page
from skyhold.buckets.s3_checksum import md5_in, usable_tag
from skyhold.buckets.s3_xml import NoDocument, child_text, local, parsed
from skyhold.errors import Corrupt

PAGE_KEYS: Final = 1000
PAGE_BYTES_MAX: Final = 4 << 20
"""A thousand names of the longest that S3 has, each byte of them encoded in three."""


def page_query(prefix: str, after: str, token: str) -> dict[str, str]:
    """The query of a page. Names are encoded, since XML has no control characters and names may have them."""
    query = {"list-type": "2", "encoding-type": "url", "max-keys": str(PAGE_KEYS)}
    if prefix:
        query["prefix"] = prefix
    if token:
        return query | {"continuation-token": token}
    return query | ({"start-after": after} if after else {})


def read_page(body: bytes | bytearray, bucket: str, prefix: str) -> Page:
    """Raises `NoDocument`; `Unavailable` code `bucket_misbehaves` for a name that is not below the bucket's prefix."""
    document = parsed(body)
    if local(document) != "ListBucketResult":
        raise NoDocument("it is not a listing")
    decoded: Callable[[str], str] = unquote_plus if child_text(document, "EncodingType") == "url" else str
    try:
        found = [_info(entry, bucket, prefix, decoded) for entry in document if local(entry) == "Contents"]
    except (ValueError, OverflowError) as error:
        raise NoDocument(str(error)) from error
    more = child_text(document, "IsTruncated") == "true"
    token = child_text(document, "NextContinuationToken")
    if more and not token:
        raise NoDocument("it ends, and names no next page")
    return Page(found, token if more else "")


def _info(entry: Element, bucket: str, prefix: str, decoded: Callable[[str], str]) -> ObjectInfo:
    key = below(bucket, prefix, decoded(child_text(entry, "Key")))
    tag, size = usable_tag(child_text(entry, "ETag")), child_text(entry, "Size")
    modified_at = datetime.fromisoformat(child_text(entry, "LastModified"))
    return ObjectInfo(key, int(size) if size.isascii() else -1, tag, modified_at, tag, md5_in(tag))


def check_order(bucket: str, found: Iterable[ObjectInfo], last: str) -> str:
    """The last key of a page whose keys ascend from `last`. Raises `Corrupt` code `listing_out_of_order`."""
    for info in found:
        if info.key <= last:
            raise Corrupt(
                f"Bucket `{bucket}` lists {info.key[:80]!a} after {last[:80]!a}: its listings are not in the order"
                " of S3",
                code=error_codes.LISTING_OUT_OF_ORDER,
                hint="Use another store or prefix; names that differ in `-`, `.` and `/` only cannot be listed there",
                bucket=bucket,
                key=info.key,
            )
        last = info.key
    return last
