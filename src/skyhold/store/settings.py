"""What a person sets on this machine: `skyhold.toml`, and the environment, which wins over it.

    store = "s3://models-eu/skyhold"      # SKYHOLD_STORE
    author = "Ada <ada@example.org>"      # SKYHOLD_AUTHOR
    actor = "automation"                  # SKYHOLD_ACTOR: person, automation, controller or agent
    key_file = "~/keys/team.key"          # SKYHOLD_KEY_FILE
    push = { memory = "128MiB", threads = 4 }          # SKYHOLD_MEMORY, SKYHOLD_THREADS
    cache = { size = "20GiB", folder = "/fast/cache" } # SKYHOLD_CACHE_SIZE, SKYHOLD_CACHE

    [etcd]                                # how this machine reaches the cluster of a store whose refs live in etcd
    credentials = "env:ETCD"              # SKYHOLD_ETCD_CREDENTIALS
    ca_file = "/etc/ssl/etcd.pem"         # SKYHOLD_ETCD_CA_FILE
    allow_http = true                     # SKYHOLD_ETCD_ALLOW_HTTP

    [buckets.gcs-eu]                      # how this machine reaches a bucket, where it differs from the store's word
    credentials = "file:~/keys/gcs.json"
    endpoint = "https://gcs.internal"
    ca_file = "/etc/ssl/internal.pem"

One file holds: `SKYHOLD_CONFIG`, else the first `skyhold.toml` from the working directory upwards, else the one in the
platform's configuration folder of the user. Paths in it are relative to it. One that was found in the working directory
or above it may be another party's: its settings of where credentials go need the user's consent (`buckets.consent`).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Final, NoReturn

import platformdirs

from skyhold import error_codes
from skyhold.buckets.consent import Destination, agrees, allow, override
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.user_file import read_small_file
from skyhold.buckets.user_path import absolute, expand_user, in_home
from skyhold.consensus.etcd_location import EtcdLocation, parse_etcd_location
from skyhold.errors import InvalidInput, NotFound, PermissionDenied
from skyhold.units import GIB, MIB, format_bytes, parse_size_bytes

FILE_NAME: Final = "skyhold.toml"
FILE_BYTES_MAX: Final = 1 * MIB
MEMORY_BYTES_MIN: Final = 64 * MIB
THREADS_MAX: Final = 64

_VARIABLES: Final = {
    "store": "SKYHOLD_STORE",
    "author": "SKYHOLD_AUTHOR",
    "actor": "SKYHOLD_ACTOR",
    "key_file": "SKYHOLD_KEY_FILE",
    "insecure_key_file": "SKYHOLD_INSECURE_KEY_FILE",
    "push.memory": "SKYHOLD_MEMORY",
    "push.threads": "SKYHOLD_THREADS",
    "cache.size": "SKYHOLD_CACHE_SIZE",
    "cache.folder": "SKYHOLD_CACHE",
    "etcd.credentials": "SKYHOLD_ETCD_CREDENTIALS",
    "etcd.ca_file": "SKYHOLD_ETCD_CA_FILE",
    "etcd.allow_http": "SKYHOLD_ETCD_ALLOW_HTTP",
}
_ETCD_KEYS: Final = ("credentials", "ca_file", "allow_http")
_PASSPHRASE: Final = "SKYHOLD_PASSPHRASE"  # noqa: S105 - the name of a variable


@dataclass(frozen=True, slots=True)
class BucketSettings:
    """How this machine reaches one bucket; None where the store's configuration holds."""

    credentials: str | None = None
    endpoint: str | None = None
    ca_file: str | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of this machine. `origins` is where each given setting came from, by its dotted name (`push.memory`
    → `/home/ada/skyhold.toml`); the others have the defaults below. `found`: the file was found in the working
    directory or above it, and its user did not name it."""

    store: str | None = None
    author: str | None = None
    actor: str | None = None
    key_file: Path | None = None
    insecure_key_file: bool = False
    passphrase: str | None = field(default=None, repr=False)
    push_memory_bytes: int = 200 * MIB
    push_threads: int | None = None
    cache_size_bytes: int = 10 * GIB
    cache_folder: Path | None = None
    etcd_credentials: str | None = None
    etcd_ca_file: Path | None = None
    etcd_allow_http: bool = False
    buckets: Mapping[str, BucketSettings] = field(default_factory=dict)
    file: Path | None = None
    found: bool = False
    origins: Mapping[str, str] = field(default_factory=dict)

    def locate(self, location: BucketLocation, consents: Collection[Destination] = ()) -> BucketLocation:
        """A bucket's location with what this machine overrides, `named` where its user, or one of the `consents`,
        determines where credentials go. Raises `InvalidInput` where that makes no location."""
        given = asdict(self.buckets.get(location.name, BucketSettings()))
        given = {name: value for name, value in given.items() if value is not None}
        reached = override(location, given, by_user=not self.found)
        chosen = "credentials" in given and ("ca_file" in given or location.ca_file is None)
        return allow(reached, consents, user_chose=chosen and not self.found)

    def locate_etcd(self, cluster: str, consents: Collection[Destination] = (), *, typed: bool = False) -> EtcdLocation:
        """An etcd cluster as this machine reaches it, `named` as a bucket is; `typed`: its user has just named the
        cluster. Raises `InvalidInput` where that makes no location."""
        location = parse_etcd_location(
            cluster,
            credentials=self.etcd_credentials,
            ca_file=None if self.etcd_ca_file is None else str(self.etcd_ca_file),
            allow_http=self.etcd_allow_http,
        )
        by_file = self.found and any(self.origin(f"etcd.{name}") == str(self.file) for name in _ETCD_KEYS)
        chosen = not by_file and "?" not in cluster  # then the document contains only its location
        named = (typed and not by_file) or agrees(consents, location.destination, user_chose=chosen)
        return replace(location, named=named)

    @property
    def store_is_users(self) -> bool:
        """Whether this machine's user names the store, and not a file that was found."""
        return not (self.found and self.origin("store") == str(self.file))

    def origin(self, name: str) -> str:
        """Where a setting came from: a file, `environment NAME`, or `default`."""
        return self.origins.get(name, "default")


