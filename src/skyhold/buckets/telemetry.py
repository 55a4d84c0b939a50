"""The requests that this process makes to its buckets, and to nodes of etcd: counted, logged and traced, each attempt
alone.

- Counted in memory, always: `request_counts`.
- Logged by `logging` under the name `skyhold.requests`, silent until a program adds a handler. An answer is logged at
  DEBUG, a failure at INFO. A record has the fields `bucket`, `verb`, `key`, `result`, `status`, `milliseconds`,
  `body_bytes` and `attempt`.
- Traced by OpenTelemetry, as spans of kind client, where its API can be imported and a program has set up its SDK.

None of the three contains a credential, a signature or a URL, nor the text of an error.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Final, TypeVar

from skyhold.errors import Conflict, InvalidInput, NotFound, SkyholdError

T = TypeVar("T")

LATENCY_BOUNDS_S: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""The upper bounds, inclusive, of the classes of `RequestCount.by_latency`; the last class has none."""
SERIES_MAX: Final = 4096
"""The most counts that are kept, below 2 MiB of memory: past them, those of other buckets go to the bucket `OTHERS`."""
OTHERS: Final = "(others)"
OK: Final = "ok"
_MESSAGE: Final = (
    "%(bucket)s: %(verb)s %(key)s: %(result)s, %(milliseconds).1f ms, %(body_bytes)d bytes, attempt %(attempt)d"
)

logger: Final = logging.getLogger("skyhold.requests")
logger.addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class RequestCount:
    """What became of the requests of one kind. `verb` is the method of the bucket: a page of a listing is one `list`,
    each attempt to read an object as it comes one `read_stream`. For a node of etcd `bucket` is `etcd <host>:<port>`,
    and `verb` the last part of the path: `range`, `txn`, `watch` or `authenticate`. `result` is `ok` or the code of an
    error.

    `body_bytes` are the bytes of objects that were sent or received, of etcd those of its answers, `waited_s` the
    seconds that requests took in all, without the caller's between two parts, and `by_latency` how many took at most
    each of `LATENCY_BOUNDS_S`, and more than the bound before it."""

    bucket: str
    verb: str
    result: str
    count: int
    body_bytes: int
    waited_s: float
    by_latency: tuple[int, ...]

    def to_json(self) -> dict[str, object]:
        """The count as a JSON object."""
        return asdict(self)


class _Series:
    __slots__ = ("body_bytes", "by_latency", "waited_s")

    def __init__(self) -> None:
        self.body_bytes = 0
        self.waited_s = 0.0
        self.by_latency = [0] * (len(LATENCY_BOUNDS_S) + 1)


class RequestCounts:
    """Counts of requests since the process began. Thread-safe; its memory is bounded by `SERIES_MAX`."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Count from zero, as a forked child must: a thread of its parent may have held the lock."""
        self._series: dict[tuple[str, str, str], _Series] = {}
        self._lock = threading.Lock()

    def add(self, bucket: str, verb: str, result: str, body_bytes: int, waited_s: float) -> None:
        with self._lock:
            series = self._series.get((bucket, verb, result)) or self._new(bucket, verb, result)
            series.body_bytes += body_bytes
            series.waited_s += waited_s
            series.by_latency[bisect_left(LATENCY_BOUNDS_S, waited_s)] += 1

    def read(self) -> tuple[RequestCount, ...]:
        """All counts, sorted by bucket, verb and result."""
        with self._lock:
            return tuple(
                RequestCount(*key, sum(series.by_latency), series.body_bytes, series.waited_s, tuple(series.by_latency))
                for key, series in sorted(self._series.items())
            )

    def _new(self, bucket: str, verb: str, result: str) -> _Series:
        if len(self._series) >= SERIES_MAX:
            bucket = OTHERS
        return self._series.setdefault((bucket, verb, result), _Series())


_COUNTS: Final = RequestCounts()
os.register_at_fork(after_in_child=_COUNTS.begin)


def request_counts() -> tuple[RequestCount, ...]:
    """The requests that this process has made to buckets and nodes of etcd since it began, sorted by bucket, verb and
    result; buckets of one name in several stores are counted together. Each attempt counts, also one that is
    repeated."""
    return _COUNTS.read()


