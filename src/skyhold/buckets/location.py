"""Where a bucket is: a URL, a few settings, and a *reference* to credentials — never credentials themselves.

    ./clouds/a                file:///srv/models            a folder
    memory://name                                           this process's memory, for tests and embedding
    s3://bucket/prefix        gs://bucket/prefix            az://account/container/prefix

Settings may follow as a URL query (`s3://models?endpoint=https://minio.lab&region=eu-1`) or as keyword arguments; the
stored `url` is always the bare form. What a user leaves out and the environment sets is filled in when the URL is read
(`environment`), and not when the bucket is used. Credentials references, which each machine may override:

- `chain` — the vendor's own chain; for S3 the standard `AWS_*` variables, the shared files in `~/.aws`, web identity,
  container and instance roles. Only this reference looks at process-wide variables.
- `env:PREFIX` — variables `PREFIX_ACCESS_KEY_ID` (S3), `PREFIX_ACCOUNT_KEY` (Azure) and so on; `s3_credentials` and
  `azure_credentials` list the names. Google: the variable `PREFIX` itself, which holds a service account's JSON key.
- `file:PATH` — a JSON object with the same names in lower case (S3: an INI file too), or Google's JSON key. It must not
  be accessible to every user.
- `profile:NAME` — S3 only: a profile of `~/.aws`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from skyhold import error_codes
from skyhold.buckets.bucket import check_key
from skyhold.buckets.endpoint import normal_endpoint, refuse_plain_http
from skyhold.buckets.environment import place_from_environment
from skyhold.buckets.user_path import absolute, expand_user
from skyhold.errors import InvalidInput

PROVIDERS: Final = {"file": "folder", "memory": "memory", "s3": "aws", "gs": "google", "az": "azure"}
"""The provider that a URL scheme means where none is given."""

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
URL_BYTES_MAX: Final = 4096
_CONTAINER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,221}")
_REFERENCE: Final = re.compile(r"chain|env:[A-Za-z_][A-Za-z0-9_]*|file:.+|profile:.+")
_TRUTHS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True)
class BucketLocation:
    """One bucket's place. `region`, `endpoint` and `ca_file` are None where the provider's default holds.

    `path_style` None means: path style where an `endpoint` is given, else the provider's own style. `allow_http`
    permits an `http://` endpoint that is not on this machine (loopback needs no permission).

    `named`: this machine's user, and no document, gave all that decides where credentials go (`consent`). It is no part
    of the place, and is never written.
    """

    name: str
    url: str
    provider: str
    region: str | None = None
    endpoint: str | None = None
    credentials: str = "chain"
    path_style: bool | None = None
    ca_file: str | None = None
    allow_http: bool = False
    named: bool = field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_bucket_name(self.name)
        if not _NAME.fullmatch(self.provider):
            raise InvalidInput(
                f"Expected a provider's name but got {self.provider!r}", code=error_codes.INVALID_LOCATION
            )
        if not _REFERENCE.fullmatch(self.credentials):
            raise InvalidInput(
                f"Bucket `{self.name}`: expected a credentials reference",
                code=error_codes.INVALID_CREDENTIALS_REFERENCE,
                hint="Use `chain`, `env:PREFIX`, `file:PATH` or `profile:NAME`; secrets themselves are never stored",
                bucket=self.name,
            )
        _check_url(self.url, self.name)
        if self.credentials.startswith("profile:") and self.scheme != "s3":
            raise InvalidInput(
                f"Bucket `{self.name}`: only S3 has profiles",
                code=error_codes.INVALID_CREDENTIALS_REFERENCE,
                hint="Use `chain`, `env:NAME` or `file:PATH`",
                bucket=self.name,
            )
        if self.endpoint is not None:
            what = f"The endpoint of bucket `{self.name}`"
            object.__setattr__(self, "endpoint", normal_endpoint(self.endpoint, what, bucket=self.name))
            if not self.allow_http:
                refuse_plain_http(self.endpoint, what, bucket=self.name)

    @property
    def scheme(self) -> str:
        """`file`, `memory`, `s3`, `gs` or `az`."""
        return urlsplit(self.url).scheme

    @property
    def is_cloud(self) -> bool:
        """Whether it is reached with credentials."""
        return self.scheme in {"s3", "gs", "az"}

    @property
    def path(self) -> Path:
        """The absolute folder of a `file` location."""
        return Path(unquote(urlsplit(self.url).path))

    @property
    def account(self) -> str:
        """The storage account of an `az` location."""
        return urlsplit(self.url).netloc

    @property
    def container(self) -> str:
        """The provider's own name of the bucket: the S3 or Google bucket, or the Azure container."""
        parts = urlsplit(self.url)
        return parts.path.split("/")[1] if parts.scheme == "az" else parts.netloc

    @property
    def prefix(self) -> str:
        """The part of every key that comes before ours, without slashes at its ends; often empty."""
        segments = urlsplit(self.url).path.split("/")[1:]
        return "/".join(segments[1:] if self.scheme == "az" else segments)

    @property
    def place(self) -> str:
        """What distinguishes this place from all others: the URL, with the endpoint where one is given."""
        return f"{self.endpoint} {self.url}" if self.endpoint else self.url

    @property
    def full_url(self) -> str:
        """The URL with all that another machine needs to find the bucket; what belongs to this machine is left out."""
        left_out = {"name", "url", "credentials", "ca_file"} | (
            {"provider"} if self.provider == PROVIDERS[self.scheme] else set()
        )
        given = {name: value for name, value in self.to_json().items() if name not in left_out}
        texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in given.items()}
        query = "&".join(f"{name}={quote(text, safe='/:@,[]')}" for name, text in texts.items())
        return f"{self.url}?{query}" if query else self.url

    def to_json(self) -> dict[str, object]:
        """The location as a JSON object, without the settings that are at their defaults."""
        defaults = {item.name: item.default for item in fields(self) if item.name != "named"}
        return {name: getattr(self, name) for name, value in defaults.items() if getattr(self, name) != value}

    @classmethod
    def from_json(cls, document: object) -> BucketLocation:
        """The inverse of `to_json`. Raises `InvalidInput` for anything else."""
        if not isinstance(document, dict):
            raise InvalidInput("Expected a bucket location as a JSON object", code=error_codes.INVALID_LOCATION)
        known = {item.name for item in fields(cls)} - {"named"}
        unknown = sorted(str(name) for name in document if name not in known)
        missing = sorted({"name", "url", "provider"} - document.keys())
        if unknown or missing:
            raise InvalidInput(
                f"Bucket location has unknown fields {unknown} and lacks {missing}", code=error_codes.INVALID_LOCATION
            )
        for name, value in document.items():
            _check_type(name, value)
        return cls(**document)


