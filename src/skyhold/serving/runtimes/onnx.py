"""ONNX models, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from skyhold.serving.declaration import Declaration
from skyhold.serving.runtimes.runtime import LoadedModel, Permissions
from skyhold.serving.signature import ANY_SIZE, Signature, TensorSpec
from skyhold.serving.tensor import Array

name = "onnx"
extra = "onnx"

_DATATYPES: Final = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


def find(path: Path) -> str | None:
    return "its name ends in .onnx" if path.suffix == ".onnx" else None


def load(path: Path, declaration: Declaration, permissions: Permissions) -> LoadedModel:  # noqa: ARG001 (the port)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return OnnxModel(session, declaration)


class OnnxModel:
    def __init__(self, session: Any, declaration: Declaration) -> None:
        self._session = session
        self.signature = Signature(
            declaration.inputs or tuple(_spec(node) for node in session.get_inputs()),
            declaration.outputs or tuple(_spec(node) for node in session.get_outputs() if node.type in _DATATYPES),
        )

    def predict(self, inputs: Mapping[str, Array], outputs: tuple[str, ...]) -> dict[str, Array]:
        given = {name: _texts(array) for name, array in inputs.items()}
        return dict(zip(outputs, self._session.run(list(outputs), given), strict=True))

    def close(self) -> None:
        self._session = None


def _spec(node: Any) -> TensorSpec:
    """Sizes that vary have a name or None there. Raises `ValueError` of inputs that are no tensors."""
    if node.type not in _DATATYPES:
        raise ValueError(f"its input {node.name!r} is a {node.type}, which the protocol cannot carry")
    shape = tuple(size if isinstance(size, int) and size >= 0 else ANY_SIZE for size in node.shape)
    return TensorSpec(node.name, _DATATYPES[node.type], shape)


def _texts(array: Array) -> Array:
    """onnxruntime takes texts, where the protocol has bytes."""
    if array.dtype.kind != "O":
        return array
    texts = array.copy()
    texts.ravel()[:] = [item.decode() for item in array.ravel().tolist()]
    return texts
