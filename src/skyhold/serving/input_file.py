"""The inputs of a model from a file: a JSON request, columns or rows; CSV; an array of NumPy; Parquet. Only
`read_input` touches the file system.

Columns belong to the inputs of their names. Where a model has one input with two dimensions, and no column has its
name, all columns together are that input, in their order.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from skyhold import error_codes
from skyhold.errors import InvalidInput, NotFound, PermissionDenied
from skyhold.serving.rest_codec import decode_request
from skyhold.serving.signature import ANY_SIZE, TensorSpec
from skyhold.serving.tensor import Array, array_of, numpy_dtype

FILE_BYTES_MAX: Final = 1 << 30
STDIN: Final = "-"
_KINDS: Final = (".json", ".csv", ".npy", ".parquet")


@dataclass(frozen=True, slots=True)
class _Column:
    """`name` is None where the file gives none; `first_row` is the number of its first value, for messages."""

    name: str | None
    values: Sequence[Any]
    first_row: int = 1


def read_input(name: str, stdin: BinaryIO, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The inputs for a model with these inputs, from the file `name`, or from JSON in `stdin` where that is `-`. Raises
    `NotFound`, `PermissionDenied` or `InvalidInput`, which names row and column."""
    if name == STDIN:
        return parse_input(".json", stdin.read(FILE_BYTES_MAX + 1), specs)
    path = Path(name)
    kind = path.suffix.lower()
    if kind not in _KINDS:
        raise _invalid(f"{name!r} has no known ending", hint=f"Name a file that ends in {', '.join(_KINDS)}")
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise NotFound(f"There is no file {name!r}") from None
    except OSError as error:
        raise PermissionDenied(f"The file {name!r} cannot be read: {error.strerror}") from error
    return parse_input(kind, data, specs)