def load_settings(environ: Mapping[str, str] = os.environ, working_folder: Path | None = None) -> Settings:
    """Read and check the settings.

    Raises `InvalidInput` (not TOML, an unknown key, a wrong type or value; the message names file, key and what was
    expected), `NotFound` (a `SKYHOLD_CONFIG` that is not there) and `PermissionDenied` (unreadable, or another user's).
    """
    here = working_folder or absolute(".")
    path = find_file(environ, here)
    given, buckets = _place(_read_table(path), path) if path is not None else ({}, {})
    for name, variable in _VARIABLES.items():
        if environ.get(variable):
            given[name] = _Given(environ[variable], f"environment {variable}", variable, here)
    values = {_READERS[name][0]: _READERS[name][1](value) for name, value in given.items()}
    origins = {name: value.origin for name, value in given.items()}
    if environ.get(_PASSPHRASE):
        values["passphrase"], origins["passphrase"] = environ[_PASSPHRASE], f"environment {_PASSPHRASE}"
    values["buckets"] = {bucket: _bucket_settings(keys) for bucket, keys in buckets.items()}
    origins |= {value.name: value.origin for keys in buckets.values() for value in keys.values()}
    found = path is not None and not environ.get("SKYHOLD_CONFIG") and path != _own_file()
    return Settings(**values, file=path, found=found, origins=origins)  # type: ignore[arg-type]


def _bucket_settings(keys: Mapping[str, _Given]) -> BucketSettings:
    return BucketSettings(
        **{name: str(value.path()) if name == "ca_file" else value.text() for name, value in keys.items()}
    )


def find_file(environ: Mapping[str, str], working_folder: Path) -> Path | None:
    """The one configuration file that holds, or None. Raises `NotFound` where `SKYHOLD_CONFIG` names none."""
    named = environ.get("SKYHOLD_CONFIG")
    if named:
        path = absolute(expand_user(named, "SKYHOLD_CONFIG"))
        if not _is_file(path):
            raise NotFound(
                f"Configuration file {path} (SKYHOLD_CONFIG) does not exist", code=error_codes.SETTINGS_MISSING
            )
        return path
    start = absolute(working_folder)
    files = [*(folder / FILE_NAME for folder in (start, *start.parents)), _own_file()]
    return next((file for file in files if file is not None and _is_file(file)), None)


def _is_file(path: Path) -> bool:
    """Whether there is a file; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _own_file() -> Path | None:
    """The one in the user's configuration folder, where there is a home to have one."""
    folder = in_home(platformdirs.user_config_path)
    return None if folder is None else folder / FILE_NAME


