"""`serving.toml` in a version: what the files do not show by themselves. All of it may be left out.

runtime = "sklearn"               # else found from the files
file = "model.joblib"             # else the only file of the runtime
pickle = true                     # the file is a pickle: whoever loads it runs the code in it
warm_up = "golden.json"           # a request of the protocol, run before the model is ready
batch = {rows_max = 64, wait_ms = 2.0}

[[inputs]]                        # else found from the model
name = "input"
datatype = "FP64"
shape = [-1, 4]
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from skyhold import error_codes
from skyhold.errors import InvalidInput
from skyhold.serving.signature import ANY_SIZE, TensorSpec
from skyhold.serving.tensor import DATATYPES

FILE_NAME: Final = "serving.toml"
BYTES_MAX: Final = 1 << 20
ROWS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Requests are run together up to `rows_max` rows; the first of a batch waits up to `wait_ms` for more."""

    rows_max: int = ROWS_MAX
    wait_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Declaration:
    runtime: str | None = None
    file: str | None = None
    pickle: bool = False
    warm_up: str | None = None
    batch: BatchLimits = BatchLimits()
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()


def read_declaration(folder: Path) -> Declaration:
    """The declaration of the version in this folder; an empty one where it has none. Raises `InvalidInput` naming the
    field."""
    path = folder / FILE_NAME
    if not path.is_file():
        return Declaration()
    if path.stat().st_size > BYTES_MAX:
        raise _invalid(f"it is longer than {BYTES_MAX} bytes")
    try:
        fields = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(str(error)) from None
    for name in fields:
        if name not in _TYPES:
            near = difflib.get_close_matches(name, _TYPES, 1)
            raise _invalid(f"it has the unknown field {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        if not isinstance(fields[name], _TYPES[name]):
            raise _invalid(f"{name!r} is {fields[name]!r:.100}, not a {_TYPES[name].__name__}")
    for name in ("file", "warm_up"):
        if name in fields and not _is_inside(folder, fields[name]):
            raise _invalid(f"{name!r} is {fields[name]!r:.100}, which is no file of the version")
    return Declaration(
        runtime=fields.get("runtime"),
        file=fields.get("file"),
        pickle=fields.get("pickle", False),
        warm_up=fields.get("warm_up"),
        batch=_batch(fields.get("batch", {})),
        inputs=tuple(_spec("inputs", spec) for spec in fields.get("inputs", ())),
        outputs=tuple(_spec("outputs", spec) for spec in fields.get("outputs", ())),
    )


_TYPES: Final[dict[str, type]] = {
    "runtime": str, "file": str, "pickle": bool, "warm_up": str, "batch": dict, "inputs": list, "outputs": list,
}  # fmt: skip


def _is_inside(folder: Path, name: str) -> bool:
    path = folder / name
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())


def _batch(fields: dict[str, Any]) -> BatchLimits:
    if unknown := fields.keys() - {"rows_max", "wait_ms"}:
        raise _invalid(f"'batch' has the unknown field {min(unknown)!r}")
    rows_max, wait_ms = fields.get("rows_max", ROWS_MAX), fields.get("wait_ms", 0.0)
    if type(rows_max) is not int or not 1 <= rows_max <= 1 << 20:
        raise _invalid(f"'batch.rows_max' is {rows_max!r:.100}, not an integer from 1 to {1 << 20}")
    if type(wait_ms) not in {int, float} or not 0 <= wait_ms <= 1000:
        raise _invalid(f"'batch.wait_ms' is {wait_ms!r:.100}, not a number from 0 to 1000")
    return BatchLimits(rows_max, float(wait_ms))


def _spec(where: str, fields: object) -> TensorSpec:
    if not isinstance(fields, dict) or fields.keys() != {"name", "datatype", "shape"}:
        raise _invalid(f"each of '{where}' has name, datatype and shape, and nothing else")
    name, datatype, shape = fields["name"], fields["datatype"], fields["shape"]
    if not isinstance(name, str) or datatype not in DATATYPES:
        raise _invalid(f"'{where}' has the name {name!r:.100} and the datatype {datatype!r:.100}")
    if not isinstance(shape, list) or not all(type(size) is int and size >= ANY_SIZE for size in shape):
        raise _invalid(f"the shape of {name!r} is {shape!r:.100}, not a list of sizes, where -1 is any size")
    return TensorSpec(name, datatype, tuple(shape))


def _invalid(why: str) -> InvalidInput:
    return InvalidInput(
        f"The file {FILE_NAME} of the version is not valid: {why}",
        code=error_codes.INVALID_DECLARATION,
        hint="docs/how-to/serve.md lists its fields",
    )