def parse_input(kind: str, data: bytes, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The inputs in the bytes of a file of this kind (its ending). Raises `InvalidInput`."""
    if len(data) > FILE_BYTES_MAX:
        raise _invalid(f"it is longer than {FILE_BYTES_MAX} bytes", hint="Cut it into several files")
    if kind == ".npy":
        return {_only_input(specs).name: _parse_npy(data)}
    if kind == ".csv":
        return _arrays(_parse_csv(data), specs, _CSV_VALUES)
    if kind == ".parquet":
        return _arrays(_parse_parquet(data), specs, _VALUES)
    return _parse_json(data, specs)


def _parse_npy(data: bytes) -> Array:
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise _invalid(f"it is no array of NumPy: {error}") from None
    if not isinstance(array, np.ndarray):
        raise _invalid("it is an archive of arrays; save one with numpy.save")
    return array


def _parse_csv(data: bytes) -> list[_Column]:
    try:
        rows = [row for row in csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True) if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise _invalid(f"it is no CSV in UTF-8: {error}") from None
    if not rows:
        raise _invalid("it is empty")
    headless = all(_is_number(cell) for cell in rows[0])
    names: list[str | None] = [None] * len(rows[0]) if headless else [cell.strip() for cell in rows[0]]
    values = rows if headless else rows[1:]
    first = 1 if headless else 2
    for number, row in enumerate(values, first):
        if len(row) != len(names):
            raise _invalid(f"row {number} has {len(row)} fields, and the first has {len(names)}")
    return [_Column(name, [row[at] for row in values], first) for at, name in enumerate(names)]


def _parse_parquet(data: bytes) -> list[_Column]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InvalidInput(
            "Reading Parquet needs pyarrow, which is not installed",
            code=error_codes.RUNTIME_MISSING,
            hint="pip install 'skyhold[parquet]'",
        ) from error
    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(data))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _invalid(f"it is no Parquet: {error}") from None
    return [_Column(name, table.column(at).to_pylist()) for at, name in enumerate(table.column_names)]


def _parse_json(data: bytes, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"it is no JSON: {error}") from None
    if isinstance(document, dict) and isinstance(document.get("inputs"), list) and _is_request(document["inputs"]):
        return {tensor.name: tensor.array for tensor in decode_request(data).inputs}
    if isinstance(document, dict):
        for name, values in document.items():
            if not isinstance(values, list):
                raise _invalid(f"column {name!r} is {values!r:.100}, not a list of values")
        return _arrays([_Column(name, values) for name, values in document.items()], specs, _VALUES)
    if isinstance(document, list) and document and all(isinstance(row, dict) for row in document):
        return _arrays(_columns_of_objects(document), specs, _VALUES)
    if isinstance(document, list) and document and all(isinstance(row, list) for row in document):
        width = len(document[0])
        for number, row in enumerate(document, 1):
            if len(row) != width:
                raise _invalid(f"row {number} has {len(row)} values, and the first has {width}")
        if any(isinstance(value, list) for row in document for value in row):
            return {(spec := _only_input(specs)).name: _array(_Column(spec.name, document), spec, _VALUES)}
        return _arrays([_Column(None, [row[at] for row in document]) for at in range(width)], specs, _VALUES)
    if isinstance(document, list) and document and not any(isinstance(row, dict | list) for row in document):
        return _arrays([_Column(None, document)], specs, _VALUES)
    raise _invalid("it is neither a request, nor an object of columns, nor a list of rows")


def _is_request(inputs: list[Any]) -> bool:
    return bool(inputs) and all(isinstance(one, dict) and "datatype" in one and "name" in one for one in inputs)


def _columns_of_objects(rows: list[dict[str, Any]]) -> list[_Column]:
    names = list(rows[0])
    for number, row in enumerate(rows, 1):
        if row.keys() != rows[0].keys():
            field = min(row.keys() ^ rows[0].keys())
            raise _invalid(f"row {number} and row 1 do not have the same fields: {field!r} is in one alone")
    return [_Column(name, [row[name] for row in rows]) for name in names]


def _arrays(
    columns: Sequence[_Column], specs: Sequence[TensorSpec], values: dict[str, Callable[[Any], Any]]
) -> dict[str, Array]:
    names = [column.name for column in columns if column.name is not None]
    for name in names:
        if names.count(name) > 1:
            raise _invalid(f"two columns have the name {name!r}")
    by_name = {spec.name: spec for spec in specs}
    if not by_name.keys() & set(names):
        spec = _only_input(specs)
        if len(spec.shape) == 1 and len(columns) == 1:
            return {spec.name: _array(columns[0], spec, values)}
        if len(spec.shape) != 2:
            raise _invalid(f"no column is called {spec.name!r}, which has {len(spec.shape)} dimensions")
        if spec.shape[1] not in {ANY_SIZE, len(columns)}:
            raise _invalid(f"it has {len(columns)} columns, and the input {spec.name!r} takes {spec.shape[1]}")
        flat = TensorSpec(spec.name, spec.datatype, (ANY_SIZE,))
        return {spec.name: np.stack([_array(column, flat, values, at) for at, column in enumerate(columns, 1)], 1)}
    arrays = {}
    for at, column in enumerate(columns, 1):
        if column.name is None or column.name not in by_name:
            raise _invalid(
                f"column {column.name or at!r} is no input of the model", hint=f"Its inputs: {', '.join(by_name)}"
            )
        arrays[column.name] = _array(column, by_name[column.name], values, at)
    return arrays


def _array(column: _Column, spec: TensorSpec, values: dict[str, Callable[[Any], Any]], at: int = 1) -> Array:
    dtype = numpy_dtype(spec.datatype, spec.name)
    convert = values[dtype.kind if dtype.kind in values else "f"]
    name = repr(column.name) if column.name is not None else str(at)
    converted: list[Any] = []
    shape: tuple[int, ...] | None = None
    for number, value in enumerate(column.values, column.first_row):
        flat, own = _flattened(value)
        shape = shape or own
        try:
            if own != shape:
                raise ValueError(f"its shape is {list(own)}, and that of the first is {list(shape)}")  # noqa: TRY301
            items = [convert(item) for item in flat]
            if dtype.kind in "iu":
                np.array(items, dtype)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise _invalid(
                f"row {number}, column {name}: {value!r:.100} is no {spec.datatype}"
                + (f": {error}" if own != shape else "")
            ) from None
        converted += items
    whole = (len(column.values), *(shape or ()))
    if len(whole) == 1 and len(spec.shape) == 2 and spec.shape[1] in {1, ANY_SIZE}:
        whole = (*whole, 1)
    return array_of(converted, dtype).reshape(whole)


def _flattened(value: Any) -> tuple[list[Any], tuple[int, ...]]:
    """The values of a cell, and its shape, which is empty for a single value. Lists of different lengths stay."""
    flat: list[Any] = [value]
    shape: tuple[int, ...] = ()
    while flat and all(isinstance(item, list) for item in flat) and len({len(item) for item in flat}) == 1:
        shape = (*shape, len(flat[0]))
        flat = [inner for item in flat for inner in item]
    return flat, shape


def _only_input(specs: Sequence[TensorSpec]) -> TensorSpec:
    if len(specs) != 1:
        raise _invalid(
            f"the model has {len(specs)} inputs, and no column has the name of one",
            hint=f"Name the columns {', '.join(spec.name for spec in specs)}",
        )
    return specs[0]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return not cell.strip()
    return True


def _as_float(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool | str | bytes):
        raise TypeError
    return float(value)


def _as_integer(value: Any) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def _as_boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError
    return value


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise TypeError
    return value.encode()


_VALUES: Final[dict[str, Callable[[Any], Any]]] = {
    "f": _as_float, "i": _as_integer, "u": _as_integer, "b": _as_boolean, "O": _as_bytes,
}  # fmt: skip
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}
_CSV_VALUES: Final[dict[str, Callable[[Any], Any]]] = {
    "f": lambda cell: float(cell) if cell.strip() else math.nan,
    "i": int,
    "u": int,
    "b": lambda cell: _BOOLEANS[cell.strip().lower()],
    "O": str.encode,
}


def _invalid(why: str, *, hint: str | None = None) -> InvalidInput:
    return InvalidInput(f"The input cannot be used: {why}", code=error_codes.INVALID_INFERENCE, hint=hint)
