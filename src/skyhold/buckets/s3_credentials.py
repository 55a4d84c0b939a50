"""From an S3 credentials reference to credentials. Secrets are in the objects made here and nowhere else: no repr,
error or file of ours contains them.

- `env:PREFIX`: `PREFIX_ACCESS_KEY_ID`, `PREFIX_SECRET_ACCESS_KEY` and, for temporary ones, `PREFIX_SESSION_TOKEN`.
- `file:PATH`: a JSON object with `access_key_id`, `secret_access_key` and perhaps `session_token`, or an INI file with
  these names in its section `default` (with or without `aws_` before them). It must not be accessible to every user.
- `profile:NAME`: of `AWS_SHARED_CREDENTIALS_FILE` and `AWS_CONFIG_FILE` (`~/.aws/…`): static keys; else what
  botocore finds by it (`credential_process`, SSO, assumed roles).
- `chain`: `AWS_ACCESS_KEY_ID` and its like; else the profile `AWS_PROFILE` or `default`; else botocore's own chain
  (web identity, container, instance).

What we read ourselves is read again every five minutes, so a rotated file keeps working; botocore renews what it found.
"""

from __future__ import annotations

import configparser
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from skyhold import error_codes
from skyhold.buckets.aws_profile import profile_settings
from skyhold.buckets.credentials_file import read_credentials_file
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.s3_signing import Keys
from skyhold.errors import InvalidInput, PermissionDenied

REREAD_S: Final = 300.0
Source = Callable[[], Keys]


def key_source(location: BucketLocation) -> Source:
    """What yields this bucket's keys, for each request anew. Raises `PermissionDenied` code `credentials_missing`,
    also when it is called, and `InvalidInput` code `extra_missing` where a role needs botocore, which is not there."""
    kind, _, rest = location.credentials.partition(":")
    if kind == "chain" and os.environ.get("AWS_ACCESS_KEY_ID"):
        return _Reread(lambda: _from_environment(location, "AWS"))
    if kind in {"chain", "profile"}:
        profile = rest or os.environ.get("AWS_PROFILE")
        settings = profile_settings(profile or "default")
        if "aws_access_key_id" in settings and "role_arn" not in settings:
            return _Reread(lambda: _from_profile(location, profile or "default"))
        return _from_botocore(location, profile)
    if kind == "env":
        return _Reread(lambda: _from_environment(location, rest))
    return _Reread(lambda: _from_file(location, rest))


class _Reread:
    """What was read, for `REREAD_S`."""

    def __init__(self, read: Source) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._keys, self._until_s = read(), time.monotonic() + REREAD_S

    def __call__(self) -> Keys:
        with self._lock:
            if time.monotonic() > self._until_s:
                self._keys, self._until_s = self._read(), time.monotonic() + REREAD_S
            return self._keys


def _from_environment(location: BucketLocation, prefix: str) -> Keys:
    names = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")
    return _keys(location, {name.lower(): os.environ.get(f"{prefix}_{name}", "") for name in names}, f"{prefix}_*")


def _from_file(location: BucketLocation, path: str) -> Keys:
    text = read_credentials_file(path, f"bucket `{location.name}`", bucket=location.name)
    try:
        if text.lstrip().startswith("{"):
            found: dict[str, object] = json.loads(text)
        else:
            parser = configparser.RawConfigParser()
            parser.read_string(text)
            found = dict(parser.items("default"))
    except (ValueError, configparser.Error):
        # No cause: these errors quote the line that they did not understand, and it may hold the secret.
        raise _missing(location, f"the file {path} is neither JSON nor INI with a section [default]") from None
    return _keys(location, {name.removeprefix("aws_"): str(value) for name, value in found.items()}, path)


def _from_profile(location: BucketLocation, name: str) -> Keys:
    settings = profile_settings(name)
    return _keys(location, {key.removeprefix("aws_"): value for key, value in settings.items()}, f"profile {name}")


def _from_botocore(location: BucketLocation, profile: str | None) -> Source:
    """Whatever the vendor's own library finds by a profile, or by its chain where there is none."""
    if profile is not None and not profile_settings(profile):
        raise _missing(location, f"there is no profile `{profile}`")
    try:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.session import Session
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"The credentials of bucket `{location.name}` are a role's, for which the package `{error.name}` is needed",
            code=error_codes.EXTRA_MISSING,
            hint="pip install 'skyhold[s3]', or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            bucket=location.name,
        ) from error

    def asked(ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except (BotoCoreError, ClientError, OSError, ValueError) as error:
            # Its errors name what it asked, and no secret; without its cause all the same.
            raise _missing(location, f"{type(error).__name__}: {str(error)[:300]}") from None

    found = asked(lambda: Session(profile=profile).get_credentials())
    if found is None:
        raise _missing(location, "none in the environment or ~/.aws, and no role")

    def keys() -> Keys:
        frozen = asked(found.get_frozen_credentials)  # it renews them by itself
        return _checked(location, Keys(frozen.access_key, frozen.secret_key, frozen.token or ""), "the role")

    return keys


def _keys(location: BucketLocation, found: Mapping[str, str], source: str) -> Keys:
    if not found.get("access_key_id") or not found.get("secret_access_key"):
        raise _missing(location, f"{source} does not hold an access key id and a secret access key")
    keys = Keys(found["access_key_id"], found["secret_access_key"], found.get("session_token") or "")
    return _checked(location, keys, source)


def _checked(location: BucketLocation, keys: Keys, source: str) -> Keys:
    """Keys that a header can carry. An error of a later check, by a library, would repeat them."""
    parts = (keys.access_key_id, keys.secret_access_key, keys.session_token)
    if not all(part.isascii() and part.isprintable() for part in parts):
        raise _missing(location, f"{source} holds characters that no key has, such as the end of a line")
    return keys


def _missing(location: BucketLocation, reason: str) -> PermissionDenied:
    return PermissionDenied(
        f"No credentials for bucket `{location.name}`: {reason}",
        code=error_codes.CREDENTIALS_MISSING,
        hint="Set what its credentials reference names, or give this machine another reference",
        bucket=location.name,
    )
