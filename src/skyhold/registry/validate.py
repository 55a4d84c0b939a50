"""Arguments of callers, checked and converted to plain Python values before anything is read, sent or changed.

Every public method passes its arguments through here once. NumPy scalars and other values of no dimension (of PyTorch,
of JAX) become Python numbers; a text where a list is meant is refused, as its letters would be taken for the items.
All of them raise `InvalidInput` naming `what` was given and, in short, the value.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Final

from skyhold import error_codes
from skyhold.errors import InvalidInput
from skyhold.storage.cancel import Cancel
from skyhold.storage.canonical import INTEGER_MAX, NESTING_MAX, Json, check_value
from skyhold.store.time import check_time

if TYPE_CHECKING:
    from skyhold.storage.sources.open import SourceInput

NAME_CHARACTERS_MAX: Final = 1024
"""The limit of every name and reference; stored fields have their own limits."""

_SHOWN_CHARACTERS: Final = 60


def _is_path(written: bytes) -> bool:
    """Whether a file system can have it (POSIX: PATH_MAX, NAME_MAX)."""
    return b"\0" not in written and len(written) < 4096 and all(len(name) <= 255 for name in written.split(b"/"))


def pairs(given: object, what: str) -> list[tuple[str, object]]:
    """The pairs of a mapping whose names are texts; None has none."""
    if given is None:
        return []
    if not isinstance(given, Mapping):
        raise _refused(f"{what} as a mapping of names to values", given)
    return [(text(name, f"a name of {what}"), value) for name, value in given.items()]


def text(value: object, what: str, *, long: bool = False) -> str:
    """A text that has a UTF-8 form: a name or a reference, or one that may be `long` and is bounded where it is
    stored."""
    if not isinstance(value, str) or (len(value) > NAME_CHARACTERS_MAX and not long):
        raise _refused(f"{what} as text" + ("" if long else f" of at most {NAME_CHARACTERS_MAX} characters"), value)
    plain_text = str.__str__(value)  # of a subclass, such as NumPy's, the text alone
    if not plain_text.isascii():
        check_value(plain_text, what)
    return plain_text


def texts(values: object, what: str, *, long: bool = False) -> tuple[str, ...]:
    """A list, or any other series, of texts."""
    return tuple(text(value, f"each of {what}", long=long) for value in items(values, what))


def items(values: object, what: str) -> list[object]:
    """What a list, or any other series, holds. A text is none."""
    if isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping):
        try:
            return list(values)
        except TypeError:  # of an object that only looks like a series, such as NumPy's array of no dimension
            pass
    raise _refused(f"{what} as a list", values)


def numbers(values: object, what: str) -> dict[str, float]:
    """Finite numbers by name; None is none."""
    return {name: number(value, f"{what} `{name}`") for name, value in pairs(values, what)}


def number(value: object, what: str) -> float:
    """A finite number. Whole ones stay whole, and are at most 2^53 - 1."""
    found = _number(_scalar(value))
    fits = abs(found) <= INTEGER_MAX if isinstance(found, int) else found is not None and math.isfinite(found)
    if found is None or not fits:
        raise _refused(f"a finite number for {what}", value)
    return found


def values(given: object, what: str) -> Json:
    """JSON values by name; None is none."""
    plain = {name: _plain(value, what) for name, value in pairs(given, what)}
    check_value(plain, what)
    return plain


def age_s(value: object) -> float | None:
    """The greatest age of what a read returns, in seconds: at least 0, perhaps infinite; or None."""
    number = None if value is None else _number(value)
    if value is not None and (number is None or not number >= 0):
        raise _refused("an age in seconds, of at least 0", value)
    return number


def cancel(value: object) -> Cancel | None:
    """What ends the operation, or None."""
    if value is None or isinstance(value, Cancel):
        return value
    raise _refused("a skyhold.Cancel", value)


def count(value: object, what: str, least: int = 1) -> int:
    """A whole number of at least `least`."""
    value = _scalar(value)
    if not isinstance(value, Integral) or isinstance(value, bool) or not least <= int(value) <= INTEGER_MAX:
        raise _refused(f"{what} as a whole number of at least {least}", value)
    return int(value)


def path(value: object, what: str) -> Path:
    """The path of a file or folder, as text or `os.PathLike`."""
    written = os.fspath(value) if isinstance(value, str | os.PathLike) else value
    try:
        if isinstance(written, str) and written and _is_path(os.fsencode(written)):
            return Path(written)
    except UnicodeEncodeError:
        pass
    raise _refused(f"{what} as a path", value)


def source(value: object, what: str) -> SourceInput:
    """What can be pushed: a path, contents by name, or an open file."""
    if isinstance(value, str | os.PathLike) or not (
        isinstance(value, Mapping) or callable(getattr(value, "read", None))
    ):
        return path(value, what)
    return value  # type: ignore[return-value]


def _plain(value: object, what: str, depth: int = 0) -> object:
    value = _scalar(value)
    if depth > NESTING_MAX:
        return value  # `check_value` refuses it
    if isinstance(value, Mapping):
        return {name: _plain(item, what, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, what, depth + 1) for item in value]
    if isinstance(value, str):
        return str.__str__(value)
    number = _number(value)
    return value if number is None else number


def _number(value: object) -> float | None:
    """The number as Python's own type, infinite where it is beyond all floats; None for what is no number."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:  # of a fraction
            return math.inf
    return None


def _scalar(value: object) -> object:
    """What a value of no dimension holds, as its library gives it."""
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", None) == 0:
        return item()
    return value


def _refused(expected: str, value: object) -> InvalidInput:
    return InvalidInput(f"Expected {expected} but got {_shown(value)}", code=error_codes.INVALID_ARGUMENT)


def _shown(value: object) -> str:
    """A value in short. Its own `repr` may fail or be of any length, as that of a number of 10,000 digits."""
    kind = type(value).__name__
    try:
        written = repr(value)
    except Exception:  # noqa: BLE001 - an object of another library
        return f"a {kind}"
    return f"{written[:_SHOWN_CHARACTERS]}{'…' if len(written) > _SHOWN_CHARACTERS else ''} (a {kind})"


def time(value: object, what: str) -> str | None:
    """A time such as 2026-11-23T20:05:02Z, or None."""
    return None if value is None else check_time(text(value, what))
