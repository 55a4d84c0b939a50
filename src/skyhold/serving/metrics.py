"""The metrics of one server, for Prometheus."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from skyhold.measure import catalogue
from skyhold.measure.catalogue import Kind, Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class ModelMetrics:
    """The series of one version of a model."""

    def __init__(self, server: ServerMetrics, model: str, version: str) -> None:
        self._server, self._labels = server, (model, version)
        self.inflight = server.of(catalogue.INFERENCE_INFLIGHT).labels(model, version)
        self.ready = server.of(catalogue.MODEL_READY).labels(model, version)
        self._duration = server.of(catalogue.INFERENCE_DURATION).labels(model, version)
        self._rows = server.of(catalogue.BATCH_ROWS).labels(model, version)
        self._requests = lru_cache(64)(
            lambda code: server.of(catalogue.INFERENCE_REQUESTS).labels(model, version, str(code))
        )

    def answered(self, code: int, seconds: float) -> None:
        self._requests(code).inc()
        self._duration.observe(seconds)

    def batch(self, rows: int, _seconds: float) -> None:
        self._rows.observe(rows)

    def remove(self) -> None:
        """The version is served no more: its gauge of readiness goes; its counters stay, as counters must."""
        self._server.of(catalogue.MODEL_READY).remove(*self._labels)


class ServerMetrics:
    """A registry of its own, so that several servers of one process do not share counters."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._series = {metric.name: _series(metric, self._registry) for metric in catalogue.CATALOGUE}

    def of(self, metric: Metric) -> Any:
        return self._series[metric.name]

    def expose(self) -> bytes:
        """In the text format of Prometheus."""
        return generate_latest(self._registry)


def _series(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    if metric.kind is Kind.HISTOGRAM:
        return Histogram(metric.name, metric.meaning, metric.labels, buckets=metric.buckets, registry=registry)
    made = Counter if metric.kind is Kind.COUNTER else Gauge
    return made(metric.name, metric.meaning, metric.labels, registry=registry)
