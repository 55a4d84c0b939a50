"""Which runtime takes which files, what it refuses, and what it finds out about a model."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from skyhold.errors import InvalidInput, NotFound, PermissionDenied, SkyholdError
from skyhold.serving.declaration import read_declaration
from skyhold.serving.model import Model, Origin, open_model
from skyhold.serving.runtimes.runtime import Permissions
from tests.serving.iris import REQUEST, write_classifier

PICKLE = Permissions(pickle=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "version").mkdir()
    return tmp_path / "version"


def opened(folder: Path, permissions: Permissions = Permissions()) -> Model:  # noqa: B008 (frozen)
    return open_model(folder, Origin("m", "v1"), permissions)


def predicted(model: Model, rows: Any, *outputs: str) -> dict[str, Any]:
    try:
        return model.submit({"input": np.asarray(rows)}, list(outputs) or None, timeout_s=60).result(60)
    finally:
        model.close()


def declare(folder: Path, text: str) -> None:
    (folder / "serving.toml").write_text(text)


def test_outputs_are_those_that_the_estimator_has(folder: Path) -> None:
    features, classes = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[classes]
    skops.io.dump(make_pipeline(StandardScaler(), LogisticRegression()).fit(features, names), folder / "m.skops")
    model = opened(folder)
    assert [(spec.name, spec.datatype, spec.shape) for spec in model.signature.outputs] == [
        ("predict", "BYTES", (-1,)),
        ("predict_proba", "FP64", (-1, 3)),
        ("decision_function", "FP64", (-1, 3)),
    ]
    answer = predicted(model, features[[0, 60]], "predict", "predict_proba")
    assert answer["predict"].tolist() == ["setosa", "versicolor"]
    assert answer["predict_proba"].shape == (2, 3)


def test_regressor_predicts_numbers_from_floats_of_another_size(folder: Path) -> None:
    features, targets = load_diabetes(return_X_y=True)
    skops.io.dump(LinearRegression().fit(features, targets), folder / "m.skops")
    model = opened(folder)
    assert [(spec.name, spec.datatype) for spec in model.signature.outputs] == [("predict", "FP64")]
    assert predicted(model, features[:3].astype(np.float32))["predict"].shape == (3,)


def test_pickle_needs_the_consent_of_version_and_operator(folder: Path) -> None:
    features, classes = load_iris(return_X_y=True)
    joblib.dump(LogisticRegression(max_iter=1000).fit(features, classes), folder / "m.joblib")
    for permissions in (Permissions(), PICKLE):
        with pytest.raises(PermissionDenied, match="does not declare"):
            opened(folder, permissions)
    declare(folder, "pickle = true")
    with pytest.raises(PermissionDenied) as refused:
        opened(folder)
    assert "--allow-pickle" in str(refused.value.hint)
    assert predicted(opened(folder, PICKLE), features[:1])["predict"].tolist() == [0]


class Evil:
    """A type of somebody's own, which skops names instead of loading it."""

    def predict(self, rows: Any) -> Any:
        return rows


def test_types_that_are_not_scikit_learns_are_refused(folder: Path) -> None:
    skops.io.dump(Evil(), folder / "m.skops")
    with pytest.raises(PermissionDenied, match="Evil"):
        opened(folder)


def test_version_without_a_runtime_is_refused_by_its_files(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"x")
    with pytest.raises(NotFound, match=r"weights\.bin"):
        opened(folder)


def test_several_models_need_a_declaration(folder: Path) -> None:
    write_classifier(folder)
    (folder / "model.skops").rename(folder / "a.skops")
    write_classifier(folder)
    with pytest.raises(InvalidInput, match=r"a\.skops \(sklearn\), model\.skops \(sklearn\)"):
        opened(folder)
    declare(folder, 'file = "a.skops"')
    assert predicted(opened(folder), [[5.0, 3, 4, 2]])["predict"].tolist() == [1]


