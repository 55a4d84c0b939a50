"""Where this machine's credentials may go: the rule, in one place (docs/how-to/credentials.md).

Credentials go to the vendor's own hosts, and to endpoints that this machine's user has named: on the command line, in
the environment, in settings of their own, or by a consent that is remembered. An endpoint, a reference to credentials
or a certificate that a document names (a bucket's `store.json`, the store's configuration, a `skyhold.toml` that was
found in a folder) comes from another party, and gets nothing until the user has agreed to it.

`open_bucket` and `open_etcd` enforce the rule; a location whose user named it has the flag `named`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from skyhold import error_codes
from skyhold.buckets.endpoint import is_loopback, normal_endpoint, refuse_plain_http
from skyhold.buckets.environment import place_from_environment
from skyhold.buckets.location import BucketLocation, truth
from skyhold.errors import InvalidInput, PermissionDenied

_CLOUDS: Final = frozenset({"s3", "gs", "az"})
_DECIDING: Final[Mapping[str, Any]] = {"endpoint": None, "credentials": "chain", "ca_file": None}
"""The settings that decide where credentials go, with the values that mean the vendor's own hosts."""
_DESTINATION: Final = re.compile(r"(s3|gs|az|etcds?)://([^/?#]*)(?:\?([^#]*))?")
_VENDOR_HOSTS: Final = {
    # Not all of amazonaws.com: machines, load balancers and functions of its customers have names there, too.
    "s3": re.compile(r"s3(-fips)?(\.dualstack)?([.-][a-z]{2}(-[a-z]+)+-[0-9]+)?\.amazonaws\.com(\.cn)?"),
    "gs": re.compile(r"(storage|www)\.googleapis\.com|storage\.[a-z]+-[a-z]+[0-9]+\.rep\.googleapis\.com"),
    "az": re.compile(r"[a-z0-9-]+\.blob\.core\.(windows\.net|chinacloudapi\.cn|usgovcloudapi\.net)"),
}


@dataclass(frozen=True, slots=True, order=True)
class Destination:
    """Which credentials would go where. Its text is a bucket's URL without the bucket, as in
    `s3://?endpoint=https://minio.lab&credentials=env:LAB`, or an etcd cluster's without the prefix."""

    scheme: str
    endpoint: str = ""
    credentials: str = "chain"
    ca_file: str = ""
    allow_http: bool = False

    def __str__(self) -> str:
        cloud = self.scheme in _CLOUDS
        given = {"credentials": "" if self.credentials == "chain" else self.credentials, "ca_file": self.ca_file}
        given = ({"endpoint": self.endpoint} if cloud else {}) | given
        given["allow_http"] = "true" if self.allow_http else ""
        query = "&".join(f"{name}={quote(value, safe='/:@,[]')}" for name, value in given.items() if value)
        return f"{self.scheme}://{'' if cloud else self.endpoint}{'?' if query else ''}{query}"

    @classmethod
    def parse(cls, text: str) -> Destination:
        """The inverse of its text. Raises `InvalidInput` code `invalid_destination`."""
        found = _DESTINATION.fullmatch(text)
        scheme, hosts, query = found.groups("") if found is not None else ("", "", "")
        pairs = [pair.partition("=") for pair in query.split("&") if pair]
        given = {name: unquote(value) for name, _, value in pairs}
        cloud = scheme in _CLOUDS
        known = {"credentials", "ca_file", "allow_http"} | ({"endpoint"} if cloud else set())
        if not scheme or cloud == bool(hosts) or len(given) != len(pairs) or not given.keys() <= known:
            raise InvalidInput(
                f"Expected where credentials may go but got {text!r}",
                code=error_codes.INVALID_DESTINATION,
                hint="Use s3://?endpoint=https://minio.lab, with &credentials=REF, &ca_file=FILE and &allow_http=true "
                "where they belong to it; so gs:// and az://; or etcds://host:2379,host:2379",
            )
        allow_http = truth("allow_http", given.get("allow_http", "false"))
        endpoint = hosts
        if cloud and given.get("endpoint"):
            endpoint = normal_endpoint(given["endpoint"], "The endpoint")
            if not allow_http:
                refuse_plain_http(endpoint, "The endpoint")
        return cls(scheme, endpoint, given.get("credentials", "chain"), given.get("ca_file", ""), allow_http)


