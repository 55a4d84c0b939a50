"""What a model takes and returns, and whether a request fits."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from skyhold import error_codes
from skyhold.errors import InvalidInput
from skyhold.serving.tensor import Array, datatype_of, numpy_dtype

ANY_SIZE: Final = -1


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, datatype of the protocol, and shape of an input or output; `ANY_SIZE` is a size that varies."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, object]:
        """As in the metadata of a model."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True, slots=True)
class Signature:
    """`outputs` are all that a model can return; `default_outputs` are returned where a request names none."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    default_outputs: tuple[str, ...] = ()

    @property
    def is_batched(self) -> bool:
        """Whether the first size of each input is the number of rows, so that requests can be run together."""
        specs = (*self.inputs, *self.outputs)
        return bool(self.inputs) and all(spec.shape[:1] == (ANY_SIZE,) for spec in specs)

    def checked_inputs(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """The arrays of a request as the model takes them: a datatype that holds every value of the one sent is
        converted. Raises `InvalidInput` naming the input."""
        specs = {spec.name: spec for spec in self.inputs}
        for name in arrays:
            if name not in specs:
                raise InvalidInput(
                    f"The model has no input {name!r}",
                    code=error_codes.UNKNOWN_INPUT,
                    hint=_nearest(name, specs),
                )
        checked = {}
        for spec in self.inputs:
            array = arrays.get(spec.name)
            if array is None:
                raise InvalidInput(
                    f"The input {spec.name!r} is missing; it is {spec.datatype} of shape {list(spec.shape)}",
                    code=error_codes.MISSING_INPUT,
                )
            checked[spec.name] = _fitted(spec, array)
        if self.is_batched and len({array.shape[0] for array in checked.values()}) > 1:
            sizes = ", ".join(f"{name!r} has {array.shape[0]}" for name, array in checked.items())
            raise InvalidInput(f"The inputs have different numbers of rows: {sizes}", code=error_codes.TENSOR_MISMATCH)
        return checked

    def checked_outputs(self, names: list[str] | None) -> tuple[str, ...]:
        """The outputs that a request asks for. Raises `InvalidInput` naming one that the model does not have."""
        every = tuple(spec.name for spec in self.outputs)
        if not names:
            return self.default_outputs or every
        for name in names:
            if name not in every:
                raise InvalidInput(
                    f"The model has no output {name!r}",
                    code=error_codes.UNKNOWN_OUTPUT,
                    hint=_nearest(name, dict.fromkeys(every)),
                )
        return tuple(dict.fromkeys(names))


def _fitted(spec: TensorSpec, array: Array) -> Array:
    shape = spec.shape
    if len(array.shape) != len(shape) or any(
        wanted not in {ANY_SIZE, size} for wanted, size in zip(shape, array.shape, strict=True)
    ):
        raise InvalidInput(
            f"The input {spec.name!r} has the shape {list(array.shape)}; the model takes {list(shape)}, where -1 is "
            "any size",
            code=error_codes.TENSOR_MISMATCH,
        )
    if datatype_of(array.dtype) == spec.datatype:
        return array
    wanted = numpy_dtype(spec.datatype, spec.name)
    if spec.datatype != "BYTES" and array.dtype.kind != "O" and _holds(wanted, array):
        return array.astype(wanted)
    raise InvalidInput(
        f"The input {spec.name!r} is {datatype_of(array.dtype)}; the model takes {spec.datatype}",
        code=error_codes.TENSOR_MISMATCH,
    )


def _holds(wanted: np.dtype[np.generic], array: Array) -> bool:
    """Whether a number in `array` stays the number it is, but for the precision of floats of a smaller type."""
    if array.dtype.kind == "b" or wanted.kind == "b":
        return False
    return np.can_cast(array.dtype, wanted, casting="same_kind")


def _nearest(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"Did you mean {near[0]!r}?" if near else f"It has {', '.join(map(repr, known)) or 'none'}"
