"""The client's side of `rest_codec`: requests out, responses in; no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
import numpy as np

from skyhold import error_codes
from skyhold.errors import InvalidInput
from skyhold.serving.rest_codec import (
    BINARY_OUTPUT,
    BINARY_SIZE,
    BINARY_WANTED,
    decode_binary,
    encode_binary,
    flattened,
    json_values,
)
from skyhold.serving.signature import TensorSpec
from skyhold.serving.tensor import Array, array_of, check_shape, datatype_of, numpy_dtype, texts_to_bytes


class _Output(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET


class _Response(msgspec.Struct):
    outputs: list[_Output]


class _Spec(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]


class _Metadata(msgspec.Struct):
    name: str
    inputs: list[_Spec] = []
    outputs: list[_Spec] = []
    versions: list[str] | None = None
    platform: str = ""


_response = msgspec.json.Decoder(_Response)
_metadata = msgspec.json.Decoder(_Metadata)
_encoder: Final = msgspec.json.Encoder()


def encode_request(inputs: Mapping[str, Array], outputs: Iterable[str], *, binary: bool) -> tuple[bytes, int | None]:
    """The body, and the length of the JSON where binary data follows it. Without `outputs` the server chooses. Raises
    `InvalidInput` for an array that the protocol has no datatype for."""
    described: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for name, array in inputs.items():
        entry: dict[str, Any] = {"name": name, "shape": array.shape, "datatype": datatype_of(array.dtype)}
        if binary:
            data = encode_binary(array)
            entry["parameters"] = {BINARY_SIZE: len(data)}
            parts.append(data)
        else:
            entry["data"] = json_values(f"input {name!r}", array, "Send it as binary data")
        described.append(entry)
    request: dict[str, Any] = {"inputs": described}
    wanted = [{"name": name, "parameters": {BINARY_WANTED: binary}} for name in outputs]
    if wanted:
        request["outputs"] = wanted
    if binary:
        request["parameters"] = {BINARY_OUTPUT: True}
    header = _encoder.encode(request)
    return b"".join([header, *parts]), len(header) if binary else None


def decode_response(body: bytes, header_bytes: int | None) -> dict[str, Array]:
    """The outputs of a response, of which the first `header_bytes` are JSON; None: all of it. Raises `InvalidInput`."""
    view = memoryview(body)
    end = len(body) if header_bytes is None else header_bytes
    if not 0 <= end <= len(body):
        raise _invalid(f"Inference-Header-Content-Length is {end}, and the body has {len(body)} bytes")
    try:
        response = _response.decode(view[:end])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _invalid(str(error)) from None
    arrays = {}
    for output in response.outputs:
        dtype = numpy_dtype(output.datatype, output.name)
        size = output.parameters.get(BINARY_SIZE)
        if size is not None:
            if type(size) is not int or not 0 <= size <= len(body) - end:
                raise _invalid(f"{BINARY_SIZE} of the output {output.name!r} is {size!r:.100}")
            shape = check_shape(output.name, output.shape, size)
            arrays[output.name] = decode_binary(view[end : end + size], dtype, shape, output.name)
            end += size
        elif output.data is not msgspec.UNSET:
            shape = check_shape(output.name, output.shape, len(body))
            arrays[output.name] = _from_json(output.data, dtype, shape, output.name)
        else:
            raise _invalid(f"the output {output.name!r} has neither data nor {BINARY_SIZE}")
    return arrays


def decode_metadata(body: bytes) -> tuple[str, tuple[str, ...], tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Name, versions, inputs and outputs of a model. Raises `InvalidInput`."""
    try:
        found = _metadata.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _invalid(str(error)) from None
    inputs, outputs = (
        tuple(TensorSpec(spec.name, spec.datatype, tuple(spec.shape)) for spec in specs)
        for specs in (found.inputs, found.outputs)
    )
    return found.name, tuple(found.versions or ()), inputs, outputs


def _from_json(data: list[Any], dtype: np.dtype[Any], shape: tuple[int, ...], name: str) -> Array:
    try:
        return texts_to_bytes(array_of(flattened(data, len(shape)), dtype)).reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise _invalid(f"the data of the output {name!r}: {error}") from None


def _invalid(why: str) -> InvalidInput:
    return InvalidInput(f"The response is not valid: {why}", code=error_codes.INVALID_INFERENCE)
