"""Runs the requests for one model, several together where they come at once.

One thread runs the model. While it runs, requests queue; it then takes as many as fit together. So the size of a batch
adapts to the load by itself, and a lone request waits for nothing, unless the version wants it (`BatchLimits.wait_ms`).
Requests fit together when all sizes but the first, the datatypes and the outputs are the same.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from skyhold import error_codes
from skyhold.errors import Cancelled, InvalidInput, QuotaExceeded, SkyholdError, Unavailable
from skyhold.serving.declaration import BatchLimits
from skyhold.serving.runtimes.runtime import LoadedModel
from skyhold.serving.tensor import Array

QUEUE_MAX: Final = 1000
"""Requests that wait for a model; more are refused."""
Outputs = dict[str, Array]


@dataclass(slots=True)
class _Job:
    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]
    give_up_s: float
    """On the monotonic clock."""
    key: object
    rows: int
    future: Future[Outputs] = field(default_factory=Future)


class Batcher:
    """Runs `model` in a thread of its own until `close`."""

    def __init__(
        self,
        model: LoadedModel,
        limits: BatchLimits,
        *,
        queue_max: int = QUEUE_MAX,
        observe: Callable[[int, float], None] = lambda _rows, _seconds: None,
    ) -> None:
        self._model, self._limits, self._queue_max, self._observe = model, limits, queue_max, observe
        self._is_batched = model.signature.is_batched and limits.rows_max > 1
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="skyhold-model", daemon=True)
        self._thread.start()

    def submit(self, inputs: Mapping[str, Array], outputs: tuple[str, ...], *, give_up_s: float) -> Future[Outputs]:
        """Queue a request whose inputs fit the signature. Raises `QuotaExceeded` where too many wait, and
        `Unavailable` after `close`. The future raises `Cancelled` for one that was not begun by `give_up_s`."""
        key: object = None
        rows = 1
        if self._is_batched:
            key = (outputs, *((name, array.dtype, array.shape[1:]) for name, array in inputs.items()))
            rows = next(iter(inputs.values())).shape[0]
        job = _Job(inputs, outputs, give_up_s, key, rows)
        with self._changed:
            if self._is_closed:
                raise Unavailable("The model is being unloaded", code=error_codes.MODEL_NOT_READY)
            if len(self._jobs) >= self._queue_max:
                raise QuotaExceeded(
                    f"{self._queue_max} requests wait for the model already", code=error_codes.QUEUE_FULL
                )
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Run what waits, and end. Waits for it."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()
        self._model.close()

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            if batch:
                self._answer(batch)

    def _next(self) -> list[_Job] | None:
        """The next requests to be run together; None at the end."""
        with self._changed:
            while not self._jobs:
                if self._is_closed:
                    return None
                self._changed.wait()
            if self._is_batched and self._limits.wait_ms and not self._is_closed:
                self._changed.wait_for(lambda: self._is_closed or self._fills(), self._limits.wait_ms / 1000)
            batch: list[_Job] = []
            rows, now_s = 0, time.monotonic()
            while self._jobs:
                job = self._jobs[0]
                if batch and (job.key is None or job.key != batch[0].key or rows + job.rows > self._limits.rows_max):
                    break
                self._jobs.popleft()
                if not job.future.set_running_or_notify_cancel():
                    continue
                if now_s > job.give_up_s:
                    job.future.set_exception(
                        Cancelled("The request was not begun before its deadline", code=error_codes.REQUEST_TOO_LATE)
                    )
                    continue
                batch.append(job)
                rows += job.rows
            return batch

    def _fills(self) -> bool:
        return sum(job.rows for job in self._jobs) >= self._limits.rows_max

    def _answer(self, batch: list[_Job]) -> None:
        began_s = time.perf_counter()
        try:
            answers = self._predicted(batch)
        except BaseException as error:  # noqa: BLE001 (whatever a model raises, `SystemExit` too: the thread goes on)
            if len(batch) > 1:  # one of them may be at fault
                for job in batch:
                    self._answer([job])
                return
            batch[0].future.set_exception(_translated(error))
            return
        finally:
            self._observe(sum(job.rows for job in batch), time.perf_counter() - began_s)
        for job, outputs in zip(batch, answers, strict=True):
            job.future.set_result(outputs)

    def _predicted(self, batch: list[_Job]) -> list[Outputs]:
        first = batch[0]
        if len(batch) == 1:
            return [self._model.predict(first.inputs, first.outputs)]
        inputs = {name: np.concatenate([job.inputs[name] for job in batch]) for name in first.inputs}
        outputs = self._model.predict(inputs, first.outputs)
        ends = np.cumsum([job.rows for job in batch]).tolist()
        for name, array in outputs.items():
            if array.shape[:1] != (ends[-1],):
                raise ValueError(f"the output {name!r} has the shape {array.shape} for {ends[-1]} rows")
        return [
            {name: array[end - job.rows : end] for name, array in outputs.items()}
            for job, end in zip(batch, ends, strict=True)
        ]


def _translated(error: BaseException) -> SkyholdError:
    if isinstance(error, ValueError):  # as libraries raise of values that they do not take (NaN, unknown categories)
        return InvalidInput(f"The model does not take the input: {error}"[:500], code=error_codes.INPUT_REFUSED)
    failed = SkyholdError(f"The model failed: {type(error).__name__}: {error}"[:500], code=error_codes.MODEL_FAILED)
    failed.__cause__ = error
    return failed
