"""ONNX: a protobuf message; weights are in it (`raw_data`) or in files beside it (external data).

Specification: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto and docs/ExternalData.md; the wire format is
https://protobuf.dev/programming-guides/encoding/. Only the fields on the way to the weights are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from skyhold.codec.formats.tensor import TENSORS_MAX, Malformed, Read, Tensor, in_file_order, tensor_size_bytes
from skyhold.codec.formats.window import Window

FIELDS_MAX = 4_000_000
"""Protobuf fields that are looked at; the largest exported graphes have some hundred thousand."""

FETCH_BYTES_MAX = 1 << 30
_TEXT_BYTES_MAX = 1 << 16
_NESTING_MAX = 32

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# message: field number -> the message in it, on the way from the model to its tensors
_WAY = {
    "ModelProto": {7: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {5: "TensorProto", 6: "GraphProto", 10: "TensorProto", 11: "GraphProto"},
}
_DIMS, _DATA_TYPE, _SEGMENT, _NAME, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 1, 2, 3, 8, 9, 13, 14
_EXTERNAL = 1

_DTYPES = {
    1: "F32", 2: "U8", 3: "I8", 4: "U16", 5: "I16", 6: "I32", 7: "I64", 9: "BOOL", 10: "F16", 11: "F64", 12: "U32",
    13: "U64", 14: "C64", 15: "C128", 16: "BF16", 17: "F8_E4M3", 18: "F8_E4M3FNUZ", 19: "F8_E5M2",
    20: "F8_E5M2FNUZ", 24: "F8_E8M0",
}  # fmt: skip


@dataclass(slots=True)
class _Found:
    """A TensorProto as far as it concerns us."""

    dims: list[int] = field(default_factory=list)
    data_type: int = 0
    name: str = ""
    raw_start: int = 0
    raw_end: int = -1
    external: dict[str, str] = field(default_factory=dict)
    location: int = 0
    is_segment: bool = False

    @property
    def is_inline(self) -> bool:
        """Whether its bytes are in the model itself. The library returns no part of a tensor (a segment)."""
        return self.raw_end >= 0 and self.location != _EXTERNAL and not self.is_segment

    @property
    def is_external(self) -> bool:
        return self.location == _EXTERNAL and not self.is_segment and bool(self.external.get("location"))

    @property
    def dtype(self) -> str:
        return _DTYPES.get(self.data_type, f"ONNX_{self.data_type}")


def read_tensors(size_bytes: int, read: Read) -> tuple[Tensor, ...]:
    """The tensors whose bytes are inside the `.onnx` file itself. Raises `Malformed`."""
    return in_file_order((_inline(found) for found in _tensors(size_bytes, read) if found.is_inline), size_bytes)


def read_external_tensors(size_bytes: int, read: Read) -> dict[str, tuple[Tensor, ...]]:
    """The tensors of a `.onnx` model that are in other files, by those files' names relative to the model.

    Each file's tensors are sorted and do not overlap (of several on one place the first is kept); that they are inside
    a file is the caller's to check, for example by `regions`. Empty where there are none or the model is malformed.
    """
    files: dict[str, dict[tuple[int, int], Tensor]] = {}
    try:
        for found in _tensors(size_bytes, read):
            if found.is_external:
                tensor = _external(found)
                files.setdefault(found.external["location"], {}).setdefault((tensor.start, tensor.end), tensor)
        return {location: in_file_order(places.values(), 1 << 63) for location, places in files.items()}
    except Malformed:
        return {}


def _inline(found: _Found) -> Tensor:
    shape = tuple(found.dims)
    size = tensor_size_bytes(found.dtype, shape)
    if size is not None and size != found.raw_end - found.raw_start:
        raise Malformed
    return Tensor(found.name, found.dtype, shape, found.raw_start, found.raw_end)


def _external(found: _Found) -> Tensor:
    shape = tuple(found.dims)
    size = tensor_size_bytes(found.dtype, shape)
    start, length = _integer(found.external.get("offset", "0")), found.external.get("length")
    if length is not None:
        if size is not None and size != _integer(length):
            raise Malformed
        size = _integer(length)
    if size is None:
        raise Malformed
    return Tensor(found.name, found.dtype, shape, start, start + size)


def _integer(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise Malformed
    return int(text)


def _tensors(size_bytes: int, read: Read) -> Iterator[_Found]:
    reader = _WireReader(Window(size_bytes, read, limit_bytes=FETCH_BYTES_MAX))
    for count, found in enumerate(_walk(reader, "ModelProto", size_bytes, 0)):
        if count >= TENSORS_MAX:
            raise Malformed
        yield found


def _walk(reader: _WireReader, message: str, end: int, depth: int) -> Iterator[_Found]:
    """The tensors of the message that ends at `end`, in the order of the file."""
    if depth > _NESTING_MAX:
        raise Malformed
    for number, wire_type, field_end in reader.fields(end):
        inner = _WAY[message].get(number)
        if inner is None or wire_type != _BYTES:
            continue
        if inner == "TensorProto":
            yield _tensor(reader, field_end)
        else:
            yield from _walk(reader, inner, field_end, depth + 1)


def _tensor(reader: _WireReader, end: int) -> _Found:
    found = _Found()
    for number, wire_type, field_end in reader.fields(end):
        if number == _DIMS:
            found.dims += reader.integers(wire_type, field_end)
        elif number == _DATA_TYPE and wire_type == _VARINT:
            found.data_type = reader.varint()
        elif number == _DATA_LOCATION and wire_type == _VARINT:
            found.location = reader.varint()
        elif number == _SEGMENT:
            found.is_segment = True
        elif number == _NAME and wire_type == _BYTES:
            found.name = reader.text(field_end)
        elif number == _RAW_DATA and wire_type == _BYTES:
            found.raw_start, found.raw_end = reader.position, field_end
        elif number == _EXTERNAL_DATA and wire_type == _BYTES:
            key, value = _pair(reader, field_end)
            found.external[key] = value
    return found


def _pair(reader: _WireReader, end: int) -> tuple[str, str]:
    texts = {1: "", 2: ""}
    for number, wire_type, field_end in reader.fields(end):
        if number in texts and wire_type == _BYTES:
            texts[number] = reader.text(field_end)
    return texts[1], texts[2]


class _WireReader:
    """Protobuf's wire format over a window: fields come one by one, and bytes are only read when asked for."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._fields_left = FIELDS_MAX

    @property
    def position(self) -> int:
        return self._window.position

    def fields(self, end: int) -> Iterator[tuple[int, int, int]]:
        """Number, wire type and end of each field up to `end`. What the caller leaves unread is skipped."""
        while self.position < end:
            self._fields_left -= 1
            tag = self.varint()
            number, wire_type = tag >> 3, tag & 7
            if number == 0 or self._fields_left < 0:
                raise Malformed
            if wire_type == _VARINT:
                before = self.position
                self.varint()
                field_end = self.position
                self._window.position = before
            else:
                field_end = self._field_end(wire_type)
            if field_end > end:
                raise Malformed
            yield number, wire_type, field_end
            if self.position > field_end:
                raise Malformed
            self._window.skip(field_end - self.position)

    def _field_end(self, wire_type: int) -> int:
        if wire_type == _BYTES:
            length = self.varint()
            return self.position + length
        if wire_type in (_FIXED32, _FIXED64):
            return self.position + (4 if wire_type == _FIXED32 else 8)
        raise Malformed

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._window.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise Malformed

    def integers(self, wire_type: int, end: int) -> list[int]:
        """One integer, or several packed into one field."""
        if wire_type == _VARINT:
            return [self.varint()]
        if wire_type != _BYTES or end - self.position > 1024:
            raise Malformed
        integers = []
        while self.position < end:
            integers.append(self.varint())
        return integers

    def text(self, end: int) -> str:
        if end - self.position > _TEXT_BYTES_MAX:
            raise Malformed
        try:
            return self._window.take(end - self.position).decode("utf-8")
        except UnicodeDecodeError as error:
            raise Malformed from error
