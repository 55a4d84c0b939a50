from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyhold.errors import NotFound, Unavailable
from skyhold.serving.declaration import Declaration
from skyhold.serving.metrics import ModelMetrics, ServerMetrics
from skyhold.serving.model import Model, Origin
from skyhold.serving.models import Models, Served
from skyhold.serving.runtimes import onnx
from skyhold.serving.runtimes.runtime import Found
from skyhold.serving.signature import Signature, TensorSpec


class Constant:
    """Returns one value."""

    signature = Signature((TensorSpec("x", "INT64", (-1,)),), (TensorSpec("y", "INT64", (-1,)),))

    def __init__(self, value: int) -> None:
        self.value = value
        self.is_closed = False

    def predict(self, inputs: Mapping[str, Any], outputs: tuple[str, ...]) -> dict[str, Any]:
        assert not self.is_closed
        return {"y": np.full(len(inputs["x"]), self.value)}

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def models() -> Iterator[Models]:
    made = Models(ServerMetrics())
    yield made
    made.close()


def put(models: Models, version: int) -> Constant:
    loaded = Constant(version)
    metrics = ModelMetrics(models.metrics, "m", str(version))
    found = Found(onnx, Path("m.onnx"), "")

    def load() -> Model:
        return Model(Origin("m", str(version)), found, Declaration(), Constant(version), metrics.batch)

    model = Model(Origin("m", str(version)), found, Declaration(), loaded, metrics.batch)
    models.put(Served(model, metrics, load))
    return loaded


def answer(models: Models, version: str | None = None) -> int:
    future = models.find("m", version).model.submit({"x": np.zeros(1, np.int64)}, None, timeout_s=60)
    return int(future.result(60)["y"][0])


def ready(models: Models) -> dict[str, float]:
    lines = [line for line in models.metrics.expose().decode().splitlines() if line.startswith("skyhold_model_ready{")]
    return {line.split('version="')[1].split('"')[0]: float(line.split()[-1]) for line in lines}


def test_newest_answers_the_one_before_stays_warm_and_older_ones_are_closed(models: Models) -> None:
    first, second, third = (put(models, version) for version in (1, 2, 3))
    assert answer(models) == 3
    assert answer(models, "2") == 2
    with pytest.raises(NotFound, match="version '1'"):
        answer(models, "1")
    assert [model.is_closed for model in (first, second, third)] == [True, False, False]
    assert ready(models) == {"2": 0.0, "3": 1.0}


def test_version_that_returns_answers_again(models: Models) -> None:
    put(models, 1)
    second = put(models, 2)
    warm = models.warm("m", "1")
    assert warm is not None
    models.put(warm)
    assert models.answering("m") == "1"
    assert not second.is_closed
    assert ready(models) == {"1": 1.0, "2": 0.0}


def test_version_that_returned_is_the_one_that_is_loaded_after_an_unload(models: Models) -> None:
    put(models, 1)
    put(models, 2)
    warm = models.warm("m", "1")
    assert warm is not None
    models.put(warm)
    models.unload("m")
    models.load("m")
    assert models.answering("m") == "1"
    assert answer(models) == 1


def test_version_that_is_loaded_once_more_takes_the_place_of_itself(models: Models) -> None:
    first, again = put(models, 1), put(models, 1)
    assert (first.is_closed, again.is_closed) == (True, False)
    assert ready(models) == {"1": 1.0}


def test_unloaded_model_is_not_ready_and_says_why(models: Models) -> None:
    put(models, 1)
    models.unload("m")
    with pytest.raises(Unavailable, match="it was unloaded"):
        answer(models)
    assert not models.is_ready
    assert [(entry.state, entry.reason) for entry in models.index()] == [("UNAVAILABLE", "it was unloaded")]
    assert models.index(ready_only=True) == []
    with pytest.raises(NotFound):
        models.unload("other")


def test_lookups_never_fail_while_versions_change(models: Models) -> None:
    put(models, 0)
    errors: list[BaseException] = []
    ended = threading.Event()

    def look() -> None:
        try:
            while not ended.is_set():
                models.find("m")
                models.index()
                assert models.is_ready
        except BaseException as error:  # noqa: BLE001 (the test judges it)
            errors.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        for version in range(300):
            put(models, version % 4)
        ended.set()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(before)
    assert errors == []
