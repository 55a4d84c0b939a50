"""Tensors are found where the real libraries put them, and no broken header does more than answer None."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_safetensors

from skyhold.codec.formats import safetensors
from skyhold.codec.formats.onnx import read_external_tensors
from skyhold.codec.tensors import Tensor, element_width_bytes, read_tensors

SAFETENSORS_TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
    "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
NUMPY_TYPES = {name: dtype for name, dtype in SAFETENSORS_TYPES.items() if name != "BF16"}
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)


def reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda start, length: data[start : start + length]


def tensors_of(data: bytes, path: str = "model.bin") -> tuple[Tensor, ...] | None:
    return read_tensors(path, len(data), reader(data))


def array(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    return (np.arange(count) % 2).reshape(shape).astype(SAFETENSORS_TYPES[dtype])


def assert_found(data: bytes, found: tuple[Tensor, ...] | None, arrays: dict[str, tuple[str, np.ndarray]]) -> None:
    assert found is not None
    assert {tensor.name for tensor in found} == set(arrays)
    assert all(a.end <= b.start for a, b in pairwise(found))
    for tensor in found:
        dtype, values = arrays[tensor.name]
        assert (tensor.dtype, tensor.shape) == (dtype, values.shape)
        assert data[tensor.start : tensor.end] == values.tobytes()


@given(st.dictionaries(st.text(max_size=9), st.tuples(st.sampled_from(sorted(SAFETENSORS_TYPES)), SHAPES), max_size=5))
def test_tensors_of_safetensors_are_where_the_library_writes_them(
    drawn: dict[str, tuple[str, tuple[int, ...]]],
) -> None:
    arrays = {name: (dtype, array(dtype, shape)) for name, (dtype, shape) in drawn.items() if name != "__metadata__"}
    data = save_safetensors({name: values for name, (_, values) in arrays.items()}, metadata={"format": "np"})
    assert_found(data, tensors_of(data), arrays)


@given(st.sampled_from(sorted(NUMPY_TYPES)), SHAPES)
def test_the_array_of_an_npy_file_is_found(dtype: str, shape: tuple[int, ...]) -> None:
    file = io.BytesIO()
    np.save(file, array(dtype, shape))
    assert_found(file.getvalue(), tensors_of(file.getvalue()), {"": (dtype, array(dtype, shape))})


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,8}", fullmatch=True),
        st.tuples(st.sampled_from(sorted(NUMPY_TYPES)), SHAPES),
        min_size=1,
    )
)
def test_arrays_of_an_npz_archive_are_found(drawn: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    arrays = {name: (dtype, array(dtype, shape)) for name, (dtype, shape) in drawn.items()}
    file = io.BytesIO()
    np.savez(file, **{name: values for name, (_, values) in arrays.items()})
    assert_found(file.getvalue(), tensors_of(file.getvalue()), arrays)


def test_objects_records_and_compressed_members_of_an_archive_are_left_as_bytes() -> None:
    file = io.BytesIO()
    np.savez(file, words=np.array(["a", None], object), pairs=np.zeros(3, [("a", "f4"), ("b", "i2")]), good=np.ones(4))
    assert [tensor.name for tensor in tensors_of(file.getvalue()) or ()] == ["good"]
    compressed = io.BytesIO()
    np.savez_compressed(compressed, a=np.ones(4))
    assert tensors_of(compressed.getvalue()) is None


def test_big_endian_arrays_keep_the_name_of_numpy() -> None:
    file = io.BytesIO()
    np.save(file, np.ones(4, ">f4"))
    (tensor,) = tensors_of(file.getvalue()) or ()
    assert (tensor.dtype, element_width_bytes(tensor.dtype)) == (">f4", 0)
    assert tensor.end - tensor.start == 16


@pytest.mark.parametrize(
    ("written", "changed"),
    [
        ("(4,), } ", "(4), }  "),  # a number and no tuple
        ("(4,), }", "(04,), }"),
        ("\x93NUMPY\x01\x00", "\x93NUMPY\x01\x01"),
    ],
)
def test_file_that_numpy_refuses_has_no_array(written: str, changed: str) -> None:
    file = io.BytesIO()
    np.save(file, np.ones(4, "<f4"))
    data = file.getvalue().replace(written.encode("latin-1"), changed.encode("latin-1"))
    assert data != file.getvalue()
    with pytest.raises((ValueError, TypeError)):
        np.load(io.BytesIO(data))
    assert tensors_of(data) is None


def test_array_with_a_longer_header_than_numpy_loads_is_left_as_bytes() -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }".ljust(10_001)
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(16)
    with pytest.raises(ValueError, match="max_header_size"):
        np.load(io.BytesIO(data))
    assert tensors_of(data) is None


def test_bytes_after_an_array_are_none_of_it() -> None:
    for values in (np.ones(4, "<f4"), np.ones(4, ">f4"), np.array(["a", "bcd"])):
        file = io.BytesIO()
        np.save(file, values)
        (tensor,) = tensors_of(file.getvalue() + b"more") or ()
        assert (tensor.end - tensor.start, tensor.end) == (values.nbytes, len(file.getvalue()))


def test_member_that_numpy_returns_under_the_name_of_another_is_no_array() -> None:
    file = io.BytesIO()
    np.savez(file, **{"w": np.ones(2), "w.npy": np.zeros(3)})  # type: ignore[arg-type]
    data = file.getvalue()
    with np.load(io.BytesIO(data)) as archive:
        assert archive["w.npy"].shape == (2,)
    assert [tensor.name for tensor in tensors_of(data) or ()] == ["w"]


def gguf_file(tmp_path: Path) -> tuple[bytes, dict[str, np.ndarray]]:
    gguf = pytest.importorskip("gguf", reason="pip install gguf brings the library that writes the file")
    arrays = {
        "embedding": np.arange(64 * 3, dtype=np.float32).reshape(3, 64),
        "norm": np.ones(5, np.float16),
        "ids": np.arange(7, dtype=np.int32),
    }
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_token_list([f"token {number}" for number in range(1000)])
    writer.add_array("floats", [1.0, 2.0])
    for name, values in arrays.items():
        writer.add_tensor(name, values)
    blocks = gguf.quants.quantize(
        np.linspace(-1, 1, 512, dtype=np.float32).reshape(2, 256), gguf.GGMLQuantizationType.Q8_0
    )
    writer.add_tensor("quantized", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return (tmp_path / "model.gguf").read_bytes(), {**arrays, "quantized": blocks}


def test_tensors_of_gguf_are_where_the_library_writes_them(tmp_path: Path) -> None:
    data, arrays = gguf_file(tmp_path)
    found = {tensor.name: tensor for tensor in tensors_of(data) or ()}
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in found.items()} == {
        "embedding": ("F32", (3, 64)), "norm": ("F16", (5,)), "ids": ("I32", (7,)), "quantized": ("Q8_0", (2, 256)),
    }  # fmt: skip
    for name, tensor in found.items():
        assert data[tensor.start : tensor.end] == arrays[name].tobytes()


def onnx_model(path: Path, *, external: bool) -> dict[str, np.ndarray]:
    onnx = pytest.importorskip("onnx", reason="pip install onnx brings the library that writes the model")
    arrays = {"w": np.arange(600, dtype=np.float32).reshape(20, 30), "b": np.arange(300, dtype=np.int64)}
    constant = np.full((9,), 7, np.float16)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(constant, "c"))],
        "graph", [], [], [onnx.numpy_helper.from_array(values, name) for name, values in arrays.items()],
    )  # fmt: skip
    model = onnx.helper.make_model(graph)
    onnx.save(model, path, save_as_external_data=external, location="weights.bin", size_threshold=100)
    return {**arrays, "c": constant}


def test_weights_inside_an_onnx_model_are_found(tmp_path: Path) -> None:
    arrays = onnx_model(tmp_path / "m.onnx", external=False)
    data = (tmp_path / "m.onnx").read_bytes()
    dtypes = {"w": "F32", "b": "I64", "c": "F16"}
    assert_found(data, tensors_of(data, "m.onnx"), {name: (dtypes[name], values) for name, values in arrays.items()})
    assert read_external_tensors(len(data), reader(data)) == {}


def test_weights_beside_an_onnx_model_are_found(tmp_path: Path) -> None:
    arrays = onnx_model(tmp_path / "m.onnx", external=True)
    data, weights = (tmp_path / "m.onnx").read_bytes(), (tmp_path / "weights.bin").read_bytes()
    external = read_external_tensors(len(data), reader(data))
    assert set(external) == {"weights.bin"}
    found = {tensor.name: weights[tensor.start : tensor.end] for tensor in external["weights.bin"]}
    assert {"w", "b"} <= set(found)
    assert all(arrays[name].tobytes() == found[name] for name in found)


class Files(dict[str, bytes]):
    """Files by name, whose failing examples are not printed whole."""

    def __repr__(self) -> str:
        return f"Files({list(self)})"


def good_files(tmp_path: Path) -> Files:
    npz, npy = io.BytesIO(), io.BytesIO()
    np.savez(npz, a=np.ones((3, 4)), b=np.arange(50))
    np.save(npy, np.ones((2, 2), np.float32))
    onnx_model(tmp_path / "m.onnx", external=False)
    onnx_model(tmp_path / "x.onnx", external=True)
    return Files({
        "m.safetensors": save_safetensors({"a": np.ones(9, np.float32), "b": np.zeros((2, 3))}),
        "m.npz": npz.getvalue(), "m.npy": npy.getvalue(), "m.gguf": gguf_file(tmp_path)[0],
        "m.onnx": (tmp_path / "m.onnx").read_bytes(), "x.onnx": (tmp_path / "x.onnx").read_bytes(),
    })  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return good_files(tmp_path_factory.mktemp("models"))


@pytest.mark.slow
@given(st.data())
@settings(max_examples=1500)
def test_a_corrupted_header_never_raises(files: Files, data: st.DataObject) -> None:
    """Flipped, overwritten or truncated anywhere: the answer is None or tensors in order inside the file."""
    path = data.draw(st.sampled_from(sorted(files)))
    broken = bytearray(files[path])
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(broken) - 1))
        piece = data.draw(st.one_of(st.binary(min_size=1, max_size=1), st.just(b"\xff" * 8), st.just(b"\0" * 8)))
        broken[position : position + len(piece)] = piece
    if data.draw(st.booleans()):
        broken = broken[: data.draw(st.integers(0, len(broken)))]
    tracemalloc.start()
    found = tensors_of(bytes(broken), path)
    external = read_external_tensors(len(broken), reader(bytes(broken))) if path.endswith(".onnx") else {}
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 8 << 20
    for tensors in (found or (), *external.values()):
        assert all(tensor.start <= tensor.end for tensor in tensors)
        assert all(a.end <= b.start for a, b in pairwise(tensors))
    assert all(tensor.start >= 0 and tensor.end <= len(broken) for tensor in found or ())


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"GGUF\3\0\0\0", b"\x93NUMPY\1\0", b"PK\3\4", b"\x20" + bytes(7) + b"{"]),
)
@settings(max_examples=500)
def test_any_bytes_are_no_error(data: bytes, magic: bytes) -> None:
    for path in ("m.onnx", "m.bin"):
        tensors_of(magic + data, path)


def safetensors_of(header: object) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(16)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 17]}},
        {"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 20]}},
        {"a": {"dtype": "F32", "shape": [-4, -1], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}},
        {name: {"dtype": "U8", "shape": [2], "data_offsets": [at, at + 2]} for name, at in (("a", 0), ("b", 1))},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}},
        {"a": 1},
        b"{" + b'"a":[' * 100_000,
        b"{" + b"[]," * 700_000,
        b'{"a"',
        b"{\xff}",
    ],
)  # fmt: skip
def test_a_safetensors_header_that_contradicts_itself_is_none(header: object) -> None:
    assert tensors_of(safetensors_of(header)) is None


def test_a_type_of_the_future_keeps_its_place() -> None:
    data = safetensors_of({"a": {"dtype": "F3_E1M1", "shape": [5], "data_offsets": [0, 16]}})
    (tensor,) = tensors_of(data) or ()
    assert (tensor.dtype, tensor.end - tensor.start, element_width_bytes(tensor.dtype)) == ("F3_E1M1", 16, 0)


def test_a_header_past_its_limit_is_not_read() -> None:
    asked: list[int] = []

    def read(start: int, length: int) -> bytes:
        asked.append(length)
        return ((safetensors.HEADER_BYTES_MAX + 1).to_bytes(8, "little") + b"{")[start : start + length]

    assert read_tensors("m.safetensors", 1 << 40, read) is None
    assert sum(asked) < 100


def test_a_zip_directory_past_its_limit_is_not_read() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(30):
            archive.writestr(f"{number}.npy", b"")
    data = bytearray(file.getvalue())
    at = data.rindex(b"PK\5\6")
    data[at + 12 : at + 16] = (len(data) - 22).to_bytes(4, "little")
    assert tensors_of(bytes(data)) is None


def test_errors_of_the_file_pass_through() -> None:
    def read(start: int, length: int) -> bytes:
        raise PermissionError("gone")

    with pytest.raises(PermissionError):
        read_tensors("m.npz", 100, read)


@given(st.sampled_from(sorted(NUMPY_TYPES)), SHAPES)
def test_array_whose_first_dimension_varies_fastest_is_named_so(dtype: str, shape: tuple[int, ...]) -> None:
    values = np.asfortranarray(np.arange(int(np.prod(shape))).reshape(shape).astype(SAFETENSORS_TYPES[dtype]))
    file = io.BytesIO()
    np.save(file, values)
    (tensor,) = tensors_of(file.getvalue()) or ()
    stored = np.frombuffer(file.getvalue()[tensor.start : tensor.end], SAFETENSORS_TYPES[dtype])
    order = "F" if tensor.dtype == f"{dtype}:fortran" else "C"
    assert tensor.dtype.removesuffix(":fortran") == dtype
    assert element_width_bytes(tensor.dtype) == element_width_bytes(dtype)
    assert np.array_equal(stored.reshape(tensor.shape, order=order), np.load(io.BytesIO(file.getvalue())))


def safetensors_file(header: str, data: bytes = b"") -> bytes:
    text = header.encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + data


ONE = '"dtype":"U8","shape":[1],"data_offsets":[0,1]'


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', b"xx"),
        (f'{{"a":{{{ONE}}}}}', b"xx"),
        (f'{{"\\ud800":{{{ONE}}}}}', b"x"),
        (f'{{"\ud800":{{{ONE}}}}}', b"x"),
        (f'{{"__metadata__":{{"a":1}},"a":{{{ONE}}}}}', b"x"),
        (f'{{"__metadata__":{{"a":NaN}},"a":{{{ONE}}}}}', b"x"),
        ('{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}', b"x"),
    ],
)
def test_file_that_the_library_of_safetensors_refuses_has_no_tensors(header: str, data: bytes, tmp_path: Path) -> None:
    body = safetensors_file(header, data)
    (tmp_path / "a.safetensors").write_bytes(body)
    with pytest.raises(SafetensorError), safe_open(tmp_path / "a.safetensors", "np"):
        pass
    assert tensors_of(body) is None


@pytest.mark.parametrize(
    "header",
    [
        '{"z":{"dtype":"F32","shape":[0,9007199254740993],"data_offsets":[0,0]}}',
        f'{{"a":{{{ONE}}},"a":{{{ONE}}}}}',
    ],
)
def test_header_that_no_document_can_repeat_has_no_tensors(header: str) -> None:
    assert tensors_of(safetensors_file(header, b"x" if ONE in header else b"")) is None


def test_onnx_tensor_is_where_its_location_points(tmp_path: Path) -> None:
    """A model that has both raw bytes and an entry for external ones: the library reads those that are meant."""
    onnx = pytest.importorskip("onnx", reason="pip install onnx brings the library that writes the model")
    values = np.arange(4, dtype=np.float32)
    (tmp_path / "weights.bin").write_bytes(values[::-1].tobytes())
    for location, external in ((onnx.TensorProto.DEFAULT, False), (onnx.TensorProto.EXTERNAL, True)):
        tensor = onnx.numpy_helper.from_array(values, "w")
        tensor.external_data.add(key="location", value="weights.bin")
        tensor.data_location = location
        model = onnx.helper.make_model(onnx.helper.make_graph([], "graph", [], [], [tensor]))
        body = model.SerializeToString()
        inline = read_tensors("model.onnx", len(body), reader(body)) or ()
        assert [found.name for found in inline] == ([] if external else ["w"])
        assert read_external_tensors(len(body), reader(body)).keys() == ({"weights.bin"} if external else set())
