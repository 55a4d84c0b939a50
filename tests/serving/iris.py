"""Small real models of scikit-learn's own data, as folders of a version."""

from __future__ import annotations

from pathlib import Path

import skops.io
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

REQUEST = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP64", "data": [5.0, 3.0, 4.0, 2.0]}]}


def write_classifier(folder: Path, strength: float = 1.0) -> Path:
    """A classifier of irises; another `strength` of its regularization gives another version."""
    features, classes = load_iris(return_X_y=True)
    folder.mkdir(exist_ok=True)
    fitted = LogisticRegression(C=strength, max_iter=1000).fit(features, classes)
    skops.io.dump(fitted, folder / "model.skops")
    return folder
