"""Documents in canonical JSON (RFC 8785), where one value has exactly one byte string."""

from __future__ import annotations

import json
from collections.abc import Mapping

import rfc8785

from skyhold.errors import Corrupt, InvalidInput

Buffer = bytes | bytearray | memoryview


def encode_document(document: Mapping[str, object], what: str) -> bytes:
    """The canonical bytes. Raises `InvalidInput` for what JSON cannot hold (integers past 2⁵³ − 1, NaN, surrogates)."""
    try:
        return rfc8785.dumps(dict(document))  # type: ignore[arg-type]
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise InvalidInput(f"The {what} cannot be written as JSON: {error}", code="document_invalid") from error


def decode_document(body: Buffer, what: str) -> dict[str, object]:
    """The JSON object in `body`, which must be canonical byte for byte: no name comes twice, nothing follows.

    Raises `Corrupt` for anything else. The caller bounds the size.
    """
    stored = bytes(body)
    try:
        value = json.loads(stored.decode("utf-8"))
        canonical = isinstance(value, dict) and rfc8785.dumps(value) == stored
    except (ValueError, RecursionError, rfc8785.CanonicalizationError) as error:
        raise Corrupt(f"The {what} is not canonical JSON: {error}", code="document_malformed") from error
    if not canonical:
        raise Corrupt(f"The {what} is not a JSON object in canonical form", code="document_malformed")
    return dict(value)
