"""Files of inputs: what columns, rows and requests become, and which field a message names."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from skyhold.errors import InvalidInput
from skyhold.serving.input_file import parse_input, read_input
from skyhold.serving.signature import TensorSpec

MATRIX = (TensorSpec("input", "FP32", (-1, 2)),)
NAMED = (TensorSpec("age", "INT64", (-1, 1)), TensorSpec("city", "BYTES", (-1,)), TensorSpec("new", "BOOL", (-1,)))


def refusal(kind: str, data: bytes, specs: tuple[TensorSpec, ...] = MATRIX) -> str:
    with pytest.raises(InvalidInput) as refused:
        parse_input(kind, data, specs)
    return f"{refused.value.message} {refused.value.hint}"


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (".csv", b"a,b\n1,2\n3,\n"),
        (".csv", b"1,2\n3,\n"),
        (".json", b'{"a": [1, 3], "b": [2, null]}'),
        (".json", b"[[1, 2], [3, null]]"),
        (".json", b'[{"a": 1, "b": 2}, {"b": null, "a": 3}]'),
        (".json", b'{"input": [[1, 2], [3, null]]}'),
    ],
)
def test_columns_without_the_name_of_an_input_are_the_matrix(kind: str, data: bytes) -> None:
    array = parse_input(kind, data, MATRIX)["input"]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, [[1, 2], [3, np.nan]])


def test_columns_become_the_inputs_of_their_names() -> None:
    arrays = parse_input(".csv", "new,age,city\ntrue,30,Köln\n0,31,\n".encode(), NAMED)
    assert arrays["age"].tolist() == [[30], [31]]
    assert arrays["city"].tolist() == ["Köln".encode(), b""]
    assert arrays["new"].tolist() == [True, False]


def test_parquet_is_read_by_its_columns() -> None:
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"age": [30, 31], "city": ["a", "b"], "new": [True, False]}), file)
    arrays = parse_input(".parquet", file.getvalue(), NAMED)
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "age": [[30], [31]],
        "city": [b"a", b"b"],
        "new": [True, False],
    }
    assert "no Parquet" in refusal(".parquet", b"PAR1", NAMED)


def test_request_of_the_protocol_is_taken_as_it_is() -> None:
    request = {"inputs": [{"name": "input", "shape": [1, 2], "datatype": "INT8", "data": [1, 2]}]}
    array = read_input("-", io.BytesIO(json.dumps(request).encode()), MATRIX)["input"]
    assert (array.dtype, array.tolist()) == (np.int8, [[1, 2]])


@pytest.mark.parametrize(
    ("kind", "data", "named"),
    [
        (".csv", b"a,b\n1,2\n3\n", "row 3 has 1 fields"),
        (".csv", b"a,b\n1,x\n", "row 2, column 'b': 'x' is no FP32"),
        (".csv", b"a,b,c\n1,2,3\n", "3 columns, and the input 'input' takes 2"),
        (".csv", b"\xff\xfe", "UTF-8"),
        (".csv", b"", "empty"),
        (".json", b"[[1, 2], [3]]", "row 2 has 1 values"),
        (".json", b'[[1, 2], [3, "x"]]', "row 2, column 2"),
        (".json", b'[{"a": 1, "b": 2}, {"a": 1}]', "'b'"),
        (".json", b'{"a": 1}', "column 'a'"),
        (".json", b"[" * 100_000, "no JSON"),
        (".npy", b"\x93NUMPY", "no array of NumPy"),
    ],
)
def test_wrong_field_is_named(kind: str, data: bytes, named: str) -> None:
    assert named in refusal(kind, data)


def test_integers_out_of_range_and_unknown_columns_are_named() -> None:
    assert "row 2, column 'age'" in refusal(".csv", b"age,city,new\n99999999999999999999,a,1\n", NAMED)
    assert "column 'agee'" in refusal(".csv", b"agee,city,new\n1,a,1\n", NAMED)


def test_pickled_arrays_are_refused() -> None:
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    assert "no array of NumPy" in refusal(".npy", file.getvalue())