@pytest.mark.parametrize("name", ["m.onnx", "m.skops"])
def test_file_that_is_no_model_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"PK\x05\x06" + bytes(18) if name == "m.skops" else b"no model")
    with pytest.raises(InvalidInput, match=f"cannot load {name}") as refused:
        opened(folder)
    assert refused.value.code == "load_failed"


def test_missing_library_is_named_with_what_installs_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "m.onnx").write_bytes(b"x")
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "onnxruntime":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InvalidInput, match="onnxruntime") as refused:
        opened(folder)
    assert refused.value.hint == "pip install 'skyhold[serve,onnx]'"


def test_warm_up_request_must_succeed(folder: Path) -> None:
    import json

    write_classifier(folder)
    declare(folder, 'warm_up = "golden.json"')
    (folder / "golden.json").write_text(json.dumps(REQUEST))
    opened(folder).close()
    (folder / "golden.json").write_text(json.dumps(REQUEST).replace("4.0", "null"))
    with pytest.raises(InvalidInput, match=r"failed at its warm-up request golden\.json"):
        opened(folder)
    (folder / "golden.json").write_text("{}")
    with pytest.raises(InvalidInput, match="does not fit"):
        opened(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file = ", "Invalid value"),
        ("fiel = 'm'", "did you mean 'file'"),
        ("file = 3", "'file' is 3, not a str"),
        ("file = 'none.onnx'", "no file of the version"),
        ("file = '../outside'", "no file of the version"),
        ("pickle = 'yes'", "'pickle'"),
        ("runtime = 'triton'", "runtime 'triton'"),
        ("batch = {rows = 3}", "unknown field 'rows'"),
        ("batch = {rows_max = 0}", "batch.rows_max"),
        ("batch = {wait_ms = -1}", "batch.wait_ms"),
        ("inputs = [{name = 'x'}]", "name, datatype and shape"),
        ("inputs = [{name = 'x', datatype = 'FP99', shape = [1]}]", "FP99"),
        ("inputs = [{name = 'x', datatype = 'FP64', shape = [-2]}]", "the shape of 'x'"),
    ],
)
def test_wrong_declaration_names_the_field(folder: Path, text: str, message: str) -> None:
    (folder.parent / "outside").write_bytes(b"x")
    write_classifier(folder)
    declare(folder, text)
    with pytest.raises(SkyholdError) as refused:
        opened(folder)
    assert message in refused.value.message


def test_declaration_that_is_no_text_or_too_long_is_refused(folder: Path) -> None:
    for body in (b"\xff", b"#" * (2 << 20)):
        (folder / "serving.toml").write_bytes(body)
        with pytest.raises(InvalidInput):
            read_declaration(folder)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "The input 'input' is missing; it is FP64 of shape [-1, 4]"),
        ({"inptu": np.zeros((1, 4))}, "has no input 'inptu'"),
        ({"input": np.zeros(4)}, "The input 'input' has the shape [4]"),
        ({"input": np.zeros((1, 5))}, "The input 'input' has the shape [1, 5]"),
        ({"input": np.zeros((1, 4), bool)}, "The input 'input' is BOOL; the model takes FP64"),
        ({"input": np.full((1, 4), b"x", object)}, "The input 'input' is BYTES; the model takes FP64"),
    ],
)
def test_request_that_does_not_fit_the_signature_names_the_input(
    folder: Path, inputs: dict[str, Any], message: str
) -> None:
    model = opened(write_classifier(folder))
    with pytest.raises(InvalidInput) as refused:
        model.submit(inputs, None, timeout_s=1)
    model.close()
    assert message in refused.value.message


def test_estimator_with_one_column_of_decisions_reports_its_shape(folder: Path) -> None:
    features, classes = load_iris(return_X_y=True)
    skops.io.dump(SVC().fit(features, classes == 1), folder / "m.skops")
    model = opened(folder)
    shapes = {spec.name: spec.shape for spec in model.signature.outputs}
    assert predicted(model, features[:2], "decision_function")["decision_function"].ndim == len(
        shapes["decision_function"]
    )
