from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from skyhold.errors import InvalidInput
from skyhold.serving.rest_codec import decode_binary, decode_request, encode_binary, encode_response
from skyhold.serving.tensor import DATATYPES, Tensor, numpy_dtype


def request(*inputs: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **fields}).encode()


def one(datatype: str, shape: list[int], data: Any, **parameters: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": shape, "data": data, "parameters": parameters}


def binary(datatype: str, shape: list[int], size: int) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}


def decoded(datatype: str, shape: list[int], data: Any) -> Any:
    return decode_request(request(one(datatype, shape, data))).inputs[0].array.tolist()


@pytest.mark.parametrize(
    ("datatype", "sent", "read"),
    [
        ("BOOL", [True, False], [True, False]),
        ("UINT8", [0, 255], [0, 255]),
        ("INT64", [-(2**63), 2**63 - 1], [-(2**63), 2**63 - 1]),
        ("UINT64", [0, 2**64 - 1], [0, 2**64 - 1]),
        ("FP16", [1.5, 0], [1.5, 0.0]),
        ("BF16", [1.5, 0], [1.5, 0.0]),
        ("FP32", [0.5, 2], [0.5, 2.0]),
        ("BYTES", ["é", ""], ["é".encode(), b""]),
    ],
)
def test_data_of_every_datatype_is_read(datatype: str, sent: list[Any], read: list[Any]) -> None:
    assert decoded(datatype, [2], sent) == read


def test_nested_data_is_read_in_row_major_order() -> None:
    assert decoded("INT32", [2, 2], [[1, 2], [3, 4]]) == decoded("INT32", [2, 2], [1, 2, 3, 4]) == [[1, 2], [3, 4]]


def test_null_is_not_a_number() -> None:
    (value,) = decoded("FP64", [1], [None])
    assert math.isnan(value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "truncated"),
        (b"[]", "Expected `object`"),
        (b"{}", "inputs"),
        (request(), "'inputs' is empty"),
        (b"[" * 100_000, "valid"),
        (request(one("FP32", [1], b"".decode())), "'x'"),
        (request(one("FP99", [1], [1])), "'x' has the datatype 'FP99'"),
        (request(one("FP32", [-1], [1])), "'x' has the shape"),
        (request(one("FP32", [10**12], [1])), "'x' has the shape"),
        (request(one("FP32", [0, 10**30], [])), "'x' has the shape"),
        (request(one("FP32", [0, 10**12, 10**12], [])), "'x' has the shape"),
        (request(one("FP32", [1] * 40, [1])), "'x' has 40 dimensions"),
        (request(one("FP32", [2], [1])), "'x' has 1 values"),
        (request(one("FP32", [1], ["a"])), "'x' (FP32)"),
        (request(one("INT8", [1], [128])), "'x' has a value that is not of INT8"),
        (request(one("INT8", [1], [1.5])), "'x' (INT8)"),
        (request(one("BOOL", [1], [1])), "'x' (BOOL)"),
        (request(one("BYTES", [1], [1])), "'x' (BYTES)"),
        (request(one("FP32", [1], [1]), one("FP32", [1], [1])), "same name"),
        (request(one("FP32", [1], [1], binary_data_size=4)), "both data and"),
        (request({"name": "x", "datatype": "FP32", "shape": [1]}), "neither data nor"),
        (request(binary("FP32", [1], 4)), "bytes are left"),
        (request(binary("FP32", [1], -1)), "number of"),
    ],
)  # fmt: skip
def test_wrong_request_is_refused_and_names_what_is_wrong(body: bytes, message: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        decode_request(body)
    assert message in refused.value.message


@given(st.binary(max_size=300), st.none() | st.integers(-5, 400))
def test_any_bytes_are_a_request_or_refused(body: bytes, header_bytes: int | None) -> None:
    with suppress(InvalidInput):
        decode_request(body, header_bytes)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(st.sampled_from([*DATATYPES, "no", 3, None]), _JSON, _JSON, _JSON)
def test_any_json_is_a_request_or_refused(datatype: object, shape: object, data: object, parameters: object) -> None:
    entry = {"name": "x", "datatype": datatype, "shape": shape, "data": data, "parameters": parameters}
    with suppress(InvalidInput):
        decode_request(json.dumps({"inputs": [entry], "parameters": parameters}).encode())


@given(
    st.sampled_from([name for name in DATATYPES if name not in {"BYTES", "BF16"}]).flatmap(
        lambda name: arrays.arrays(numpy_dtype(name, "x"), arrays.array_shapes(min_dims=0, max_dims=3, min_side=0))
    )
)
def test_binary_data_is_read_as_it_was_written(array: Any) -> None:
    data = encode_binary(array)
    read = decode_binary(memoryview(data), array.dtype, array.shape, "x")
    np.testing.assert_array_equal(read, array)


@given(st.lists(st.binary(max_size=9), max_size=5))
def test_binary_bytes_are_read_as_they_were_written(items: list[bytes]) -> None:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    data = encode_binary(array)
    assert decode_binary(memoryview(data), array.dtype, array.shape, "x").tolist() == items


@given(st.binary(max_size=40), st.integers(0, 5))
def test_any_binary_bytes_are_elements_or_refused(data: bytes, count: int) -> None:
    with suppress(InvalidInput):
        assert len(decode_binary(memoryview(data), np.dtype(object), (count,), "x")) == count


def test_response_has_outputs_as_json_or_as_binary_data_where_asked() -> None:
    outputs = [Tensor("a", np.array([1.5, np.nan], "float32")), Tensor("b", np.array(["é", "x"]))]
    asked = {"outputs": [{"name": "a"}, {"name": "b", "parameters": {"binary_data": True}}], "id": "7"}
    parts, json_bytes = encode_response("m", "1", decode_request(request(one("FP32", [1], [1]), **asked)), outputs)
    assert json_bytes == len(parts[0])
    answer = json.loads(parts[0])
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("m", "1", "7")
    assert answer["outputs"][0] == {"name": "a", "datatype": "FP32", "shape": [2], "data": [1.5, None]}
    assert answer["outputs"][1]["parameters"] == {"binary_data_size": len(parts[1])}
    assert parts[1] == b"\x02\0\0\0\xc3\xa9\x01\0\0\0x"


def test_brain_floats_become_json_numbers() -> None:
    array = np.array([1.5], ml_dtypes.bfloat16)
    parts, _ = encode_response("m", "1", decode_request(request(one("FP32", [1], [1]))), [Tensor("y", array)])
    assert json.loads(parts[0])["outputs"][0] == {"name": "y", "datatype": "BF16", "shape": [1], "data": [1.5]}


def test_output_that_is_no_text_is_refused_as_json_with_the_way_out() -> None:
    array = np.array([b"\xff"], dtype=object)
    with pytest.raises(InvalidInput) as refused:
        encode_response("m", "1", decode_request(request(one("FP32", [1], [1]))), [Tensor("y", array)])
    assert "binary_data" in str(refused.value.hint)
