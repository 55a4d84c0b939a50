"""What differs between two versions: files, tensors, metrics and parameters.

Sizes, digests and chunk ids decide where these suffice; only changed tensors are read, one block of at most 1 MiB
at a time.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from skyhold.codec.row_major import row_major_dtype
from skyhold.codec.tensors import Tensor
from skyhold.registry.tensor_change import ContentChange, StoredTensor, compare_values, in_row_major_order


class StoredFile(Protocol):
    """A file of a version, as the store can read it. `sha256` is 64 hex; `tensors` is None where none are known."""

    @property
    def path(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    @property
    def tensors(self) -> tuple[Tensor, ...] | None: ...

    def read(self, start: int, length: int) -> bytes:
        """Exactly the bytes `[start, start + length)` of the file."""

    def chunks(self) -> Sequence[tuple[int, int, bytes]]:
        """The chunks in file order as (start, length, chunk id): equal ids are equal bytes, on both sides."""


@dataclass(frozen=True, slots=True)
class DiffSide:
    """One version, as far as a comparison needs it. Values of metrics and parameters are JSON values."""

    files: Sequence[StoredFile]
    metrics: Mapping[str, object] = field(default_factory=dict)
    parameters: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FileDiff:
    """A file that differs. `old_path` and `path` are both set for `changed` (equal) and `renamed` (same SHA-256)."""

    kind: Literal["added", "removed", "changed", "renamed"]
    old_path: str | None
    path: str | None
    old_size_bytes: int | None
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class TensorDiff:
    """A tensor that differs, by its name; `path` is the file that holds it now (before, where it was removed).

    `kind` is `shape` or `dtype` where that changed (`shape` where both did), `values` where only bytes did.
    `changed_share` is the share of elements whose bits differ, in (0, 1], None for block-quantised and packed types.
    `relative_norm` is ‖new − old‖₂ / ‖old‖₂ in float64, None where the type is no float, or the quotient no finite
    number (a NaN or infinity in it, or an old tensor of zeros).
    """

    kind: Literal["added", "removed", "shape", "dtype", "values"]
    name: str
    path: str
    old_dtype: str | None
    dtype: str | None
    old_shape: tuple[int, ...] | None
    shape: tuple[int, ...] | None
    changed_share: float | None = None
    relative_norm: float | None = None


@dataclass(frozen=True, slots=True)
class ValueDiff:
    """A metric or parameter that differs; `old` is None where it was added, `new` where it was removed."""

    kind: Literal["added", "removed", "changed"]
    name: str
    old: object
    new: object


@dataclass(frozen=True, slots=True)
class VersionDiff:
    """The differences from one version to another, each list in order of path or name. The fields on tensors are
    None where tensors were not compared."""

    files: tuple[FileDiff, ...]
    tensors: tuple[TensorDiff, ...] | None
    metrics: tuple[ValueDiff, ...]
    parameters: tuple[ValueDiff, ...]
    tensors_unchanged: int | None

    @property
    def is_empty(self) -> bool:
        return not (self.files or self.tensors or self.metrics or self.parameters)


def diff_versions(a: DiffSide, b: DiffSide, *, tensors: bool = True) -> VersionDiff:
    """What changed from `a` to `b`; without `tensors` nothing is read. Errors of the files' `read` pass through."""
    changed, unchanged = _diff_tensors(a.files, b.files) if tensors else (None, None)
    return VersionDiff(
        files=_diff_files(a.files, b.files),
        tensors=changed,
        metrics=_diff_values(a.metrics, b.metrics),
        parameters=_diff_values(a.parameters, b.parameters),
        tensors_unchanged=unchanged,
    )


