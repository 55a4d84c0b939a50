"""Estimators and pipelines of scikit-learn: from skops files, which name the types in them and run no code, or from
pickles (joblib), where version and operator allow them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from skyhold import error_codes
from skyhold.errors import PermissionDenied
from skyhold.serving.declaration import FILE_NAME, Declaration
from skyhold.serving.runtimes.runtime import LoadedModel, Permissions
from skyhold.serving.signature import ANY_SIZE, Signature, TensorSpec
from skyhold.serving.tensor import Array, datatype_of

name = "sklearn"
extra = "sklearn"

INPUT: Final = "input"
_METHODS: Final = ("predict", "predict_proba", "decision_function", "transform")
"""What an estimator may offer, each an output of that name; the first that it has is the default, as in MLServer."""
_PICKLES: Final = {".joblib", ".pkl", ".pickle"}


def find(path: Path) -> str | None:
    if path.suffix == ".skops" and zipfile.is_zipfile(path):
        return "its name ends in .skops"
    if path.suffix in _PICKLES:
        return f"its name ends in {path.suffix}: a pickle"
    return None


def load(path: Path, declaration: Declaration, permissions: Permissions) -> LoadedModel:
    if path.suffix == ".skops":
        return SklearnModel(_load_skops(path), declaration)
    check_pickle(path, declaration, permissions)
    import joblib

    return SklearnModel(joblib.load(path), declaration)


def check_pickle(path: Path, declaration: Declaration, permissions: Permissions) -> None:
    """Raises `PermissionDenied` unless both version and operator allow it: loading a pickle runs the code in it."""
    if not declaration.pickle:
        raise PermissionDenied(
            f"The file {path.name} is a pickle, and the version does not declare it",
            code=error_codes.RUNTIME_REFUSED,
            hint=f"Push it as .skops or .onnx, or with `pickle = true` in its {FILE_NAME}",
        )
    if not permissions.pickle:
        raise PermissionDenied(
            f"The file {path.name} is a pickle: loading it runs whatever code its author put into it",
            code=error_codes.RUNTIME_REFUSED,
            hint="If you trust who pushed it, start with --allow-pickle",
        )


def _load_skops(path: Path) -> Any:
    import skops.io

    unknown = skops.io.get_untrusted_types(file=path)
    if unknown:
        raise PermissionDenied(
            f"The file {path.name} has types that are not trusted: {', '.join(sorted(unknown)[:10])}",
            code=error_codes.RUNTIME_REFUSED,
            hint="Push a model of scikit-learn's own types",
        )
    return skops.io.load(path, trusted=[])


class SklearnModel:
    def __init__(self, estimator: Any, declaration: Declaration) -> None:
        self._estimator = estimator
        methods = [method for method in _METHODS if callable(getattr(estimator, method, None))]
        if not methods:
            raise ValueError(f"a {type(estimator).__name__} has none of the methods {', '.join(_METHODS)}")
        columns = getattr(estimator, "n_features_in_", ANY_SIZE)
        datatype = "BYTES" if getattr(estimator, "n_features_in_", None) is None else "FP64"
        self.signature = Signature(
            declaration.inputs or (TensorSpec(INPUT, datatype, (ANY_SIZE, columns)),),
            declaration.outputs or tuple(self._output(method) for method in methods),
            (methods[0],),
        )

    def _output(self, method: str) -> TensorSpec:
        classes = getattr(self._estimator, "classes_", None)
        if method == "predict":
            datatype = datatype_of(classes.dtype) if isinstance(classes, np.ndarray) else "FP64"
            return TensorSpec(method, datatype, (ANY_SIZE,))
        count = len(classes) if isinstance(classes, np.ndarray) else ANY_SIZE
        two_classes = method == "decision_function" and count <= 2
        return TensorSpec(method, "FP64", (ANY_SIZE,) if two_classes else (ANY_SIZE, count))

    def predict(self, inputs: Mapping[str, Array], outputs: tuple[str, ...]) -> dict[str, Array]:
        columns = inputs[INPUT] if set(inputs) == {INPUT} else np.column_stack(list(inputs.values()))
        if columns.dtype.kind == "O":
            columns = np.array([item.decode() for item in columns.ravel().tolist()], dtype=object).reshape(
                columns.shape
            )
        return {method: np.asarray(getattr(self._estimator, method)(columns)) for method in outputs}

    def close(self) -> None:
        self._estimator = None
