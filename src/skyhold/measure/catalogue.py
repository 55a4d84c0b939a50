"""The metrics of Skyhold: the one list, of which servers expose their part."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """`name` is without the suffix `_total` of counters; the unit, if any, is its last word."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()


MODEL_LABELS: Final = ("model", "version")
DURATION_BUCKETS_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip

INFERENCE_REQUESTS: Final = Metric(
    "skyhold_inference_requests",
    Kind.COUNTER,
    (*MODEL_LABELS, "code"),
    "Inference requests that were answered, by the status of the answer.",
)
INFERENCE_DURATION: Final = Metric(
    "skyhold_inference_duration_seconds",
    Kind.HISTOGRAM,
    MODEL_LABELS,
    "Time from the whole request to its answer, queue included.",
    DURATION_BUCKETS_S,
)
INFERENCE_INFLIGHT: Final = Metric(
    "skyhold_inference_inflight", Kind.GAUGE, MODEL_LABELS, "Inference requests that are not answered yet."
)
BATCH_ROWS: Final = Metric(
    "skyhold_inference_batch_rows",
    Kind.HISTOGRAM,
    MODEL_LABELS,
    "Rows that the model was given together.",
    (1, 2, 4, 8, 16, 32, 64, 128, 256),
)
MODEL_READY: Final = Metric(
    "skyhold_model_ready", Kind.GAUGE, MODEL_LABELS, "1 for the version that answers; 0 for one that is kept warm."
)

CATALOGUE: Final = (INFERENCE_REQUESTS, INFERENCE_DURATION, INFERENCE_INFLIGHT, BATCH_ROWS, MODEL_READY)
