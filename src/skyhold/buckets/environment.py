"""What the environment sets of where a bucket is. It is read once, when a user writes a bucket's URL, and becomes part
of the location: a store must not be at one place for a machine with the variable and at another without it.

Only the reference `chain` looks at variables of the whole process; `profile:NAME` has a region of its own.
"""

from __future__ import annotations

import os

from skyhold.buckets.endpoint import normal_endpoint


def place_from_environment(scheme: str, account: str, credentials: str) -> dict[str, str]:
    """`endpoint` and `region` as far as the environment sets them for a bucket of this scheme (and Azure account).

    Raises `InvalidInput`, which names the variable, for an endpoint that is none.
    """
    kind, _, profile = credentials.partition(":")
    if scheme == "s3" and kind == "profile":
        return _filled(region=_region_of(profile))
    if kind != "chain":
        return {}
    match scheme:
        case "s3":
            region = _variable("AWS_REGION", "AWS_DEFAULT_REGION")
            return _filled(
                endpoint=_endpoint("AWS_ENDPOINT_URL_S3") or _endpoint("AWS_ENDPOINT_URL"),
                region=region or _region_of(os.environ.get("AWS_PROFILE") or "default"),
            )
        case "gs":
            return _filled(endpoint=_endpoint("STORAGE_EMULATOR_HOST", default_scheme="http://"))
        case "az":
            return _filled(endpoint=_azure_endpoint(account))
    return {}


def connection_settings(text: str) -> dict[str, str]:
    """The settings of an Azure connection string."""
    return dict(part.split("=", 1) for part in text.strip().split(";") if "=" in part)


def _azure_endpoint(account: str) -> str | None:
    """The endpoint of the account that the connection string names, unless it is in the public cloud."""
    settings = connection_settings(os.environ.get("AZURE_STORAGE_CONNECTION_STRING", ""))
    if settings.get("AccountName", account) != account:
        return None
    if settings.get("BlobEndpoint"):
        return normal_endpoint(settings["BlobEndpoint"], "The BlobEndpoint of AZURE_STORAGE_CONNECTION_STRING")
    suffix = settings.get("EndpointSuffix")
    return f"https://{account}.blob.{suffix}" if suffix and suffix != "core.windows.net" else None


def _region_of(profile: str) -> str | None:
    from skyhold.buckets.aws_profile import profile_settings  # every command imports this module

    return profile_settings(profile).get("region")


def _endpoint(variable: str, default_scheme: str = "") -> str | None:
    text = os.environ.get(variable)
    if not text:
        return None
    return normal_endpoint(text if "://" in text else default_scheme + text, f"The value of {variable}")


def _variable(*names: str) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _filled(**found: str | None) -> dict[str, str]:
    return {name: value for name, value in found.items() if value}
