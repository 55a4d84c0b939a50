"""From a location to obstore's S3 settings.

obstore takes every setting that it is not given from process-wide `AWS_*` variables. For a bucket whose credentials
reference is not `chain` all settings are therefore given here, so that buckets of several vendors do not mix; only
the encryption headers (`AWS_SERVER_SIDE_ENCRYPTION`, `AWS_SSE_*`) cannot be overridden: these refuse such a bucket.

obstore follows redirects, with the session token, and has no switch for it. So every host but the bucket's own is
reached by a proxy at an address where nobody listens. Where the environment names a proxy, that one is used instead.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from skyhold.buckets.location import BucketLocation
from skyhold.buckets.obstore_process import obstore_here
from skyhold.buckets.retry import RetryPolicy
from skyhold.buckets.s3_credentials import credential_provider
from skyhold.buckets.s3_errors import INSTANCE_METADATA, NOWHERE
from skyhold.buckets.user_file import read_small_file
from skyhold.errors import InvalidInput, SkyholdError

if TYPE_CHECKING:
    from skyhold.buckets.s3_subresources import SignedBucket

CA_FILE_BYTES_MAX: Final = 16 << 20
DEFAULT_REGION: Final = "us-east-1"
_CREDENTIAL_SERVERS: Final = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_ENDPOINT_URL_STS", "AWS_METADATA_ENDPOINT")


class StoreOptions:
    """Makes obstore's store objects of one location. It holds secrets, and its repr does not."""

    def __init__(self, location: BucketLocation) -> None:
        self._location = location
        self._provider = credential_provider(location)
        self._chain = location.credentials == "chain"
        if not self._chain:
            _refuse_encryption_variables(location)
        self._region = _checked_region(location)
        endpoint = location.endpoint
        self._path_style = location.path_style if location.path_style is not None else endpoint is not None
        self._endpoint = self._complete(endpoint)
        ca_file = location.ca_file or (os.environ.get("AWS_CA_BUNDLE") if self._chain else None)
        self._root_certificate = _read_certificates(ca_file, location) if ca_file else None

    def store(self, policy: RetryPolicy, limit_s: float, *, reading: bool) -> Any:
        """A store object whose requests are tried once and end after `limit_s`; those that are `reading` also end
        when nothing comes for the stall limit. (It would also cut an upload, during which nothing is received.)"""
        location = self._location
        client: dict[str, Any] = {
            "allow_http": self._endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=min(policy.connect_timeout_s, limit_s)),
            "timeout": timedelta(seconds=limit_s),
            "user_agent": "skyhold",
        }
        if self._may_guard():
            client |= {"proxy_url": NOWHERE, "proxy_excludes": ",".join(self._own_hosts())}
        if reading:
            client["read_timeout"] = timedelta(seconds=max(policy.stall_timeout_s, 0.001))
        if self._root_certificate is not None and self._endpoint.startswith("https://"):
            client["root_certificate"] = self._root_certificate
        try:
            return obstore_here().store.S3Store(
                location.container,
                config=self._config(),
                client_options=client,
                retry_config={"max_retries": 0},
                credential_provider=self._provider,
            )
        except SkyholdError:
            raise
        except Exception as error:
            raise InvalidInput(
                f"The settings of bucket `{location.name}` were not accepted",
                code="invalid_location",
                hint="Check region, endpoint and ca_file",
                bucket=location.name,
            ) from error

    def signed_bucket(self) -> SignedBucket | None:
        """What signs requests that obstore does not have, or None where only obstore's own chain has credentials."""
        from skyhold.buckets.s3_subresources import SignedBucket

        if self._provider is None:
            return None
        found = self._provider()
        return SignedBucket(
            url=f"{self._endpoint}/{self._location.container}" if self._path_style else self._endpoint,
            region=self._region,
            access_key_id=str(found["access_key_id"]),
            secret_access_key=str(found["secret_access_key"]),
            session_token=str(found["token"] or ""),
            ca_certificates=self._root_certificate.decode() if self._root_certificate is not None else None,
        )

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "endpoint": self._endpoint,
            "aws_endpoint_url_s3": self._endpoint,
            "region": self._region,
            "virtual_hosted_style_request": not self._path_style,
            "checksum_algorithm": "sha256",
            "unsigned_payload": False,
            "conditional_put": "etag",
            "disable_bulk_delete": True,
            "disable_tagging": True,
            "s3_express": self._location.container.endswith("--x-s3"),
        }
        if not self._chain:
            config |= {"skip_signature": False, "request_payer": False}
        return config

    def _may_guard(self) -> bool:
        """Whether a proxy may be named: not where the environment has one for this endpoint."""
        parts = urlsplit(self._endpoint)
        proxied = getproxies_environment().keys() & {parts.scheme, "all"}
        return not proxied or bool(proxy_bypass(parts.netloc))

    def _own_hosts(self) -> list[str]:
        """The hosts that are asked: of the endpoint, and, where obstore's own chain finds the credentials, of those
        that it asks for them."""
        hosts = [urlsplit(self._endpoint).hostname or ""]
        if self._provider is None:
            named = (os.environ.get(name, "") for name in _CREDENTIAL_SERVERS)
            hosts += [urlsplit(url).hostname or "" for url in named]
            hosts += [*INSTANCE_METADATA, f"sts.{self._region}.amazonaws.com", "sts.amazonaws.com"]
        return [host for host in hosts if host]

    def _complete(self, endpoint: str | None) -> str:
        """The endpoint as obstore wants it: with the bucket in the host where the style is virtual-hosted."""
        if endpoint is None:
            endpoint = f"https://s3.{self._region}.amazonaws.com" + (".cn" if self._region.startswith("cn-") else "")
        endpoint = endpoint.rstrip("/")
        if self._path_style:
            return endpoint
        parts = urlsplit(endpoint)
        return parts._replace(netloc=f"{self._location.container}.{parts.netloc}").geturl()


def _checked_region(location: BucketLocation) -> str:
    """The region, which is a part of the host that signs, and of the one that a web identity is shown to."""
    region = location.region or DEFAULT_REGION
    if not re.fullmatch(r"[A-Za-z0-9_-]+", region):
        raise InvalidInput(
            f"Bucket `{location.name}`: the name of an S3 region is of letters, digits, `-` and `_`",
            code="invalid_location",
            bucket=location.name,
        )
    return region


def _refuse_encryption_variables(location: BucketLocation) -> None:
    found = [name for name in os.environ if name == "AWS_SERVER_SIDE_ENCRYPTION" or name.startswith("AWS_SSE_")]
    if found:
        raise InvalidInput(
            f"{found[0]} is set for the whole process and would also reach bucket `{location.name}`",
            code="foreign_setting",
            hint="Unset it, and set the encryption as the default of the bucket that needs it",
            bucket=location.name,
        )


def _read_certificates(ca_file: str, location: BucketLocation) -> bytes:
    try:
        return read_small_file(Path(ca_file), CA_FILE_BYTES_MAX)[0]
    except OSError as error:
        raise InvalidInput(
            f"The CA file of bucket `{location.name}` cannot be read: {ca_file}",
            code="invalid_location",
            bucket=location.name,
        ) from error
