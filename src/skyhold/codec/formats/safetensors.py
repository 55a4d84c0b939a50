"""safetensors: a length of 8 bytes, a JSON header, then the tensors (https://github.com/huggingface/safetensors)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import cast

from skyhold.codec.formats.tensor import (
    TENSORS_MAX,
    Malformed,
    Read,
    Tensor,
    in_file_order,
    read_exactly,
    tensor_size_bytes,
)

HEADER_BYTES_MAX = 8 << 20
"""The library itself allows 100 MB; 8 MiB describe 65,000 tensors, and parsing takes about ten times the header."""

_VALUES_MAX = 16 * TENSORS_MAX


def matches(head: bytes) -> bool:
    """Whether the first bytes of a file may be those of a safetensors file."""
    return len(head) >= 9 and 2 <= int.from_bytes(head[:8], "little") <= HEADER_BYTES_MAX and head[8:9] == b"{"


def read_tensors(size_bytes: int, read: Read) -> tuple[Tensor, ...]:
    """The tensors of a safetensors file. Raises `Malformed`, also for whatever the library refuses to open: what it
    would not return must not be returned here."""
    header_bytes = int.from_bytes(read_exactly(read, 0, 8, size_bytes), "little")
    if header_bytes > HEADER_BYTES_MAX:
        raise Malformed
    header = _parse(read_exactly(read, 8, header_bytes, size_bytes))
    data_start = 8 + header_bytes
    tensors = [_tensor(name, entry, data_start) for name, entry in header.items() if name != "__metadata__"]
    ordered = in_file_order(tensors, size_bytes)
    if sum(tensor.end - tensor.start for tensor in ordered) != size_bytes - data_start:  # a hole, or bytes at the end
        raise Malformed
    return ordered


def encode_head(
    tensors: Iterable[tuple[str, str, tuple[int, ...], int]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """What a safetensors file begins with whose tensors (name, type, shape, size in bytes) follow in this order. Its
    length is a multiple of 8, so that elements are aligned where larger ones come first."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    position = 0
    for name, dtype, shape, size_bytes in tensors:
        end = position + size_bytes
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _parse(text: bytes) -> dict[str, object]:
    """The JSON object, after a count that bounds how many Python objects parsing can make."""
    if text.count(b",") + text.count(b"[") + text.count(b"{") > _VALUES_MAX:
        raise Malformed
    try:
        header = json.loads(text.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Malformed from error
    if not isinstance(header, dict) or len(header) > TENSORS_MAX:
        raise Malformed
    metadata = header.get("__metadata__")
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    ):
        raise Malformed
    return header


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object whose names come once and have a UTF-8 form; of two, one would hide the other."""
    value = dict(pairs)
    for name in value:
        name.encode()
    if len(value) != len(pairs):
        raise ValueError("a name comes twice in one object")
    return value


def _tensor(name: str, entry: object, data_start: int) -> Tensor:
    if not isinstance(entry, dict):
        raise Malformed
    dtype, shape, offsets = entry.get("dtype"), _integers(entry.get("shape")), _integers(entry.get("data_offsets"))
    if not isinstance(dtype, str) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise Malformed
    start, end = offsets
    size = tensor_size_bytes(dtype, shape)
    # A type newer than this program has no width here; its place in the file is still good.
    if size is not None and size != end - start:
        raise Malformed
    return Tensor(name, dtype, shape, data_start + start, data_start + end)


def _integers(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        raise Malformed
    return tuple(cast("list[int]", value))