def destination_of(location: BucketLocation) -> Destination:
    """Which credentials go where for a bucket of a cloud."""
    endpoint = location.endpoint or ""
    plain = endpoint.startswith("http://") and not is_loopback(endpoint)
    return Destination(location.scheme, endpoint, location.credentials, location.ca_file or "", plain)


def is_allowed(location: BucketLocation) -> bool:
    """Whether this bucket may be given credentials: it takes none, its user named where they go, or the vendor does."""
    return not location.is_cloud or location.named or _is_vendors(location)


def override(location: BucketLocation, given: Mapping[str, Any], *, by_user: bool) -> BucketLocation:
    """The location with other settings. Where its user gave them, it is named once no setting of a document decides
    where credentials go any more; where a document gave them, it is no longer named."""
    if not given:
        return location
    left = replace(location, named=False, **{name: value for name, value in _DECIDING.items() if name in given})
    return replace(location, **given, named=by_user and (location.named or is_allowed(left)))


def allow(location: BucketLocation, consents: Collection[Destination], *, user_chose: bool = False) -> BucketLocation:
    """The location, named where a consent or the environment of the process covers it. `user_chose`: its reference and
    certificates are the user's choice, so that any consent to its endpoint does.

    What a bucket stores about its siblings leaves out credentials: where the user agreed to one reference for the
    endpoint of such a location, that is the one that is used there.
    """
    if is_allowed(location):
        return location
    wanted = destination_of(location)
    found = place_from_environment(location.scheme, location.account, location.credentials)
    by_environment = location.ca_file is None and not wanted.allow_http and location.endpoint in found.values()
    if by_environment or agrees(consents, wanted, user_chose=user_chose):
        return replace(location, named=True)
    if location.credentials == "chain" and location.ca_file is None:
        same = [consent for consent in consents if _is_same_place(consent, wanted)]
        if len(same) == 1:
            return replace(location, credentials=same[0].credentials, ca_file=same[0].ca_file or None, named=True)
    return location


def agrees(consents: Collection[Destination], wanted: Destination, *, user_chose: bool = False) -> bool:
    """Whether one of the consents covers a destination; see `allow`."""
    return wanted in consents or (user_chose and any(_is_same_place(consent, wanted) for consent in consents))


def _is_same_place(consent: Destination, wanted: Destination) -> bool:
    same = (consent.scheme, consent.endpoint) == (wanted.scheme, wanted.endpoint)
    return same and consent.allow_http >= wanted.allow_http


def not_allowed(name: str, destination: Destination) -> PermissionDenied:
    """The error of a bucket, or of an etcd cluster, to which the user allowed no credentials."""
    return refused([(name, destination)], "URL")


def refused(wanted: Collection[tuple[str, Destination]], url: str) -> PermissionDenied:
    """The error of several at once: what each would be given. `url`: of the store, for the hint."""
    destinations = sorted({destination for _, destination in wanted})
    refusals = "; ".join(f"{name} ({destination})" for name, destination in wanted)
    options = " ".join(f"--trust '{destination}'" for destination in destinations)
    return PermissionDenied(
        f"No credentials were sent to {refusals}. You have not agreed to that place on this machine. "
        "It was named by a document of the store, or by a skyhold.toml that was found in a folder",
        code=error_codes.ENDPOINT_NOT_TRUSTED,
        hint=f"If you trust it, agree once: skyhold connect {url} {options}",
        destinations=[str(destination) for destination in destinations],
        buckets=[name for name, _ in wanted],
    )


def _is_vendors(location: BucketLocation) -> bool:
    if location.credentials != "chain" or location.ca_file is not None:
        return False
    if location.endpoint is None:
        return True
    return is_vendors_host(location.scheme, location.endpoint)


def is_vendors_host(scheme: str, endpoint: str) -> bool:
    """Whether an endpoint is one of the vendor's own service, over TLS."""
    parts = urlsplit(endpoint)
    host = _VENDOR_HOSTS[scheme].fullmatch(parts.netloc)
    return parts.scheme == "https" and host is not None and not parts.path
