"""The address of a service: one grammar, and one spelling of each."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from skyhold import error_codes
from skyhold.errors import InvalidInput

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
# Strict, because each driver brings a URL parser of its own: what two of them could read differently is no endpoint.
_ENDPOINT: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9][a-z0-9._-]*|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(/[a-z0-9_~-][a-z0-9._~-]*)*)/*",
    re.IGNORECASE,
)


def normal_endpoint(text: str, what: str, **fields: object) -> str:
    """The one spelling of an endpoint: scheme and host in lower case, no default port, no slash at the end.

    Raises `InvalidInput` code `invalid_location`, which names `what`; the text is not repeated, since a person may have
    put a secret into it.
    """
    found = _ENDPOINT.fullmatch(text)
    port = int(found["port"] or 0) if found else 0
    if found is None or port > 65535 or (found["port"] and not port):
        wrong, hint = _what_is_wrong(text)
        raise InvalidInput(
            f"{what} is not the address of a service: {wrong}, as in https://minio.lab:9000",
            code=error_codes.INVALID_LOCATION,
            hint=hint,
            **fields,
        )
    scheme, host = found["scheme"].lower(), found["host"].lower()
    shown = f":{port}" if port and port != _DEFAULT_PORTS[scheme] else ""
    return f"{scheme}://{host}{shown}{found['path']}"


def _what_is_wrong(text: str) -> tuple[str, str]:
    """What an endpoint would have to have, and what to do."""
    scheme, found, rest = text.partition("://")
    if not found or scheme.lower() not in _DEFAULT_PORTS:
        return "it must begin with https:// or http://", "Give it with its scheme"
    authority = re.split(r"[/?#]", rest)[0]
    host, colon, port = authority.rpartition(":")
    is_port = port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65535
    if host and colon and "@" not in authority and (host.endswith("]") or "[" not in host) and not is_port:
        return "its port must be a number from 1 to 65535", "Correct the number after the host, or leave it out"
    return "it must be a scheme, a host and perhaps a port and a path", "Give it without user, query and fragment"


def refuse_plain_http(endpoint: str, what: str, **fields: object) -> None:
    """Raise `InvalidInput` code `insecure_endpoint` for plain HTTP that leaves this machine."""
    if endpoint.startswith("http://") and not is_loopback(endpoint):
        raise InvalidInput(
            f"{what} is plain HTTP, which anyone on the network path can read and change",
            code=error_codes.INSECURE_ENDPOINT,
            hint="Use https://, or add `allow_http=true` to the URL if that network is trusted",
            **fields,
        )


def is_loopback(endpoint: str) -> bool:
    """Whether an endpoint is on this machine, by its host's name alone."""
    return urlsplit(endpoint).hostname in LOOPBACK
