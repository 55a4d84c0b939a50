"""Whether a place that is to become a bucket is inside a bucket of some store, to which its objects would be foreign
ones. (A store inside the place is found as objects that are there already.)"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from skyhold import error_codes
from skyhold.buckets.bounded import read_bounded
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.open import open_bucket
from skyhold.errors import Corrupt, InvalidInput, SkyholdError
from skyhold.storage.object_keys import STORE_DOCUMENT, STORE_DOCUMENT_BYTES_MAX
from skyhold.storage.own_places import is_bucket, is_store_document


def refuse_inside_bucket(location: BucketLocation) -> None:
    """Raise `InvalidInput` code `inside_bucket` where a folder or a prefix above the place is a bucket, as far as this
    machine can see: in a cloud it reads `store.json` under each prefix above."""
    around = None
    if location.scheme == "file":
        around = _folder_around(location)
    elif location.is_cloud and location.prefix:
        around = _prefix_around(location)
    if around is not None:
        raise InvalidInput(
            f"{location.url} is inside {around}, which is a bucket of a store; nothing was written",
            code=error_codes.INSIDE_BUCKET,
            hint="Use a place outside of it",
            bucket=location.name,
        )


def _folder_around(location: BucketLocation) -> str | None:
    parents = Path(os.path.realpath(location.path)).parents
    return next((str(folder) for folder in parents if is_bucket(folder)), None)


def _prefix_around(location: BucketLocation) -> str | None:
    for above in _above(location):
        with suppress(SkyholdError), open_bucket(above) as bucket:  # a prefix that cannot be read is not checked
            try:
                document = read_bounded(bucket, STORE_DOCUMENT, STORE_DOCUMENT_BYTES_MAX)
            except Corrupt:  # longer than any
                continue
            if is_store_document(bytes(document)):
                return above.url
    return None


def _above(location: BucketLocation) -> Iterator[BucketLocation]:
    """The whole bucket, and each prefix above that of the location."""
    parts = urlsplit(location.url)
    segments = parts.path.split("/")[1:]
    for count in range(len(segments) - len(location.prefix.split("/")), len(segments)):
        yield replace(location, url="/".join([f"{parts.scheme}://{parts.netloc}", *segments[:count]]))
