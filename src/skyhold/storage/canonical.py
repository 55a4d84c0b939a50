"""Canonical JSON (RFC 8785), where one value has exactly one byte string, with the limits of format.md."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Final, NoReturn, TypeGuard

import rfc8785

from skyhold import error_codes
from skyhold.errors import Corrupt, InvalidInput
from skyhold.units import Buffer

INTEGER_MAX: Final = 2**53 - 1
NESTING_MAX: Final = 32

Json = dict[str, object]


_PLAIN: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def encode(value: object, what: str) -> bytes:
    """The canonical bytes of a JSON value. Raises `InvalidInput` naming `what` for what JSON cannot hold."""
    check_value(value, what)
    return canonical(value)


def canonical(value: object) -> bytes:
    """The canonical bytes of a value that was checked, or built from parts that were.

    For what has no floats, and only ASCII names, the `json` of Python writes the same bytes several times faster.
    """
    if _is_plain(value):
        with suppress(UnicodeEncodeError):  # which the library refuses with its own message
            return _PLAIN.encode(value).encode()
    return rfc8785.dumps(value)  # type: ignore[arg-type]


def _is_plain(value: object) -> bool:
    """Whether Python's JSON of it is the canonical one: floats have another form there, and names another order where
    they are not ASCII."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return -INTEGER_MAX <= value <= INTEGER_MAX  # type: ignore[operator]
    if kind is dict:
        return all(type(name) is str and name.isascii() and _is_plain(item) for name, item in value.items())  # type: ignore[attr-defined]
    return (kind is list or kind is tuple) and all(map(_is_plain, value))  # type: ignore[call-overload]


def decode(body: bytes, what: str) -> Json:
    """The JSON object in `body`. Raises `Corrupt` naming `what` for anything else, and for a name that comes twice.

    An integer beyond 2⁵³ − 1 can only be the canonical form of a float, and becomes one again.
    """
    try:
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_unique, parse_int=_number, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"The {what} is not a JSON document: {error}", code=error_codes.DOCUMENT_MALFORMED) from error
    if not isinstance(value, dict):
        malformed(what, "it is not an object")
    return value


def decode_canonical(body: Buffer, what: str) -> Json:
    """As `decode`, of a body that must be canonical byte for byte. The caller bounds its size."""
    stored = bytes(body)
    value = decode(stored, what)
    try:
        same = canonical(value) == stored
    except (rfc8785.CanonicalizationError, RecursionError) as error:
        raise Corrupt(f"The {what} is malformed: {error}", code=error_codes.DOCUMENT_MALFORMED) from error
    if not same:
        malformed(what, "it is not in canonical form")
    return value


def malformed(what: str, why: str) -> NoReturn:
    """Raise `Corrupt`: a document that was authenticated is not what it should be."""
    raise Corrupt(f"The {what} is malformed: {why}", code=error_codes.DOCUMENT_MALFORMED, hint="Run `skyhold verify`")


def check_value(value: object, what: str, depth: int = 0) -> None:
    """Raise `InvalidInput` naming the offending value, unless `value` is one that canonical JSON can hold."""
    if depth > NESTING_MAX:
        _refuse(what, f"it is nested deeper than {NESTING_MAX}")
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                _refuse(what, f"name {name!r} is not a string")
            check_text(name, what)
            check_value(item, f"{what}.{name}" if len(name) <= 64 else what, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            check_value(item, what, depth + 1)
    elif isinstance(value, str):
        check_text(value, what)
    elif isinstance(value, float) and not math.isfinite(value):
        _refuse(what, f"{value!r} is not a finite number")
    elif isinstance(value, int) and abs(value) > INTEGER_MAX:
        _refuse(what, f"an integer of {value.bit_length()} bits is beyond 2^53 - 1; give it as a string")
    elif value is not None and not isinstance(value, int | float):
        _refuse(what, f"{value!r} is a {type(value).__name__}, which JSON cannot hold")


def is_counter(value: object) -> TypeGuard[int]:
    """Whether a value is an integer from 0 to what a document can hold."""
    return type(value) is int and 0 <= value <= INTEGER_MAX


def check_text(text: str, what: str) -> None:
    """Raise `InvalidInput` for a string that has no UTF-8 form."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        _refuse(what, f"string {text!r} holds a lone surrogate")


def _refuse(what: str, why: str) -> NoReturn:
    raise InvalidInput(f"Expected a JSON value for {what}, but {why}", code=error_codes.INVALID_JSON_VALUE, what=what)


def _unique(pairs: list[tuple[str, object]]) -> Json:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name comes twice in one object")
    return value


def _number(digits: str) -> int | float:
    value = int(digits)
    return value if abs(value) <= INTEGER_MAX else float(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
