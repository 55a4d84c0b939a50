"""The tensors of a version by their names, wherever in its files they are."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from skyhold import error_codes
from skyhold.codec.row_major import is_column_major, row_major_dtype
from skyhold.codec.tensors import Malformed, Tensor, element_width_bytes, tensor_size_bytes
from skyhold.errors import Corrupt, InvalidInput, NotFound
from skyhold.storage.version_files import VersionFiles

_SHOWN: Final = 200
"""Characters of a name in a message: those of tensors may be long."""


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """A tensor as it is stored in the file of this index, and the name under which it is found."""

    name: str
    tensor: Tensor
    file: int

    @property
    def size_bytes(self) -> int:
        return self.tensor.end - self.tensor.start


def list_tensors(version: VersionFiles, include: Sequence[str] = ()) -> list[NamedTensor]:
    """All tensors of the files that `include` matches, in order of files and offsets. The array of a `.npy` file, which
    has no name, has that of its file."""
    tensors = version.tensors
    files = sorted(version.matching(include), key=lambda index: version.files[index].path)
    return [
        NamedTensor(tensor.name or version.files[index].path, tensor, index)
        for index in files
        for tensor in tensors.get(version.files[index].path, ())
    ]


def find_tensor(version: VersionFiles, name: str, file: str | None = None) -> NamedTensor:
    """The tensor of this name, in the file of this path or in any. Raises `NotFound` codes `file_not_found` and
    `tensor_not_found`, and `InvalidInput` code `tensor_ambiguous`."""
    index = None if file is None else version.index_of(file)
    known = [one for one in list_tensors(version) if index in {None, one.file}]
    found = [one for one in known if one.name == name]
    if not found:
        raise no_tensor(name, {one.name for one in known})
    if len(found) > 1:
        paths = sorted({version.files[one.file].path for one in found})
        raise InvalidInput(
            f"Tensor `{name}` exists more than once: in {' and in '.join(paths)}",
            code=error_codes.TENSOR_AMBIGUOUS,
            hint="Name its file as well" if len(paths) > 1 else "Read its whole file",
            files=paths,
        )
    return found[0]


def check_fits(named: NamedTensor, path: str) -> None:
    """Raise `Corrupt` code `layout_damaged` where the type and the shape of a tensor need another number of bytes than
    it has. `path` is that of its file."""
    dtype = row_major_dtype(named.tensor.dtype)
    try:
        fits = tensor_size_bytes(dtype, named.tensor.shape) == named.size_bytes
        fits = fits and not (is_column_major(named.tensor) and element_width_bytes(dtype) == 0)
    except Malformed:
        fits = False
    if not fits:
        raise misplaced(named.name, path)


def misplaced(name: str, path: str) -> Corrupt:
    return Corrupt(
        f"Tensor `{name}` of {path} is listed with other bytes than its shape needs",
        code=error_codes.LAYOUT_DAMAGED,
        hint="Run `skyhold verify --deep`",
    )


def no_tensor(pattern: str, names: Collection[str]) -> NotFound:
    close = difflib.get_close_matches(pattern, names, n=1)
    return NotFound(
        f"No tensor of the version matches `{pattern[:_SHOWN]}{'…' * (len(pattern) > _SHOWN)}`"
        + ("" if names else "; its files name no tensors"),
        code=error_codes.TENSOR_NOT_FOUND,
        hint=f"Did you mean `{close[0]}`?" if close else "Look at its tensors with `skyhold show --tensors`",
        tensor=pattern,
    )
