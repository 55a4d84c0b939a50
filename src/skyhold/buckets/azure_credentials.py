"""From a credentials reference to Azure credentials. Nothing here is ever stored, printed or put into an error.

The names, in the order in which they are looked for: `CONNECTION_STRING`, `ACCOUNT_KEY`, `SAS_TOKEN`, and the three of
a service principal, `TENANT_ID`, `CLIENT_ID` and `CLIENT_SECRET`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final

from azure.core.credentials import AccessToken, AzureNamedKeyCredential, AzureSasCredential, TokenCredential

from skyhold import error_codes
from skyhold.buckets.credentials_file import read_credentials_file
from skyhold.buckets.environment import connection_settings
from skyhold.errors import InvalidInput, PermissionDenied

STORAGE_SCOPE: Final = "https://storage.azure.com/.default"


class StorageTokens:
    """Tokens for storage and nothing else: the SDK would ask for one of whatever resource a service names in its
    challenge, and hand it over."""

    def __init__(self, credential: TokenCredential) -> None:
        self._credential = credential

    def get_token(self, *_scopes: str, **options: Any) -> AccessToken:
        return self._credential.get_token(STORAGE_SCOPE, **options)


Credential = AzureNamedKeyCredential | AzureSasCredential | StorageTokens

PRINCIPAL: Final = ("TENANT_ID", "CLIENT_ID", "CLIENT_SECRET")
NAMES: Final = ("CONNECTION_STRING", "ACCOUNT_KEY", "SAS_TOKEN", *PRINCIPAL)
CHAIN_VARIABLES: Final = {
    "CONNECTION_STRING": "AZURE_STORAGE_CONNECTION_STRING",
    "ACCOUNT_KEY": "AZURE_STORAGE_KEY",
    "SAS_TOKEN": "AZURE_STORAGE_SAS_TOKEN",
}
"""The Azure CLI's own names; whatever else the chain knows is found by `DefaultAzureCredential`."""


def credentials_of(reference: str, account: str, bucket_name: str) -> Credential:
    """Credentials for `chain` (the Azure CLI's `AZURE_STORAGE_*` variables, then `DefaultAzureCredential`),
    `env:PREFIX` (variables `PREFIX_ACCOUNT_KEY` and so on) or `file:PATH` (a JSON object with these names in lower
    case; see `credentials_file`).

    Raises `PermissionDenied` where there are none, `InvalidInput` where the reference or what it names is malformed.
    """
    kind, _, value = reference.partition(":")
    match kind:
        case "chain":
            found = {
                name: os.environ[variable] for name, variable in CHAIN_VARIABLES.items() if os.environ.get(variable)
            }
            return _credential(found, account, bucket_name) if found else _default()
        case "env":
            variables = {name: os.environ.get(f"{value}_{name}", "") for name in NAMES}
            return _credential(variables, account, bucket_name)
        case "file":
            return _credential(_file(value, bucket_name), account, bucket_name)
    raise InvalidInput(
        f"Bucket `{bucket_name}` names its Azure credentials as {kind!r}, which is not one of chain, env and file",
        code=error_codes.INVALID_CREDENTIALS_REFERENCE,
        bucket=bucket_name,
    )


def _default() -> Credential:
    from azure.identity import DefaultAzureCredential

    return StorageTokens(DefaultAzureCredential())


def _file(path: str, bucket_name: str) -> Mapping[str, str]:
    text = read_credentials_file(path, f"bucket `{bucket_name}`", bucket=bucket_name)
    try:
        document = json.loads(text)
        return {str(name).upper(): str(value) for name, value in document.items()}
    except (ValueError, AttributeError):  # the cause is left out: it may quote the file
        raise InvalidInput(
            f"Bucket `{bucket_name}`: {path} does not hold a JSON object of credentials",
            code=error_codes.INVALID_CREDENTIALS,
            bucket=bucket_name,
        ) from None


def _credential(found: Mapping[str, str], account: str, bucket_name: str) -> Credential:
    """The first kind of credential of which all parts are there."""
    if text := found.get("CONNECTION_STRING"):
        pairs = connection_settings(text)
        found = {"ACCOUNT_KEY": pairs.get("AccountKey", ""), "SAS_TOKEN": pairs.get("SharedAccessSignature", "")}
        account = pairs.get("AccountName", account)
    if key := found.get("ACCOUNT_KEY"):
        return AzureNamedKeyCredential(account, key)
    if token := found.get("SAS_TOKEN"):
        return AzureSasCredential(token)
    if all(found.get(name) for name in PRINCIPAL):
        from azure.identity import ClientSecretCredential

        return StorageTokens(ClientSecretCredential(*(found[name] for name in PRINCIPAL)))
    raise _missing(bucket_name, f"none of {', '.join(NAMES)} is set where its reference points")


def _missing(bucket_name: str, why: str) -> PermissionDenied:
    return PermissionDenied(
        f"Bucket `{bucket_name}` has no Azure credentials: {why}",
        code=error_codes.CREDENTIALS_MISSING,
        hint="Run `az login`, or give the bucket a reference of its own",
        bucket=bucket_name,
    )
