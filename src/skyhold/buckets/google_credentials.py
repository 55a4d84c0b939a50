"""From a credentials reference to Google credentials. Nothing here is ever stored, printed or put into an error."""

from __future__ import annotations

import json
import os
from typing import Final

import google.auth
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import GoogleAuthError
from google.oauth2.service_account import Credentials as ServiceAccount

from skyhold import error_codes
from skyhold.buckets.credentials_file import read_credentials_file
from skyhold.errors import InvalidInput, PermissionDenied

SCOPES: Final = ("https://www.googleapis.com/auth/devstorage.read_write",)


def credentials_of(reference: str, bucket_name: str, *, anonymous_chain: bool) -> Credentials:
    """Credentials for `chain` (Application Default Credentials, or none at all where `anonymous_chain`), `env:NAME`
    (a variable that holds a service account's JSON key) or `file:PATH` (a file that holds it).

    Raises `PermissionDenied` where there are none, `InvalidInput` where the reference or what it names is malformed.
    """
    kind, _, value = reference.partition(":")
    match kind:
        case "chain":
            if anonymous_chain:
                return AnonymousCredentials()  # type: ignore[no-untyped-call]
            return _default(bucket_name)
        case "env" if value:
            text = os.environ.get(value)
            if not text:
                raise _missing(bucket_name, f"the environment variable {value} is not set")
            return _service_account(text, reference, bucket_name)
        case "file" if value:
            text = read_credentials_file(value, f"bucket `{bucket_name}`", bucket=bucket_name)
            return _service_account(text, reference, bucket_name)
    raise InvalidInput(
        f"Bucket `{bucket_name}` names its Google credentials as {kind!r}, which is not one of chain, env and file",
        code=error_codes.INVALID_CREDENTIALS_REFERENCE,
        bucket=bucket_name,
    )


def _default(bucket_name: str) -> Credentials:
    try:
        credentials, _project = google.auth.default(scopes=SCOPES)
    except GoogleAuthError as error:
        raise _missing(bucket_name, "no Application Default Credentials were found") from error
    return credentials


def _service_account(text: str, reference: str, bucket_name: str) -> Credentials:
    """Of the JSON key in `text`. The cause is left out: it may quote the key."""
    try:
        key = json.loads(text)
        account: Credentials = ServiceAccount.from_service_account_info(key, scopes=SCOPES)  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, AttributeError, GoogleAuthError):
        raise InvalidInput(
            f"Bucket `{bucket_name}`: {reference} does not hold the JSON key of a service account",
            code=error_codes.INVALID_CREDENTIALS,
            hint="Make one with `gcloud iam service-accounts keys create`",
            bucket=bucket_name,
        ) from None
    return account


def _missing(bucket_name: str, why: str) -> PermissionDenied:
    return PermissionDenied(
        f"Bucket `{bucket_name}` has no Google credentials: {why}",
        code=error_codes.CREDENTIALS_MISSING,
        hint="Run `gcloud auth application-default login`, or give the bucket a reference of its own",
        bucket=bucket_name,
    )
