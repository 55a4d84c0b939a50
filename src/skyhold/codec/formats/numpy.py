"""NumPy: `.npy` files, and `.npz` archives whose members are stored without compression.

Specification: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html and PKZIP's APPNOTE.
"""

from __future__ import annotations

import io
import re
from math import prod
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from skyhold.codec.formats.tensor import (
    FORTRAN,
    TENSORS_MAX,
    Malformed,
    Read,
    Tensor,
    check_shape,
    in_file_order,
    read_exactly,
)

HEADER_BYTES_MAX = 10_000
"""As in NumPy, which loads no array with a longer header unless it is asked to."""

DIRECTORY_BYTES_MAX = 4 << 20
"""A zip directory of this size lists some 40,000 arrays; `zipfile` makes about six times as much of it in memory."""

_NPY_MAGIC = b"\x93NUMPY"
_LOCAL_HEADER_BYTES = 30
_CHARACTER_BYTES = 4

# What NumPy itself writes. Structured and object arrays have another `descr` and are stored as bytes.
_HEADER = re.compile(
    r"\{'descr': '([<>|=])([a-zA-Z])([1-9]\d{0,3})', 'fortran_order': (False|True), "
    r"'shape': \((|(?:(?:0|[1-9]\d{0,18}), ?)+(?:0|[1-9]\d{0,18})?)\), \}\s*"
)
_DTYPES = {"f": "F", "i": "I", "u": "U", "c": "C"}


def matches(head: bytes) -> bool:
    """Whether the first bytes of a file may be those of a `.npy` file or a zip archive."""
    return head[:6] == _NPY_MAGIC or head[:4] == b"PK\x03\x04"


def read_tensors(size_bytes: int, read: Read) -> tuple[Tensor, ...]:
    """The arrays of a `.npy` file (one, without a name) or `.npz` archive. Raises `Malformed`."""
    if read_exactly(read, 0, 6, size_bytes) == _NPY_MAGIC:
        return in_file_order([_array("", 0, size_bytes, read)], size_bytes)
    tensors = []
    members = _members(size_bytes, read)
    names = {member.filename for member in members}
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name in names:  # no array of its own, or one that NumPy returns under no name
            continue
        if member.compress_type == ZIP_STORED and not member.flag_bits & 1:
            start = _member_start(member, size_bytes, read)
            end = min(start + member.file_size, size_bytes)
            try:
                tensors.append(_array(name, start, end, read))
            except Malformed:
                continue  # an array of objects or records among others: bytes between them
    if not tensors:
        raise Malformed
    return in_file_order(tensors, size_bytes)


def _array(name: str, start: int, end: int, read: Read) -> Tensor:
    """The array whose `.npy` file fills `[start, end)`."""
    head = read_exactly(read, start, 12, end)
    length_bytes = {1: 2, 2: 4, 3: 4}.get(head[6])
    if head[:6] != _NPY_MAGIC or length_bytes is None or head[7]:
        raise Malformed
    header_bytes = int.from_bytes(head[8 : 8 + length_bytes], "little")
    if header_bytes > HEADER_BYTES_MAX:
        raise Malformed
    header_start = start + 8 + length_bytes
    header = read_exactly(read, header_start, header_bytes, end).decode("latin-1")
    match = _HEADER.fullmatch(header)
    if match is None:
        raise Malformed
    order, kind, width, fortran, dimensions = match.groups()
    dtype = _dtype(order, kind, int(width))
    shape = tuple(int(dimension) for dimension in dimensions.replace(" ", "").split(",") if dimension)
    data_start = header_start + header_bytes
    check_shape(shape)
    size = prod(shape) * int(width) * (_CHARACTER_BYTES if kind == "U" else 1)
    if size > end - data_start:
        raise Malformed
    if fortran == "True" and sum(dimension > 1 for dimension in shape) > 1:  # else both orders are one
        dtype += FORTRAN
    return Tensor(name, dtype, shape, data_start, data_start + size)


def _dtype(order: str, kind: str, width: int) -> str:
    """safetensors' name of a NumPy type, or NumPy's own (`>f4`, `<U12`) where it has none."""
    if kind == "O":  # a pickle
        raise Malformed
    if kind == "b" and width == 1:
        return "BOOL"
    if order in "<|" and kind in _DTYPES:
        return f"{_DTYPES[kind]}{width * 8}"
    return f"{order}{kind}{width}"


def _members(size_bytes: int, read: Read) -> list[ZipInfo]:
    try:
        with ZipFile(io.BufferedReader(_RangeFile(size_bytes, read))) as archive:
            members = archive.infolist()
    except (BadZipFile, ValueError, NotImplementedError, EOFError, OSError, IndexError, KeyError) as error:
        raise Malformed from error
    if len(members) > TENSORS_MAX:
        raise Malformed
    return members


def _member_start(member: ZipInfo, size_bytes: int, read: Read) -> int:
    """Where a stored member's bytes begin: its local header repeats the name, with extra fields of another length."""
    header = read_exactly(read, member.header_offset, _LOCAL_HEADER_BYTES, size_bytes)
    if header[:4] != b"PK\x03\x04":
        raise Malformed
    name_bytes, extra_bytes = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    return member.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes


class _RangeFile(io.RawIOBase):
    """A file for `zipfile` that refuses to be read past the limit of a directory."""

    def __init__(self, size_bytes: int, read: Read) -> None:
        self._size_bytes = size_bytes
        self._read_range = read
        self._position = 0
        self._fetchable_bytes = DIRECTORY_BYTES_MAX

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        if origin + offset < 0:
            raise ValueError("seek before the beginning")
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        length = max(0, min(len(buffer), self._size_bytes - self._position))
        if length > self._fetchable_bytes:
            raise BadZipFile("directory beyond the limit")
        self._fetchable_bytes -= length
        data = self._read_range(self._position, length)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
