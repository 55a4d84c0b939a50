from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from skyhold.errors import Cancelled, QuotaExceeded, SkyholdError, Unavailable
from skyhold.serving.batcher import Batcher
from skyhold.serving.declaration import BatchLimits
from skyhold.serving.signature import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP64", (-1,)),), (TensorSpec("y", "FP64", (-1,)),))
OUTPUTS = ("y",)
LATER_S = 60.0


class Doubling:
    """y = 2 x. It waits for `gate`, and fails as a value asks for: -1 a `ValueError`, -2 another error, -3 an exit."""

    signature = SIGNATURE

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.rows: list[int] = []
        self.is_closed = False

    def predict(self, inputs: Mapping[str, Any], outputs: tuple[str, ...]) -> dict[str, Any]:
        self.entered.set()
        assert self.gate.wait(60)
        x = inputs["x"]
        self.rows.append(len(x))
        if -1 in x:
            raise ValueError("no -1")
        if -2 in x:
            raise RuntimeError("defect")
        if -3 in x:
            raise SystemExit(3)
        return {"y": 2 * x}

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def model() -> Doubling:
    return Doubling()


@pytest.fixture
def batcher(model: Doubling) -> Iterator[Batcher]:
    made = Batcher(model, BatchLimits(rows_max=8), queue_max=20)
    yield made
    model.gate.set()
    made.close()


def submit(batcher: Batcher, *values: float, within_s: float = LATER_S) -> Any:
    return batcher.submit({"x": np.array(values, float)}, OUTPUTS, give_up_s=time.monotonic() + within_s)


def held(batcher: Batcher, model: Doubling) -> Any:
    """A first request, which the model has begun; the next ones queue."""
    first = submit(batcher, 0)
    assert model.entered.wait(60)
    return first


def test_requests_that_wait_are_run_together_and_each_gets_its_own_rows(batcher: Batcher, model: Doubling) -> None:
    held(batcher, model)
    futures = [submit(batcher, *range(count)) for count in (1, 3, 2, 5)]
    model.gate.set()
    assert [future.result(60)["y"].tolist() for future in futures] == [
        [2 * value for value in range(count)] for count in (1, 3, 2, 5)
    ]
    assert model.rows == [1, 6, 5]


@pytest.mark.parametrize(("value", "code"), [(-1, "input_refused"), (-2, "model_failed"), (-3, "model_failed")])
def test_request_at_which_the_model_fails_fails_alone(
    batcher: Batcher, model: Doubling, value: float, code: str
) -> None:
    held(batcher, model)
    good, bad = submit(batcher, 4), submit(batcher, value)
    model.gate.set()
    assert good.result(60)["y"].tolist() == [8]
    failed = bad.exception(60)
    assert isinstance(failed, SkyholdError)
    assert failed.code == code


def test_request_that_waited_too_long_is_not_run(batcher: Batcher, model: Doubling) -> None:
    held(batcher, model)
    late = submit(batcher, 1, within_s=-1)
    model.gate.set()
    assert isinstance(late.exception(60), Cancelled)
    submit(batcher, 1).result(60)
    assert sum(model.rows) == 2


def test_cancelled_request_is_not_run(batcher: Batcher, model: Doubling) -> None:
    held(batcher, model)
    assert submit(batcher, 1).cancel()
    model.gate.set()
    submit(batcher, 5).result(60)
    assert sum(model.rows) == 2


def test_full_queue_refuses(batcher: Batcher, model: Doubling) -> None:
    held(batcher, model)
    for _ in range(20):
        submit(batcher, 1)
    with pytest.raises(QuotaExceeded):
        submit(batcher, 1)


def test_closing_answers_what_waits_and_refuses_what_comes(model: Doubling) -> None:
    batcher = Batcher(model, BatchLimits())
    held(batcher, model)
    waiting = submit(batcher, 3)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    model.gate.set()
    closing.join(60)
    assert waiting.result(0)["y"].tolist() == [6]
    assert model.is_closed
    with pytest.raises(Unavailable):
        submit(batcher, 1)
