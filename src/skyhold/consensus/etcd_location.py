"""Where an etcd cluster is: a URL, and a *reference* to credentials, never credentials themselves. Pure.

    etcds://etcd-1:2379,etcd-2:2379,etcd-3:2379/models      TLS
    etcd://127.0.0.1:2379/models                            plain HTTP: on this machine, or with `allow_http=true`

The path is the prefix of every key, so that several stores, and others, share a cluster. Settings may follow as a URL
query (`?credentials=env:ETCD&ca_file=/etc/ssl/etcd.pem`) or as keyword arguments. References are `chain`, `env:PREFIX`
and `file:PATH`, as for buckets; `etcd_credentials` lists the names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from skyhold import error_codes
from skyhold.buckets.bucket import check_key
from skyhold.buckets.consent import Destination
from skyhold.buckets.endpoint import LOOPBACK
from skyhold.buckets.user_path import absolute, expand_user
from skyhold.errors import InvalidInput

PORT: Final = 2379
ENDPOINTS_MAX: Final = 16
PREFIX: Final = "skyhold"
"""The prefix of keys where the URL names none."""
_URL: Final = re.compile(r"(?:([^:/?#]+):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
_REFERENCE: Final = re.compile(r"chain|env:[A-Za-z_][A-Za-z0-9_]*|file:.+")
_HINT: Final = "Use etcds://host:2379,host:2379/prefix, or etcd:// where the network is trusted"


@dataclass(frozen=True, slots=True)
class EtcdLocation:
    """One cluster's place, and a prefix in it. `ca_file` None: the authorities that the machine trusts. `named`: this
    machine's user, and no document, decided where credentials go (`skyhold.buckets.consent`); it is never written."""

    url: str
    credentials: str = "chain"
    ca_file: str | None = None
    allow_http: bool = False
    named: bool = field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _check_url(self.url)
        if not _REFERENCE.fullmatch(self.credentials):
            raise InvalidInput(
                "Expected a credentials reference for the etcd cluster",
                code=error_codes.INVALID_CREDENTIALS_REFERENCE,
                hint="Use `chain`, `env:PREFIX` or `file:PATH`; secrets themselves are never stored",
            )
        if self.ca_file is not None and not self.tls:
            raise _refuse("has a `ca_file`, which belongs to TLS")
        if self.is_plain and not self.allow_http:
            raise InvalidInput(
                "The etcd cluster would be reached by plain HTTP, which anyone on the network path can read and change",
                code=error_codes.INSECURE_ENDPOINT,
                hint="Use etcds://, or add `allow_http=true` to the URL if that network is trusted",
            )

    @property
    def tls(self) -> bool:
        return _split(self.url).scheme == "etcds"

    @property
    def is_plain(self) -> bool:
        """Whether the connection is plain HTTP that leaves this machine."""
        return not self.tls and not all(_host(end) in LOOPBACK for end in self.endpoints)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The nodes as `host:port`, in the order in which they are tried."""
        return tuple(_split(self.url).netloc.split(","))

    @property
    def prefix(self) -> str:
        """What every key begins with, without slashes at its ends."""
        return _split(self.url).path.strip("/")

    @property
    def destination(self) -> Destination:
        """Which credentials go where."""
        parts = _split(self.url)
        return Destination(parts.scheme, parts.netloc, self.credentials, self.ca_file or "", self.is_plain)

    def to_json(self) -> dict[str, object]:
        """The location as a JSON object, without the settings that are at their defaults."""
        defaults = {item.name: item.default for item in fields(self) if item.name != "named"}
        return {name: getattr(self, name) for name, value in defaults.items() if getattr(self, name) != value}

    @classmethod
    def from_json(cls, document: object) -> EtcdLocation:
        """The inverse of `to_json`. Raises `InvalidInput` for anything else."""
        types = {"url": str, "credentials": str, "ca_file": str, "allow_http": bool}
        if not isinstance(document, dict) or "url" not in document:
            raise InvalidInput(
                "Expected the location of an etcd cluster as a JSON object", code=error_codes.INVALID_LOCATION
            )
        for name, value in document.items():
            if name not in types or not isinstance(value, types[name]):
                raise InvalidInput(
                    f"The etcd location's {name!r} is unknown or malformed", code=error_codes.INVALID_LOCATION
                )
        return cls(**document)


def parse_etcd_location(
    url: str, *, credentials: str | None = None, ca_file: str | None = None, allow_http: bool | None = None
) -> EtcdLocation:
    """The location that a user wrote, and thereby `named`, with ports and prefix filled in. Keyword arguments win over
    the URL's query.

    Raises `InvalidInput`, whose message never contains the text of the URL: it may hold a secret.
    """
    parts = _split(url)
    endpoints = [_with_port(host) for host in parts.netloc.split(",")]
    bare = f"{parts.scheme}://{','.join(endpoints)}/{parts.path.strip('/') or PREFIX}"
    if parts.fragment:
        raise _refuse("has a fragment")
    _check_url(bare)
    settings = _query_settings(parts.query)
    given = {"credentials": credentials, "ca_file": ca_file, "allow_http": allow_http}
    settings.update({name: value for name, value in given.items() if value is not None})
    certificates = settings.get("ca_file")
    if isinstance(certificates, str):
        settings["ca_file"] = str(absolute(expand_user(certificates, "ca_file")))
    return replace(EtcdLocation.from_json({"url": bare, **settings}), named=True)


class _Parts(NamedTuple):
    scheme: str
    netloc: str
    path: str
    query: str
    fragment: str


def _split(url: str) -> _Parts:
    """The parts of a URL (RFC 3986, appendix B). `urlsplit` takes an authority for that of one host, and refuses two of
    them from some patch of Python on."""
    found = _URL.fullmatch(url)
    return _Parts(*found.groups("")) if found is not None else _Parts("", "", "", "", "")


def _refuse(reason: str) -> InvalidInput:
    return InvalidInput(f"The URL of the etcd cluster {reason}", code=error_codes.INVALID_LOCATION, hint=_HINT)


def _with_port(host: str) -> str:
    return host if re.search(r":[0-9]+\Z", host) else f"{host}:{PORT}"


def _host(endpoint: str) -> str:
    return endpoint.rpartition(":")[0].strip("[]")


def _check_url(url: str) -> None:
    parts = _split(url)
    if "@" in parts.netloc:
        raise _refuse("holds credentials; put a reference to them into `credentials` instead")
    if parts.scheme not in {"etcd", "etcds"}:
        raise _refuse("begins with neither etcd:// nor etcds://")
    if parts.query or parts.fragment:
        raise _refuse("has a query or fragment where a bare URL is expected")
    endpoints = parts.netloc.split(",")
    if len(endpoints) > ENDPOINTS_MAX or len(set(endpoints)) != len(endpoints):
        raise _refuse(f"names a node twice, or more than {ENDPOINTS_MAX}")
    for endpoint in endpoints:
        if not _is_endpoint(endpoint):
            raise _refuse("names a node that is not host:port")
    check_key(parts.path.strip("/"))


def _is_endpoint(endpoint: str) -> bool:
    match = re.fullmatch(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})", endpoint)
    return match is not None and 0 < int(match[1]) < 65536


def _query_settings(query: str) -> dict[str, object]:
    settings: dict[str, object] = {}
    for name, value in parse_qsl(query, keep_blank_values=True, max_num_fields=8):
        if name not in {"credentials", "ca_file", "allow_http"} or name in settings:
            raise InvalidInput(
                f"The etcd URL's query has the unknown or repeated setting {name!r}",
                code=error_codes.INVALID_LOCATION,
                hint="Known settings are allow_http, ca_file, credentials",
            )
        settings[name] = value
    if "allow_http" in settings:
        if settings["allow_http"] not in {"true", "false"}:
            raise InvalidInput(
                "Expected true or false for 'allow_http' in the etcd URL", code=error_codes.INVALID_LOCATION
            )
        settings["allow_http"] = settings["allow_http"] == "true"
    return settings