def parse_location(
    url: str,
    *,
    name: str | None = None,
    provider: str | None = None,
    region: str | None = None,
    endpoint: str | None = None,
    credentials: str | None = None,
    path_style: bool | None = None,
    ca_file: str | None = None,
    allow_http: bool | None = None,
    complete: bool = True,
) -> BucketLocation:
    """The location that a user wrote, and thereby `named`. A folder is made absolute; the name defaults to the last
    part of the URL. What is not given is taken from the environment, unless not to `complete`.

    Keyword arguments win over the URL's query. Raises `InvalidInput`, whose message never contains the text of a query.
    """
    if not url.strip():
        raise InvalidInput("Expected the URL of a bucket but got an empty one", code=error_codes.INVALID_LOCATION)
    parts = _written_parts(url)
    if "://" not in url:
        path, query = _split_settings(url)
        bare = absolute(expand_user(path, "Bucket URL")).as_uri()
        bare = "file://" + quote(os.path.normpath(unquote(urlsplit(bare).path)))
    else:
        bare, query = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", parts.query
        if parts.fragment or (parts.scheme == "file" and parts.netloc not in {"", "localhost"}):
            raise InvalidInput(
                "Expected a bucket URL without host (file) or fragment", code=error_codes.INVALID_LOCATION
            )
        if parts.scheme == "file":
            bare = "file://" + (quote(os.path.normpath(unquote(parts.path))) if parts.path else "")
    _check_url(bare, name or "")
    settings = _query_settings(query)
    given = {"name": name, "provider": provider, "region": region, "endpoint": endpoint, "credentials": credentials,
             "path_style": path_style, "ca_file": ca_file, "allow_http": allow_http}  # fmt: skip
    settings.update({key: value for key, value in given.items() if value is not None})
    settings.setdefault("name", _default_name(bare))
    settings.setdefault("provider", PROVIDERS[urlsplit(bare).scheme])
    certificates = settings.get("ca_file")
    if isinstance(certificates, str):
        settings["ca_file"] = str(absolute(expand_user(certificates, "ca_file")))
    location = replace(BucketLocation.from_json({"url": bare, **settings}), named=True)
    return completed(location) if complete else location


def completed(location: BucketLocation) -> BucketLocation:
    """The location, completed by what the environment sets of its place. Raises `InvalidInput`."""
    found = place_from_environment(location.scheme, location.account, location.credentials)
    return replace(
        location, endpoint=location.endpoint or found.get("endpoint"), region=location.region or found.get("region")
    )


