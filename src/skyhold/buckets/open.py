"""From a location to a bucket. Drivers, and the SDKs behind them, are imported only when one of theirs is opened."""

from __future__ import annotations

import importlib
from typing import Final, cast
from urllib.parse import urlsplit

from skyhold import error_codes
from skyhold.buckets.bucket import Bucket
from skyhold.buckets.consent import is_allowed
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.refused import RefusedBucket
from skyhold.buckets.retry import DEFAULT_POLICY, RetryPolicy
from skyhold.buckets.retrying_bucket import RetryingBucket
from skyhold.buckets.telemetry import Telemetry
from skyhold.errors import InvalidInput

_DRIVERS: Final = {
    "file": ("skyhold.buckets.folder", "FolderBucket", ""),
    "memory": ("skyhold.buckets.memory", "MemoryBucket", ""),
    "s3": ("skyhold.buckets.s3", "S3Bucket", ""),
    "gs": ("skyhold.buckets.google", "GoogleBucket", "gcs"),
    "az": ("skyhold.buckets.azure", "AzureBucket", "azure"),
}
"""Scheme: module, class, the extra of our package that brings the SDK without which the module cannot be imported."""


def open_bucket(location: BucketLocation, policy: RetryPolicy | None = None) -> Bucket:
    """The bucket at `location`. Its requests are repeated by the policy (`retrying`), and counted, logged and traced
    (`telemetry`). Nothing is sent: a bucket that is not there, or refuses us, raises when it is used; so does one that
    must not be given credentials, since its user did not name it (`consent`).

    Raises `InvalidInput` code `extra_missing` where the driver's SDK is not installed.
    """
    if not is_allowed(location):
        return RefusedBucket(location)
    module_name, class_name, extra = _DRIVERS[location.scheme]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not extra or (error.name or "").startswith("skyhold"):
            raise
        raise InvalidInput(
            f"Bucket `{location.name}` ({location.scheme}://) needs the package `{error.name}`, which is not installed",
            code=error_codes.EXTRA_MISSING,
            hint=f"pip install 'skyhold[{extra}]'",
            bucket=location.name,
        ) from error
    policy = policy or DEFAULT_POLICY
    driver = cast(Bucket, getattr(module, class_name)(location, policy))
    return RetryingBucket(driver, policy, Telemetry(location.name, _span_attributes(location)))


def _span_attributes(location: BucketLocation) -> dict[str, str]:
    """What all spans of a bucket's requests have, by the semantic conventions of OpenTelemetry."""
    attributes = {"aws.s3.bucket": location.container} if location.scheme == "s3" else {}
    host = urlsplit(location.endpoint or "").hostname
    return attributes | ({"server.address": host} if host else {})


def create_bucket(location: BucketLocation) -> None:
    """Make the bucket where Skyhold may: a folder is created and marked. Clouds' buckets are made with the cloud's own
    tools, which know their settings, and must be there already; for them nothing is done.

    Raises `InvalidInput` code `folder_not_empty` where a folder already holds something else.
    """
    if location.scheme == "file":
        from skyhold.buckets.folder_making import create_folder_bucket

        create_folder_bucket(location.path)


def would_create(location: BucketLocation) -> bool:
    """Whether `create_bucket` would make the bucket, without making it. Raises as it does, as far as can be
    foreseen."""
    if location.scheme != "file":
        return False
    from skyhold.buckets.folder_making import would_create_folder_bucket

    return would_create_folder_bucket(location.path)
