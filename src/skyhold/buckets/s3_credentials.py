"""What an S3 credentials reference stands for. Secrets live in the objects made here and nowhere else: no repr, error
or file of ours holds them.

- `env:PREFIX`: `PREFIX_ACCESS_KEY_ID`, `PREFIX_SECRET_ACCESS_KEY` and, for temporary ones, `PREFIX_SESSION_TOKEN`.
- `file:PATH`: a JSON object with `access_key_id`, `secret_access_key` and perhaps `session_token`, or an INI file with
  these names in its section `default` (with or without `aws_` before them). It must not be accessible to every user.
- `profile:NAME`: of `AWS_SHARED_CREDENTIALS_FILE` and `AWS_CONFIG_FILE` (`~/.aws/…`): static keys or
  `credential_process`. For SSO and assumed roles the AWS CLI can serve as that process.
- `chain`: `AWS_ACCESS_KEY_ID` and its like; else the profile `AWS_PROFILE` or `default`; else obstore's own chain
  (web identity, container, instance).

They are read again every five minutes, so a rotated file or a process's short-lived keys keep working.
"""

from __future__ import annotations

import configparser
import json
import os
import shlex
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from skyhold.buckets.aws_profile import profile_settings
from skyhold.buckets.credentials_file import read_credentials_file
from skyhold.buckets.location import BucketLocation
from skyhold.errors import PermissionDenied

REREAD_S: Final = 300.0
PROCESS_TIMEOUT_S: Final = 30.0
Credential = dict[str, object]
"""As obstore wants it: `access_key_id`, `secret_access_key`, `token`, `expires_at`."""


def credential_provider(location: BucketLocation) -> Callable[[], Credential] | None:
    """What yields this bucket's credentials, or None where obstore's own chain shall find them.

    It has been called once, so that a reference to nothing fails here: `PermissionDenied` code `credentials_missing`.
    """
    kind, _, rest = location.credentials.partition(":")
    if kind == "chain":
        if os.environ.get("AWS_ACCESS_KEY_ID"):
            found: Callable[[], Mapping[str, str]] = lambda: _from_environment(location, "AWS")  # noqa: E731
        else:
            profile = os.environ.get("AWS_PROFILE")
            if profile is None and not profile_settings("default").keys() & _PROFILE_SOURCES:
                return None
            found = lambda: _from_profile(location, profile or "default")  # noqa: E731
    elif kind == "env":
        found = lambda: _from_environment(location, rest)  # noqa: E731
    elif kind == "file":
        found = lambda: _from_file(location, rest)  # noqa: E731
    else:
        found = lambda: _from_profile(location, rest)  # noqa: E731
    found()
    return lambda: _credential(found())


_PROFILE_SOURCES: Final = frozenset(
    {"aws_access_key_id", "credential_process", "sso_session", "sso_start_url", "role_arn"}
)


def _from_environment(location: BucketLocation, prefix: str) -> Mapping[str, str]:
    names = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")
    return _checked(location, {name.lower(): os.environ.get(f"{prefix}_{name}", "") for name in names}, f"{prefix}_*")


def _from_file(location: BucketLocation, path: str) -> Mapping[str, str]:
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
    return _checked(location, {name.removeprefix("aws_"): str(value) for name, value in found.items()}, path)


def _from_profile(location: BucketLocation, name: str) -> Mapping[str, str]:
    settings = profile_settings(name)
    if "aws_access_key_id" not in settings and "credential_process" in settings:
        return _checked(location, _from_process(location, settings["credential_process"]), "credential_process")
    if "aws_access_key_id" not in settings and settings.keys() & _PROFILE_SOURCES:
        raise PermissionDenied(
            f"Profile `{name}` of bucket `{location.name}` uses SSO or a role, which only the AWS CLI can resolve",
            code="credentials_missing",
            hint=f"Add a profile with `credential_process = aws configure export-credentials --profile {name}`",
            bucket=location.name,
        )
    return _checked(location, {key.removeprefix("aws_"): value for key, value in settings.items()}, f"profile {name}")


def _from_process(location: BucketLocation, command: str) -> dict[str, str]:
    try:
        done = subprocess.run(  # noqa: S603 - the user's own configuration names it
            shlex.split(command), capture_output=True, timeout=PROCESS_TIMEOUT_S, check=True
        )
        found = json.loads(done.stdout)
        keys = {"access_key_id": "AccessKeyId", "secret_access_key": "SecretAccessKey", "session_token": "SessionToken"}
        return {ours: str(found.get(theirs) or "") for ours, theirs in keys.items()}
    except (OSError, subprocess.SubprocessError, ValueError, AttributeError):
        raise _missing(location, "its credential_process failed") from None


def _checked(location: BucketLocation, found: Mapping[str, str], source: str) -> Mapping[str, str]:
    if not found.get("access_key_id") or not found.get("secret_access_key"):
        raise _missing(location, f"{source} does not hold an access key id and a secret access key")
    return found


def _missing(location: BucketLocation, reason: str) -> PermissionDenied:
    return PermissionDenied(
        f"No credentials for bucket `{location.name}`: {reason}",
        code="credentials_missing",
        hint="Set what its credentials reference names, or give this machine another reference",
        bucket=location.name,
    )


def _credential(found: Mapping[str, str]) -> Credential:
    return {
        "access_key_id": found["access_key_id"],
        "secret_access_key": found["secret_access_key"],
        "token": found.get("session_token") or None,
        "expires_at": datetime.now(UTC) + timedelta(seconds=REREAD_S),
    }
