"""The HTTP side of the server: the Open Inference Protocol v2 over REST, and metrics.

Specification: `kserve/open-inference-protocol`, `inference_rest.md`; the repository extension of Triton for index, load
and unload. An error is `{"error": message, "code": code}`.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from skyhold import error_codes
from skyhold.errors import (
    Cancelled,
    InvalidInput,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    SkyholdError,
    Unavailable,
)
from skyhold.serving.metrics import CONTENT_TYPE
from skyhold.serving.models import Models, Served
from skyhold.serving.rest_codec import HEADER_LENGTH, decode_length, decode_request, encode_response
from skyhold.serving.tensor import Tensor

_log = logging.getLogger("skyhold.serving")
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(dict[str, Any])

BODY_BYTES_MAX: Final = 64 << 20
TIMEOUT_S: Final = 30.0
HEADERS_S: Final = 15.0
BODY_S: Final = 60.0
RETRY_AFTER_S: Final = 1
REQUEST_ID: Final = "x-request-id"
REQUEST_ID_CHARACTERS_MAX: Final = 128
EXTENSIONS: Final = ("model_repository", "binary_tensor_data")
_STATUSES: Final[tuple[tuple[type[SkyholdError], int], ...]] = (
    (InvalidInput, 400),
    (PermissionDenied, 403),
    (NotFound, 404),
    (QuotaExceeded, 429),
    (Unavailable, 503),
    (Cancelled, 504),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """`body_bytes_max` of a request; `timeout_s` from its arrival to its answer; `headers_s` and `body_s`
    for a client to send the headers and the body."""

    body_bytes_max: int = BODY_BYTES_MAX
    timeout_s: float = TIMEOUT_S
    headers_s: float = HEADERS_S
    body_s: float = BODY_S


class _TooLong(Exception):
    pass


class _TooSlow(Exception):
    pass


class InferenceApp:
    """Builds the ASGI application over `models`."""

    def __init__(self, models: Models, limits: Limits = Limits()) -> None:
        self._models, self._limits = models, limits

    def application(self) -> Starlette:
        model = "/v2/models/{model}"
        of_version = model + "/versions/{version}"
        routes = [
            Route("/v2", self._answering(self._server)),
            Route("/v2/", self._answering(self._server)),
            Route("/v2/health/live", self._answering(self._live)),
            Route("/v2/health/ready", self._answering(self._ready)),
            Route("/v2/repository/index", self._answering(self._index), methods=["POST"]),
            Route("/v2/repository/models/{model}/load", self._answering(self._load), methods=["POST"]),
            Route("/v2/repository/models/{model}/unload", self._answering(self._unload), methods=["POST"]),
            Route("/metrics", self._metrics),
        ]
        for prefix in (of_version, model):
            routes += [
                Route(prefix, self._answering(self._model)),
                Route(prefix + "/ready", self._answering(self._model_ready)),
                Route(prefix + "/infer", self._answering(self._infer), methods=["POST"]),
            ]
        handlers: dict[Any, Any] = {404: _unknown_path, 405: _wrong_method}
        return Starlette(routes=routes, exception_handlers=handlers)

    def _answering(self, answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                response = await answer(request)
            except SkyholdError as error:
                response = _error_response(error)
            except _TooLong:
                limit = self._limits.body_bytes_max
                response = _json(
                    {"error": f"The body is longer than {limit} bytes", "code": error_codes.BODY_TOO_LONG}, 413
                )
            except _TooSlow:
                limit_s = self._limits.body_s
                response = _json(
                    {"error": f"The body took longer than {limit_s} s", "code": error_codes.BODY_TOO_SLOW}, 408
                )
                response.headers["connection"] = "close"
            except ClientDisconnect:
                response = Response(status_code=499)
            except Exception:  # noqa: BLE001 (no defect of ours ends a connection without an answer)
                _log.exception("an error of the server itself, at %s", request.url.path)
                response = _json({"error": "The server failed; its log has the reason", "code": error_codes.ERROR}, 500)
            response.headers[REQUEST_ID] = _request_id(request)
            return response

        return endpoint

    async def _server(self, _request: Request) -> Response:
        return _json({"name": "skyhold", "version": version("skyhold"), "extensions": EXTENSIONS})

    async def _live(self, _request: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, _request: Request) -> Response:
        ready = self._models.is_ready
        return _json({"ready": ready}, 200 if ready else 503)

    async def _metrics(self, _request: Request) -> Response:
        return Response(self._models.metrics.expose(), media_type=CONTENT_TYPE)

    async def _model(self, request: Request) -> Response:
        served = self._served(request)
        model = served.model
        answer = {
            "name": model.origin.name,
            "versions": [model.origin.version],
            "platform": f"skyhold_{model.runtime}",
            "inputs": [spec.to_json() for spec in model.signature.inputs],
            "outputs": [spec.to_json() for spec in model.signature.outputs],
        }
        return _json(answer, served=served)

    async def _model_ready(self, request: Request) -> Response:
        served = self._served(request)
        return _json({"name": served.model.origin.name, "ready": True}, served=served)

    async def _infer(self, request: Request) -> Response:
        began_s = time.perf_counter()
        if request.headers.get("content-encoding", "identity") != "identity":
            raise InvalidInput(
                "The body is compressed, which is not accepted; send it as it is", code=error_codes.INVALID_INFERENCE
            )
        self._served(request)  # a body for nobody is not read
        body = await self._body(request)
        served = self._served(request)
        code = 500
        served.metrics.inflight.inc()
        try:
            response = await self._inferred(request, served, body)
            code = response.status_code
        except SkyholdError as error:
            response = _error_response(error)
            code = response.status_code
        except asyncio.CancelledError:
            code = 499
            raise
        finally:
            served.metrics.inflight.dec()
            served.metrics.answered(code, time.perf_counter() - began_s)
        response.headers["x-skyhold-version"] = served.model.origin.version
        return response

    async def _inferred(self, request: Request, served: Served, body: bytes) -> Response:
        asked = decode_request(body, decode_length(request.headers.get(HEADER_LENGTH)))
        arrays = {tensor.name: tensor.array for tensor in asked.inputs}
        timeout_s = self._timeout_s(asked.parameters.get("timeout"))
        future = served.model.submit(arrays, list(asked.outputs) or None, timeout_s=timeout_s)
        try:
            outputs = await asyncio.wait_for(asyncio.wrap_future(future), timeout_s)
        except TimeoutError:  # the model may hang: what waits for it is answered all the same
            raise Cancelled(
                f"The request was not answered within {timeout_s:g} s", code=error_codes.REQUEST_TOO_LATE
            ) from None
        origin = served.model.origin
        tensors = [Tensor(name, array) for name, array in outputs.items()]
        parts, json_bytes = encode_response(origin.name, origin.version, asked, tensors)
        if json_bytes is None:
            return Response(parts[0], media_type="application/json")
        headers = {HEADER_LENGTH: str(json_bytes)}
        return Response(b"".join(parts), media_type="application/octet-stream", headers=headers)

    def _timeout_s(self, timeout_us: object) -> float:
        """The parameter `timeout` is in microseconds, as Triton has it; the server's own bounds it."""
        if timeout_us is None:
            return self._limits.timeout_s
        if type(timeout_us) is not int or timeout_us <= 0:
            raise InvalidInput(
                f"The parameter timeout is {timeout_us!r:.100}, not a number of microseconds",
                code=error_codes.INVALID_INFERENCE,
            )
        return min(timeout_us / 1e6, self._limits.timeout_s)

    async def _index(self, request: Request) -> Response:
        body = await self._body(request)
        ready_only = False
        if body:
            try:
                ready_only = _decoder.decode(body).get("ready") is True
            except (msgspec.MsgspecError, RecursionError) as error:
                raise InvalidInput(f"The request is not valid: {error}", code=error_codes.INVALID_INFERENCE) from None
        return _json(self._models.index(ready_only=ready_only))

    async def _load(self, request: Request) -> Response:
        await asyncio.to_thread(self._models.load, request.path_params["model"])
        return _json({})

    async def _unload(self, request: Request) -> Response:
        await asyncio.to_thread(self._models.unload, request.path_params["model"])
        return _json({})

    def _served(self, request: Request) -> Served:
        return self._models.find(request.path_params["model"], request.path_params.get("version"))

    async def _body(self, request: Request) -> bytes:
        limit = self._limits.body_bytes_max
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > limit:
            raise _TooLong
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._limits.body_s):
                async for part in request.stream():
                    size += len(part)
                    if size > limit:
                        raise _TooLong
                    parts.append(part)
        except TimeoutError:
            raise _TooSlow from None
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _json(answer: object, status: int = 200, *, served: Served | None = None) -> Response:
    headers = {} if served is None else {"x-skyhold-version": served.model.origin.version}
    return Response(_encoder.encode(answer), status, headers, "application/json")


def _error_response(error: SkyholdError) -> Response:
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    if status >= 500:
        _log.warning("%s: %s", error.code, error.message, exc_info=error.__cause__)
    message = error.message if error.hint is None else f"{error.message}. {error.hint}"
    response = _json({"error": message, "code": error.code}, status)
    if isinstance(error, QuotaExceeded):
        response.headers["retry-after"] = str(RETRY_AFTER_S)
    return response


def _request_id(request: Request) -> str:
    """The client's own where it has a sane one."""
    given = request.headers.get(REQUEST_ID, "")
    if given.isascii() and given.isprintable() and 0 < len(given) <= REQUEST_ID_CHARACTERS_MAX:
        return given
    return uuid.uuid4().hex


async def _unknown_path(request: Request, _error: Exception) -> Response:
    return _json({"error": f"There is no path {request.url.path!r:.200}", "code": error_codes.NOT_FOUND}, 404)


async def _wrong_method(request: Request, error: Any) -> Response:
    response = _json({"error": f"{request.method} is no method of this path", "code": error_codes.INVALID_INPUT}, 405)
    response.headers.update(error.headers or {})
    return response
