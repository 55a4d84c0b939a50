"""From a credentials reference to what etcd asks for. Nothing here is ever stored, printed or put into an error.

The names are `USER` and `PASSWORD`, and `CERT_FILE` and `KEY_FILE`: the paths of a client's certificate and its key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from skyhold import error_codes
from skyhold.buckets.credentials_file import read_credentials_file
from skyhold.buckets.user_path import absolute, expand_user
from skyhold.errors import InvalidInput, PermissionDenied

NAMES: Final = ("USER", "PASSWORD", "CERT_FILE", "KEY_FILE")
CHAIN_VARIABLES: Final = {
    "USER": "ETCDCTL_USER",
    "PASSWORD": "ETCDCTL_PASSWORD",
    "CERT_FILE": "ETCDCTL_CERT",
    "KEY_FILE": "ETCDCTL_KEY",
}
"""etcdctl's own variables (https://etcd.io/docs/v3.6/op-guide/authentication/)."""
_OWNER: Final = "the etcd cluster"


@dataclass(frozen=True, slots=True)
class EtcdCredentials:
    """Without a `user` no token is asked for; without a `cert_file` no certificate is shown."""

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    cert_file: str | None = None
    key_file: str | None = None


def credentials_of(reference: str, environ: Mapping[str, str] = os.environ) -> EtcdCredentials:
    """Credentials for `chain` (etcdctl's `ETCDCTL_*` variables; none of them set: none at all), `env:PREFIX` (variables
    `PREFIX_USER` and so on) or `file:PATH` (a JSON object with these names in lower case; see `credentials_file`).

    Raises `PermissionDenied` where `env:` or `file:` find none, or a user lacks the password or a certificate its
    key; `InvalidInput` where the reference or what it names is malformed.
    """
    kind, _, value = reference.partition(":")
    match kind:
        case "chain":
            return _credentials(_split_user({name: environ.get(CHAIN_VARIABLES[name], "") for name in NAMES}))
        case "env" if value:
            found: Mapping[str, str] = {name: environ.get(f"{value}_{name}", "") for name in NAMES}
        case "file" if value:
            found = _file(value)
        case _:
            raise InvalidInput(
                f"The etcd cluster's credentials are named as {kind!r}, which is not one of chain, env and file",
                code=error_codes.INVALID_CREDENTIALS_REFERENCE,
                hint="Use `chain`, `env:PREFIX` or `file:PATH`; secrets themselves are never stored",
            )
    if not any(found.get(name) for name in NAMES):
        raise _missing(f"none of {', '.join(NAMES)} is set where its reference points")
    return _credentials(found)


def has_credentials(reference: str) -> bool:
    """Whether there is anything on this machine that would be sent. Raises as `credentials_of`."""
    return credentials_of(reference) != EtcdCredentials()


def _split_user(found: dict[str, str]) -> dict[str, str]:
    """etcdctl takes `user:password` as well as the two apart."""
    user, colon, password = found["USER"].partition(":")
    return found | {"USER": user, "PASSWORD": password} if colon and not found["PASSWORD"] else found


def _file(path: str) -> Mapping[str, str]:
    text = read_credentials_file(path, _OWNER)
    try:
        found = {str(name).upper(): str(value) for name, value in json.loads(text).items()}
    except (ValueError, AttributeError):  # the cause is left out: it may quote the file
        raise InvalidInput(
            f"{path} does not hold a JSON object of credentials for etcd", code=error_codes.INVALID_CREDENTIALS
        ) from None
    folder = absolute(expand_user(path, "Credentials file")).parent
    return {
        name: str(folder / expand_user(value, name)) if name.endswith("_FILE") and value else value
        for name, value in found.items()
    }


def _credentials(found: Mapping[str, str]) -> EtcdCredentials:
    user, password, cert_file, key_file = (found.get(name) or None for name in NAMES)
    if (user is None) != (password is None):
        raise _missing("USER and PASSWORD belong together, and one of them is not set")
    if (cert_file is None) != (key_file is None):
        raise _missing("CERT_FILE and KEY_FILE belong together, and one of them is not set")
    return EtcdCredentials(user, password, cert_file, key_file)


def _missing(why: str) -> PermissionDenied:
    return PermissionDenied(
        f"{_OWNER.capitalize()} has no credentials on this machine: {why}",
        code=error_codes.CREDENTIALS_MISSING,
        hint="Set them, or give this machine another reference",
    )