def check_bucket_name(name: str) -> str:
    """Return `name`, or raise `InvalidInput`: 1 to 63 of `[a-z0-9._-]`, beginning with a letter or a digit."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"Expected a bucket name but got {name!r}",
            code=error_codes.INVALID_BUCKET_NAME,
            hint="Use 1 to 63 characters of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or a digit",
        )
    return name


def _check_url(url: str, name: str) -> None:
    """The URL's own grammar. Its text is not repeated in errors: a person may have put a secret into it."""

    def refuse(reason: str) -> InvalidInput:
        return InvalidInput(
            f"The URL of bucket `{name}` {reason}" if name else f"The bucket URL {reason}",
            code=error_codes.INVALID_LOCATION,
            hint="Use a folder, memory://name, s3://bucket/prefix, gs://bucket/prefix or az://account/container/prefix",
        )

    try:
        parts = urlsplit(url)
    except ValueError as error:  # brackets, which belong to an IPv6 address alone
        raise refuse("does not name a host") from error
    if "@" in parts.netloc:
        raise refuse("holds credentials; put a reference to them into `credentials` instead")
    if parts.scheme not in PROVIDERS:
        raise refuse(f"has the unknown scheme {parts.scheme!r}")
    if parts.query or parts.fragment:
        raise refuse("has a query or fragment where a bare URL is expected")
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/"):
            raise refuse("does not name an absolute folder")
        if "\0" in unquote(parts.path):
            raise refuse("names a folder that cannot exist")
        return
    if not _CONTAINER.fullmatch(parts.netloc):
        raise refuse("does not name a bucket" if parts.scheme != "az" else "does not name an account")
    segments = parts.path.split("/")[1:]
    if parts.scheme == "az":
        if not segments or not _CONTAINER.fullmatch(segments[0]):
            raise refuse("does not name a container: az://account/container")
        segments = segments[1:]
    if segments:
        check_key("/".join(segments))


def _written_parts(url: str) -> SplitResult:
    """The parts of what a person wrote, if a URL or a path can be so at all."""
    try:
        if len(os.fsencode(url)) <= URL_BYTES_MAX and url.isprintable():
            return urlsplit(url)
    except ValueError:  # half a pair of brackets, or a lone surrogate
        pass
    raise InvalidInput(
        f"Expected the URL of a bucket, or a folder, of at most {URL_BYTES_MAX} bytes that all print",
        code=error_codes.INVALID_LOCATION,
        hint="Use a folder, s3://bucket/prefix, gs://bucket/prefix or az://account/container/prefix",
    )


def _query_settings(query: str) -> dict[str, object]:
    settings: dict[str, object] = {}
    known = {item.name for item in fields(BucketLocation)} - {"url", "named"}
    for key, value in parse_qsl(query, keep_blank_values=True, max_num_fields=32):
        if key not in known or key in settings:
            raise InvalidInput(
                f"The bucket URL's query has the unknown or repeated setting {key!r}",
                code=error_codes.INVALID_LOCATION,
                hint=f"Known settings are {', '.join(sorted(known))}",
            )
        settings[key] = truth(key, value) if key in {"path_style", "allow_http"} else value
    return settings


def truth(key: str, text: str) -> bool:
    """The value of a setting in a URL's query. Raises `InvalidInput`."""
    if text.lower() not in _TRUTHS:
        raise InvalidInput(f"Expected true or false for {key!r} in the bucket URL", code=error_codes.INVALID_LOCATION)
    return _TRUTHS[text.lower()]


def _check_type(name: str, value: object) -> None:
    if name in {"path_style", "allow_http"}:
        valid = isinstance(value, bool) or (value is None and name == "path_style")
    elif name in {"name", "url", "provider", "credentials"}:
        valid = isinstance(value, str)
    else:
        valid = value is None or (isinstance(value, str) and value != "")
    if not valid:
        raise InvalidInput(f"Bucket location: {name!r} has the wrong type", code=error_codes.INVALID_LOCATION)


def _split_settings(path: str) -> tuple[str, str]:
    """A folder and the settings after it, as in `./cloud?region=eu`; any other `?` belongs to the name."""
    name, _, query = path.partition("?")
    return (name, query) if re.match(r"[a-z_]+=", query) else (path, "")


def _default_name(url: str) -> str:
    parts = urlsplit(url)
    last = unquote(parts.path).rsplit("/", 1)[-1] or parts.netloc
    return re.sub(r"[^a-z0-9._-]+", "-", last.lower()).lstrip("._-")[:63] or parts.scheme
