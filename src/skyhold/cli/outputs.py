"""Outputs of a model as a user reads them: a JSON document, or a table as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyhold.errors import PermissionDenied

if TYPE_CHECKING:
    from skyhold.serving.tensor import Array


def as_documents(outputs: Mapping[str, Array]) -> list[dict[str, object]]:
    """The outputs as in a response of the protocol. NaN and infinity are null; bytes that are no text are escaped."""
    from skyhold.serving.tensor import datatype_of

    return [
        {
            "name": name,
            "datatype": datatype_of(array.dtype),
            "shape": list(array.shape),
            "data": [_plain(value) for value in array.ravel().tolist()],
        }
        for name, array in outputs.items()
    ]


def as_csv(outputs: Mapping[str, Array]) -> str:
    """One line for each row; an output with more than one value in a row has a column for each: `name[0]`."""
    columns: dict[str, list[Any]] = {}
    for name, array in outputs.items():
        rows = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
        single = array.ndim < 2
        for at in range(rows.shape[1]):
            columns[name if single else f"{name}[{at}]"] = rows[:, at].tolist()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    count = max(map(len, columns.values()), default=0)
    for row in range(count):
        writer.writerow([_text(values[row]) if row < len(values) else "" for values in columns.values()])
    return text.getvalue()


def write_file(path: Path, outputs: Mapping[str, Array]) -> None:
    """Raises `PermissionDenied` where it cannot be written."""
    try:
        path.write_text(as_csv(outputs), "utf-8")
    except OSError as error:
        raise PermissionDenied(f"The file {str(path)!r} cannot be written: {error.strerror}") from error


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: object) -> object:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