class Telemetry:
    """Of the requests to one bucket, or to one node of etcd. `attributes` are those of their spans."""

    def __init__(self, bucket: str, attributes: Mapping[str, str | int]) -> None:
        self.bucket: Final = bucket
        self.attributes: Final = attributes

    def begin(self, verb: str, key: str, attempt: int) -> ObservedRequest:
        """A request that is about to be made; `attempt` is its number, from 1 on. It ends by `succeed` or `fail`."""
        return ObservedRequest(self, verb, key, attempt)


class ObservedRequest:
    """One request. For one thread."""

    __slots__ = ("_attempt", "_key", "_of", "_span", "_verb", "_waited_s")

    def __init__(self, of: Telemetry, verb: str, key: str, attempt: int) -> None:
        self._of, self._verb, self._key, self._attempt = of, verb, key, attempt
        self._waited_s = 0.0
        tracer = _tracer()
        self._span = None if tracer is None else self._begin_span(tracer)

    def wait(self, ask: Callable[[], T]) -> T:
        """The result of `ask`, which waits for the store: this time counts as the request's."""
        began_s = time.perf_counter()
        try:
            return ask()
        finally:
            self._waited_s += time.perf_counter() - began_s

    def succeed(self, body_bytes: int) -> None:
        self._end(OK, None, body_bytes, logging.DEBUG)

    def fail(self, error: BaseException, body_bytes: int = 0) -> None:
        if isinstance(error, SkyholdError):
            answer = isinstance(error, NotFound | Conflict | InvalidInput)
            self._end(error.code, error.fields.get("status"), body_bytes, logging.DEBUG if answer else logging.INFO)
        else:
            self._end(type(error).__name__, None, body_bytes, logging.INFO)

    def _end(self, result: str, status: object, body_bytes: int, level: int) -> None:
        bucket, waited_s = self._of.bucket, self._waited_s
        _COUNTS.add(bucket, self._verb, result, body_bytes, waited_s)
        if logger.isEnabledFor(level):
            self._log(result, status, body_bytes, level)
        if self._span is not None:
            self._end_span(self._span, result, status, body_bytes)

    def _log(self, result: str, status: object, body_bytes: int, level: int) -> None:
        fields = {
            "bucket": self._of.bucket,
            "verb": self._verb,
            "key": self._key,
            "result": result,
            "status": status,
            "milliseconds": round(1000 * self._waited_s, 3),
            "body_bytes": body_bytes,
            "attempt": self._attempt,
        }
        logger.log(level, _MESSAGE, fields, extra=fields)

    # OpenTelemetry (https://opentelemetry.io/docs/specs/semconv/http/http-spans/, …/object-stores/s3/)

    def _begin_span(self, tracer: Any) -> Any:
        from opentelemetry.trace import SpanKind

        return tracer.start_span(
            f"{self._verb} {self._of.bucket}", kind=SpanKind.CLIENT, attributes=self._span_attributes()
        )

    def _span_attributes(self) -> dict[str, str | int]:
        attributes: dict[str, str | int] = {**self._of.attributes, "skyhold.bucket": self._of.bucket}
        attributes |= {"skyhold.verb": self._verb, "skyhold.key": self._key}
        if "aws.s3.bucket" in attributes and self._key:
            attributes["aws.s3.key"] = self._key
        if self._attempt > 1:
            attributes["http.request.resend_count"] = self._attempt - 1
        return attributes

    def _end_span(self, span: Any, result: str, status: object, body_bytes: int) -> None:
        if span.is_recording():
            sent = self._verb in {"write", "write_if"}
            span.set_attribute(f"http.{'request' if sent else 'response'}.body.size", body_bytes)
            if isinstance(status, int):
                span.set_attribute("http.response.status_code", status)
            if result != OK:
                from opentelemetry.trace import Status, StatusCode

                span.set_attribute("error.type", result)
                span.set_status(Status(StatusCode.ERROR))
        span.end()


@cache
def _tracer() -> Any:
    """The tracer of OpenTelemetry, or None where its API is not installed."""
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return trace.get_tracer("skyhold")
