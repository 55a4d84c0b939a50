"""From a location to its S3 endpoint: address, region, and the certificates that are trusted there."""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from skyhold import error_codes
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.s3_http import Endpoint
from skyhold.buckets.user_file import read_small_file
from skyhold.errors import InvalidInput

CA_FILE_BYTES_MAX: Final = 16 << 20
DEFAULT_REGION: Final = "us-east-1"


def endpoint_of(location: BucketLocation) -> Endpoint:
    """Raises `InvalidInput` code `invalid_location` for a region or certificates that are none."""
    if location.container.endswith("--x-s3"):
        raise _refused(location, "directory buckets of S3 Express are not supported: their listings have no order")
    region = location.region or DEFAULT_REGION
    if not re.fullmatch(r"[A-Za-z0-9_-]+", region):  # it is a part of a host's name
        raise _refused(location, "the name of an S3 region is of letters, digits, `-` and `_`")
    address = location.endpoint or f"https://s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"
    parts = urlsplit(address.rstrip("/"))
    in_path = location.path_style if location.path_style is not None else location.endpoint is not None
    if in_path:
        parts = parts._replace(path=f"{parts.path}/{location.container}")
    else:
        parts = parts._replace(netloc=f"{location.container}.{parts.netloc}")
    return Endpoint(parts.geturl(), region, _trust(location) if parts.scheme == "https" else None)


def _trust(location: BucketLocation) -> ssl.SSLContext:
    """TLS with the location's certificates, or with those that this machine trusts."""
    by_chain = os.environ.get("AWS_CA_BUNDLE") if location.credentials == "chain" else None
    ca_file = location.ca_file or by_chain
    if not ca_file:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cadata=read_small_file(Path(ca_file), CA_FILE_BYTES_MAX)[0].decode())
    except (OSError, UnicodeDecodeError) as error:  # ssl.SSLError is an OSError
        raise _refused(location, f"the CA file cannot be used: {ca_file}") from error


def _refused(location: BucketLocation, reason: str) -> InvalidInput:
    return InvalidInput(f"Bucket `{location.name}`: {reason}", code=error_codes.INVALID_LOCATION, bucket=location.name)