@dataclass(frozen=True, slots=True)
class _Given:
    """A value as a person gave it: its place for messages, and the folder that relative paths start from."""

    value: object
    origin: str
    name: str
    folder: Path

    def refuse(self, expected: str) -> NoReturn:
        raise InvalidInput(
            f"{self.origin}: expected `{self.name}` to be {expected}, but got {self.value!r}",
            code=error_codes.INVALID_SETTING,
            setting=self.name,
            origin=self.origin,
        )

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value:
            self.refuse("a text that is not empty")
        return self.value

    def path(self) -> Path:
        if not isinstance(self.value, str) or not self.value:
            self.refuse("a path")
        return Path(os.path.normpath(self.folder / expand_user(self.value, f"{self.origin}, `{self.name}`")))

    def size_bytes(self, least: int) -> int:
        try:
            size = parse_size_bytes(self.value) if isinstance(self.value, str) else -1
        except InvalidInput:
            size = -1
        if size < least:
            self.refuse("a size such as `128MiB`" + (f", at least {format_bytes(least)}" if least else ""))
        return size

    def table(self) -> dict[str, object]:
        if not isinstance(self.value, dict):
            self.refuse("a table")
        return self.value

    def truth(self) -> bool:
        words = {"true": True, "false": False} if self.origin.startswith("env") else {}
        truth = words.get(self.value, self.value) if isinstance(self.value, str) else self.value
        if not isinstance(truth, bool):
            self.refuse("true or false")
        return truth

    def number(self, most: int) -> int:
        number = self.value
        if isinstance(number, str) and number.isascii() and number.isdecimal() and self.origin.startswith("env"):
            number = int(number)
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= most:
            self.refuse(f"a whole number from 1 to {most}")
        return number


_Tables = tuple[dict[str, _Given], dict[str, dict[str, _Given]]]
_READERS: Final[dict[str, tuple[str, Callable[[_Given], object]]]] = {
    "store": ("store", _Given.text),
    "author": ("author", _Given.text),
    "actor": ("actor", _Given.text),
    "key_file": ("key_file", _Given.path),
    "insecure_key_file": ("insecure_key_file", _Given.truth),
    "push.memory": ("push_memory_bytes", lambda given: given.size_bytes(MEMORY_BYTES_MIN)),
    "push.threads": ("push_threads", lambda given: given.number(THREADS_MAX)),
    "cache.size": ("cache_size_bytes", lambda given: given.size_bytes(0)),
    "cache.folder": ("cache_folder", _Given.path),
    "etcd.credentials": ("etcd_credentials", _Given.text),
    "etcd.ca_file": ("etcd_ca_file", _Given.path),
    "etcd.allow_http": ("etcd_allow_http", _Given.truth),
}
_BUCKET_KEYS: Final = tuple(key.name for key in fields(BucketSettings))


def _read_table(path: Path) -> dict[str, object]:
    try:
        status = path.stat()
        if os.geteuid() != 0 and status.st_uid not in {os.geteuid(), 0}:
            # It decides where credentials are sent, so it is not taken from any user who can write a folder above.
            raise PermissionDenied(
                f"Configuration file {path} belongs to another user and is not read",
                code=error_codes.SETTINGS_NOT_YOURS,
                hint=f"Take it over with `chown $USER {path}`, or name a copy of your own in SKYHOLD_CONFIG",
            )
        return tomllib.loads(read_small_file(path, FILE_BYTES_MAX)[0].decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"{path} is not TOML: {error}", code=error_codes.INVALID_SETTINGS_FILE) from error
    except OSError as error:
        raise PermissionDenied(
            f"Configuration file {path} cannot be read: {error.strerror}", code=error_codes.SETTINGS_UNREADABLE
        ) from error


def _place(table: dict[str, object], path: Path) -> _Tables:
    """Every value of the file under its dotted name, and those of the buckets by bucket. Refuses unknown keys."""

    def given(name: str, value: object) -> _Given:
        return _Given(value, str(path), name, path.parent)

    single: dict[str, _Given] = {}
    buckets: dict[str, dict[str, _Given]] = {}
    for key, value in table.items():
        inner = {name.partition(".")[2] for name in _READERS if name.startswith(f"{key}.")}
        if key == "buckets":
            for bucket, settings in given(key, value).table().items():
                place = f"buckets.{bucket}"
                of_bucket = given(place, settings).table()
                _refuse_unknown(of_bucket, _BUCKET_KEYS, path, place)
                buckets[bucket] = {name: given(f"{place}.{name}", item) for name, item in of_bucket.items()}
        elif inner:
            section = given(key, value).table()
            _refuse_unknown(section, inner, path, key)
            single.update({f"{key}.{name}": given(f"{key}.{name}", item) for name, item in section.items()})
        else:
            _refuse_unknown([key], {name.partition(".")[0] for name in _READERS} | {"buckets"}, path, "")
            single[key] = given(key, value)
    return single, buckets


def _refuse_unknown(names: Iterable[str], known: Collection[str], path: Path, section: str) -> None:
    for name in names:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, 1)
            prefix = f"{section}." if section else ""
            raise InvalidInput(
                f"{path}: unknown key `{prefix}{name}`",
                code=error_codes.UNKNOWN_SETTING,
                hint=f"Did you mean `{prefix}{near[0]}`?" if near else f"Known keys are {', '.join(sorted(known))}",
                setting=f"{prefix}{name}",
                origin=str(path),
            )