def _diff_files(a: Sequence[StoredFile], b: Sequence[StoredFile]) -> tuple[FileDiff, ...]:
    old, new = {file.path: file for file in a}, {file.path: file for file in b}
    diffs = [
        FileDiff("changed", path, path, old[path].size_bytes, new[path].size_bytes)
        for path in old.keys() & new.keys()
        if old[path].sha256 != new[path].sha256
    ]
    gone: dict[str, list[str]] = defaultdict(list)
    for path in sorted(old.keys() - new.keys(), reverse=True):
        gone[old[path].sha256].append(path)
    for path in sorted(new.keys() - old.keys()):
        file = new[path]
        if gone[file.sha256]:
            diffs.append(FileDiff("renamed", gone[file.sha256].pop(), path, file.size_bytes, file.size_bytes))
        else:
            diffs.append(FileDiff("added", None, path, None, file.size_bytes))
    diffs += [FileDiff("removed", path, None, old[path].size_bytes, None) for paths in gone.values() for path in paths]
    return tuple(sorted(diffs, key=lambda diff: (diff.path or diff.old_path or "").encode()))


_Key = tuple[str, str]


def _diff_tensors(a: Sequence[StoredFile], b: Sequence[StoredFile]) -> tuple[tuple[TensorDiff, ...], int]:
    old, new = _tensors(a), _tensors(b)
    pairs = _pairs(old, new)
    diffs, unchanged = [], 0
    for old_key, new_key in pairs:
        diff = _diff_tensor(old[old_key], new[new_key])
        if diff is None:
            unchanged += 1
        else:
            diffs.append(diff)
    paired_old, paired_new = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
    for key in old.keys() - paired_old:
        tensor = old[key].tensor
        diffs.append(TensorDiff("removed", tensor.name, key[1], tensor.dtype, None, tensor.shape, None))
    for key in new.keys() - paired_new:
        tensor = new[key].tensor
        diffs.append(TensorDiff("added", tensor.name, key[1], None, tensor.dtype, None, tensor.shape))
    return tuple(sorted(diffs, key=lambda diff: (diff.name.encode(), diff.path.encode()))), unchanged


def _tensors(files: Sequence[StoredFile]) -> dict[_Key, StoredTensor]:
    return {(tensor.name, file.path): StoredTensor(file, tensor) for file in files for tensor in file.tensors or ()}


def _pairs(old: Mapping[_Key, StoredTensor], new: Mapping[_Key, StoredTensor]) -> list[tuple[_Key, _Key]]:
    """Pairs of an old and a new tensor: the same name in the same file; else the same name in any file, where each
    side has one such tensor left. So a tensor is matched after a model is resharded."""
    pairs = [(key, key) for key in old.keys() & new.keys()]
    left_old, left_new = old.keys() - new.keys(), new.keys() - old.keys()
    count_old, count_new = Counter(name for name, _ in left_old), Counter(name for name, _ in left_new)
    by_name = {key[0]: key for key in left_new}
    pairs += [(key, by_name[key[0]]) for key in left_old if count_old[key[0]] == count_new[key[0]] == 1]
    return pairs


def _diff_tensor(old: StoredTensor, new: StoredTensor) -> TensorDiff | None:
    kind: Literal["shape", "dtype", "values"] = "values"
    change: ContentChange | None = ContentChange(None, None)
    if old.tensor.shape != new.tensor.shape:
        kind = "shape"
    elif row_major_dtype(old.tensor.dtype) != row_major_dtype(new.tensor.dtype):
        kind = "dtype"
    elif old.tensor.dtype != new.tensor.dtype:  # the same elements may be in another order
        with in_row_major_order(old) as before, in_row_major_order(new) as after:
            change = compare_values(before, after)
    else:
        change = compare_values(old, new)
    if change is None:
        return None
    return TensorDiff(
        kind=kind,
        name=new.tensor.name,
        path=new.file.path,
        old_dtype=old.tensor.dtype,
        dtype=new.tensor.dtype,
        old_shape=old.tensor.shape,
        shape=new.tensor.shape,
        changed_share=change.changed_share,
        relative_norm=change.relative_norm,
    )


def _diff_values(a: Mapping[str, object], b: Mapping[str, object]) -> tuple[ValueDiff, ...]:
    diffs = []
    for name in sorted(a.keys() | b.keys()):
        if name not in b:
            diffs.append(ValueDiff("removed", name, a[name], None))
        elif name not in a:
            diffs.append(ValueDiff("added", name, None, b[name]))
        elif json.dumps(a[name], sort_keys=True) != json.dumps(b[name], sort_keys=True):  # distinguishes true from 1
            diffs.append(ValueDiff("changed", name, a[name], b[name]))
    return tuple(diffs)
