"""Writing the values of a tensor to a file of NumPy's format, piece by piece."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from skyhold import error_codes
from skyhold.buckets.user_path import absolute
from skyhold.errors import AlreadyExists
from skyhold.storage.paths import PART_SUFFIX
from skyhold.storage.target_folder import named
from skyhold.storage.tensor_values import Array, TensorValues


@contextmanager
def npy_file(path: Path, values: TensorValues) -> Iterator[Callable[[Array], object]]:
    """A function to which the pieces of `values` are given in their order. The file appears whole at the end of the
    block, and not at all after an error. Raises `AlreadyExists` code `file_exists`, and what `named` makes of errors.
    """
    target = absolute(path)
    if os.path.lexists(target):
        raise AlreadyExists(
            f"{path} exists, and was left as it is",
            code=error_codes.FILE_EXISTS,
            hint="Name a file that does not exist",
        )
    draft = target.with_name(f".{secrets.token_hex(8)}{PART_SUFFIX}")
    with named(path):
        file = draft.open("xb")
    try:
        with file:
            descr = np.lib.format.dtype_to_descr(values.dtype)
            header = {"descr": descr, "fortran_order": values.column_major, "shape": values.shape}
            np.lib.format.write_array_header_1_0(file, header)

            def keep(piece: Array) -> None:
                with named(path):
                    file.write(piece.tobytes())

            yield keep
        with named(path):
            draft.rename(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
