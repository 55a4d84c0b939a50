"""Requests and responses of the Open Inference Protocol over HTTP, as JSON and with binary tensor data; no I/O.

Specification: `kserve/open-inference-protocol`, `specification/protocol/inference_rest.md`, and Triton's extension
"binary tensor data" (`extension_binary_data.md`): the body is the JSON, whose length is in the header
`Inference-Header-Content-Length`, and then the data of the tensors in the order in which they appear.

JSON has no NaN and no infinity: in a response they are `null`, and `null` in a request is NaN. Binary data has them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np

from skyhold import error_codes
from skyhold.errors import InvalidInput
from skyhold.serving.tensor import Array, Tensor, array_of, check_shape, numpy_dtype, texts_to_bytes

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
_LENGTH_DIGITS_MAX: Final = 19
BINARY_SIZE: Final = "binary_data_size"
BINARY_WANTED: Final = "binary_data"
BINARY_OUTPUT: Final = "binary_data_output"


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[_Output] = []


@dataclass(frozen=True, slots=True)
class InferRequest:
    """`outputs` are the names of those asked for, none for the defaults; `binary` are those wanted as binary data."""

    id: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] = ()
    binary: frozenset[str] = frozenset()
    all_binary: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)


_request = msgspec.json.Decoder(_Request)
_integers = msgspec.json.Decoder(list[int])
_floats = msgspec.json.Decoder(list[float | None])
_booleans = msgspec.json.Decoder(list[bool])
_texts = msgspec.json.Decoder(list[str])
_DECODERS: Final[dict[str, Any]] = {"b": _booleans, "u": _integers, "i": _integers, "O": _texts}
_anything = msgspec.json.Decoder(list[Any])
_encoder = msgspec.json.Encoder()
_AS_BINARY: Final = "Ask for it as binary data: parameters of the output: {'binary_data': true}"


def decode_length(value: str | None) -> int | None:
    """The length of the JSON that the header `HEADER_LENGTH` gives, or None where there is no such header. Raises
    `InvalidInput`."""
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= _LENGTH_DIGITS_MAX):
        raise _invalid(f"{HEADER_LENGTH} is {value!r:.100}, not a number of bytes")
    return int(value)


def decode_request(body: bytes, header_bytes: int | None = None) -> InferRequest:
    """A request, of which the first `header_bytes` are JSON and the rest is binary data; None: all of it is JSON.
    Raises `InvalidInput` naming the field."""
    json_bytes = len(body) if header_bytes is None else header_bytes
    if not 0 <= json_bytes <= len(body):
        raise _invalid(f"Inference-Header-Content-Length is {json_bytes}, and the body has {len(body)} bytes")
    view = memoryview(body)
    try:
        request = _request.decode(view[:json_bytes])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _invalid(str(error)) from None
    if not request.inputs:
        raise _invalid("'inputs' is empty")
    binary = _Binary(view[json_bytes:])
    inputs = tuple(_decode_input(tensor, binary) for tensor in request.inputs)
    binary.check_end()
    if len({tensor.name for tensor in inputs}) < len(inputs):
        raise _invalid("two of 'inputs' have the same name")
    return InferRequest(
        request.id,
        inputs,
        tuple(output.name for output in request.outputs),
        frozenset(output.name for output in request.outputs if output.parameters.get(BINARY_WANTED) is True),
        request.parameters.get(BINARY_OUTPUT) is True,
        request.parameters,
    )


def encode_response(
    model: str, version: str, request: InferRequest, outputs: Iterable[Tensor]
) -> tuple[list[bytes], int | None]:
    """The parts of the body, and the length of the JSON where binary data follows it."""
    described: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for tensor in outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if request.all_binary or tensor.name in request.binary:
            data = encode_binary(tensor.array)
            entry["parameters"] = {BINARY_SIZE: len(data)}
            binary.append(data)
        else:
            entry["data"] = json_values(f"output {tensor.name!r}", tensor.array, _AS_BINARY)
        described.append(entry)
    answer: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": described}
    if request.id:
        answer["id"] = request.id
    header = _encoder.encode(answer)
    return [header, *binary], len(header) if binary else None


def _decode_input(tensor: _Input, binary: _Binary) -> Tensor:
    dtype = numpy_dtype(tensor.datatype, tensor.name)
    size = tensor.parameters.get(BINARY_SIZE)
    if size is not None:
        if type(size) is not int or size < 0:
            raise _invalid(f"{BINARY_SIZE} of the input {tensor.name!r} is {size!r:.100}, not a number of bytes")
        if tensor.data is not msgspec.UNSET:
            raise _invalid(f"the input {tensor.name!r} has both data and {BINARY_SIZE}")
        data = binary.take(size, tensor.name)
        shape = check_shape(tensor.name, tensor.shape, size)
        return Tensor(tensor.name, decode_binary(data, dtype, shape, tensor.name))
    if tensor.data is msgspec.UNSET:
        raise _invalid(f"the input {tensor.name!r} has neither data nor {BINARY_SIZE}")
    raw = bytes(tensor.data)
    shape = check_shape(tensor.name, tensor.shape, len(raw))
    return Tensor(tensor.name, _from_json(raw, dtype, shape, tensor))


def _from_json(raw: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], tensor: _Input) -> Array:
    """Data is flat, in row-major order, or nested as the shape is."""
    decoder: msgspec.json.Decoder[Any] = _DECODERS.get(dtype.kind, _floats)
    values: list[Any]
    try:
        values = decoder.decode(raw)
    except (msgspec.MsgspecError, RecursionError) as flat:
        try:
            values = decoder.decode(_encoder.encode(flattened(_anything.decode(raw), len(shape))))
        except (msgspec.MsgspecError, RecursionError):
            raise _invalid(f"the data of the input {tensor.name!r} ({tensor.datatype}): {flat}") from None
    count = int(np.prod(shape, dtype=np.int64)) if shape else 1
    if len(values) != count:
        raise InvalidInput(
            f"The input {tensor.name!r} has {len(values)} values, and its shape {list(shape)} has {count}",
            code=error_codes.TENSOR_MISMATCH,
        )
    try:
        array = texts_to_bytes(array_of(values, dtype))
    except (OverflowError, ValueError, TypeError) as error:
        raise InvalidInput(
            f"The input {tensor.name!r} has a value that is not of {tensor.datatype}: {error}",
            code=error_codes.TENSOR_MISMATCH,
        ) from None
    return array.reshape(shape)


def flattened(values: list[Any], rank: int) -> list[Any]:
    """The values of data that is flat, or nested in up to `rank` dimensions."""
    for _ in range(max(rank - 1, 0)):
        if not all(isinstance(value, list) for value in values):
            break
        values = [value for inner in values for value in inner]
    return values


class _Binary:
    """The binary data behind the JSON, taken in order."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._taken = data, 0

    def take(self, size: int, name: str) -> memoryview:
        if size > len(self._data) - self._taken:
            raise _invalid(
                f"{BINARY_SIZE} of the input {name!r} is {size}, and {len(self._data) - self._taken} bytes are left"
            )
        self._taken += size
        return self._data[self._taken - size : self._taken]

    def check_end(self) -> None:
        if self._taken < len(self._data):
            raise _invalid(f"{len(self._data) - self._taken} bytes after the JSON belong to no input")


