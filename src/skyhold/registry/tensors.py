"""Tensors of a version for callers: in a list, or with a summary of their values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from skyhold.codec.row_major import row_major_dtype
from skyhold.json_form import as_json
from skyhold.storage.named_tensors import NamedTensor, list_tensors
from skyhold.storage.version_files import VersionFiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skyhold.storage.tensor_values import TensorValues

    Keep = Callable[[NDArray[Any]], object]


@dataclass(frozen=True, slots=True)
class TensorView:
    """A tensor of a version. `dtype` is the name that safetensors has for it (`BF16`), or its own format's (`Q4_K`);
    `file` is the path of its file; `size_bytes` what it takes there."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    size_bytes: int

    @classmethod
    def of(cls, version: VersionFiles, named: NamedTensor) -> TensorView:
        tensor, path = named.tensor, version.files[named.file].path
        return cls(named.name, row_major_dtype(tensor.dtype), tensor.shape, path, named.size_bytes)


@dataclass(frozen=True, slots=True)
class TensorSummary:
    """A tensor and a summary of its values. `minimum`, `maximum` and `mean` are those of the finite values, None where
    there are none, or where they cannot be ordered (complex numbers, text). `first` are the first in storage order."""

    tensor: TensorView
    elements: int
    nans: int = 0
    infinities: int = 0
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    first: tuple[object, ...] = ()

    def to_json(self) -> dict[str, object]:
        plain = {name: getattr(self, name) for name in ("elements", "nans", "infinities", "minimum", "maximum", "mean")}
        return {**as_json(self.tensor), **plain, "first": [_as_json(value) for value in self.first]}


def view_tensors(version: VersionFiles) -> tuple[TensorView, ...]:
    """All tensors of a version. No weights are read."""
    return tuple(TensorView.of(version, named) for named in list_tensors(version))


def summarize(tensor: TensorView, values: TensorValues, *, first: int, keep: Keep | None = None) -> TensorSummary:
    """The summary of a tensor with its `first` values, in bounded memory; each piece of its values is passed to
    `keep` as well."""
    summary = TensorSummary(tensor, math.prod(tensor.shape))
    total, finite = 0.0, 0
    for piece in values.pieces():
        if keep is not None:
            keep(piece)
        if len(summary.first) < first:
            summary = replace(summary, first=(*summary.first, *piece[: first - len(summary.first)].tolist()))
        if piece.dtype.kind in "fiub":
            usable = _usable(piece)
            summary = _with_piece(summary, piece, usable)
            total, finite = total + _sum(usable), finite + len(usable)
        elif piece.dtype.kind == "c":
            summary = _with_piece(summary, piece, piece[:0])
    mean = total / finite if finite else math.nan
    return replace(summary, mean=mean if math.isfinite(mean) else None)


def _with_piece(summary: TensorSummary, piece: NDArray[Any], usable: NDArray[Any]) -> TensorSummary:
    import numpy as np

    nans, infinities = (0, 0) if piece.dtype.kind in "iub" else (int(np.isnan(piece).sum()), int(np.isinf(piece).sum()))
    ends = (usable.min().item(), usable.max().item()) if len(usable) else ()
    return replace(
        summary,
        nans=summary.nans + nans,
        infinities=summary.infinities + infinities,
        minimum=min((value for value in (summary.minimum, *ends) if value is not None), default=None),
        maximum=max((value for value in (summary.maximum, *ends) if value is not None), default=None),
    )


def _sum(values: NDArray[Any]) -> float:
    import numpy as np

    with np.errstate(over="ignore"):
        return float(values.sum(dtype=np.float64))


def _usable(piece: NDArray[Any]) -> NDArray[Any]:
    """The values that can be ordered and added: finite ones, and truth values as 0 and 1."""
    import numpy as np

    if piece.dtype.kind == "f":
        finite: NDArray[Any] = piece[np.isfinite(piece)]
        return finite
    return piece.view(np.uint8) if piece.dtype.kind == "b" else piece


def _as_json(value: object) -> object:
    """A value for JSON: numbers that are not finite, or complex, become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value if isinstance(value, str | int | float | bool) else str(value)
