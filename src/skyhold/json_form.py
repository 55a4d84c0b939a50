"""One JSON form of everything that Skyhold returns, for `--json` and for other programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def as_json(value: object) -> Any:
    """A result as JSON values: objects, arrays, text, numbers, booleans and null.

    A dataclass becomes an object of its fields, and of the properties that its `in_json` names. What has its own form
    (`to_json`) is returned in it: mostly what is stored, such as a policy, a location, the files of a version. Raises
    `TypeError` for other types.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if hasattr(value, "to_json"):
        return as_json(value.to_json())
    if is_dataclass(value) and not isinstance(value, type):
        names = [*(field.name for field in fields(value)), *getattr(value, "in_json", ())]
        return {name: as_json(getattr(value, name)) for name in names}
    raise TypeError(f"A {type(value).__name__} has no JSON form: {value!r}")