def decode_binary(data: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], name: str) -> Array:
    """The array of binary data: little-endian, row-major; of BYTES each element with its length, four bytes, before it.
    Raises `InvalidInput`."""
    count = int(np.prod(shape, dtype=np.int64)) if shape else 1
    if dtype.kind == "O":
        return _decode_bytes(data, count, name).reshape(shape)
    if len(data) != count * dtype.itemsize:
        raise InvalidInput(
            f"The input {name!r} has {len(data)} bytes of data, and its shape {list(shape)} needs "
            f"{count * dtype.itemsize}",
            code=error_codes.TENSOR_MISMATCH,
        )
    array = np.frombuffer(data, dtype=dtype)
    if dtype.kind == "b":
        array = np.frombuffer(data, dtype=np.uint8) != 0
    return array.reshape(shape)


def encode_binary(array: Array) -> bytes:
    """The inverse of `decode_binary`."""
    if array.dtype.kind in "OSU":
        parts = []
        for item in texts_to_bytes(array).ravel().tolist():
            parts += [struct.pack("<I", len(item)), item]
        return b"".join(parts)
    return np.ascontiguousarray(array).tobytes()


def _decode_bytes(data: memoryview, count: int, name: str) -> Array:
    items: list[bytes] = []
    at = 0
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at) if at + 4 <= len(data) else (len(data),)
        if at + 4 + size > len(data) or len(items) == count:
            break
        items.append(bytes(data[at + 4 : at + 4 + size]))
        at += 4 + size
    if at != len(data) or len(items) != count:
        raise InvalidInput(
            f"The binary data of the input {name!r} is not that of {count} elements of BYTES",
            code=error_codes.TENSOR_MISMATCH,
        )
    return array_of(items, np.dtype(object))


def json_values(what: str, array: Array, hint: str) -> list[Any]:
    """The values of an array, flat. Raises `InvalidInput` with the hint for bytes that are no text; `what` they are."""
    array = array.ravel()
    if array.dtype.kind in "OSU":
        try:
            return [item.decode() for item in texts_to_bytes(array).tolist()]
        except UnicodeDecodeError:
            raise InvalidInput(
                f"The {what} has bytes that are no text, which JSON cannot hold",
                code=error_codes.TENSOR_MISMATCH,
                hint=hint,
            ) from None
    values: list[Any] = (array.astype(np.float32) if array.dtype.name == "bfloat16" else array).tolist()
    return values


def _invalid(why: str) -> InvalidInput:
    return InvalidInput(f"The request is not valid: {why}", code=error_codes.INVALID_INFERENCE)
