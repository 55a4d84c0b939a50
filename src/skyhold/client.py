"""A client of servers of the Open Inference Protocol (v2) over HTTP: `skyhold serve`, Triton, MLServer.

>>> from skyhold.client import connect
>>> with connect("http://127.0.0.1:8080") as client:                              # doctest: +SKIP
...     classes = client.infer("iris", {"input": rows})["predict"]
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import quote, urlsplit

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
from skyhold.serving.rest_client_codec import decode_metadata, decode_response, encode_request
from skyhold.serving.rest_codec import HEADER_LENGTH, decode_length
from skyhold.serving.signature import TensorSpec
from skyhold.serving.tensor import Array

__all__ = ["Client", "ModelMetadata", "connect"]

RESPONSE_BYTES_MAX: Final = 256 << 20
TIMEOUT_S: Final = 30.0
_CLASSES: Final[dict[int, type[SkyholdError]]] = {
    401: PermissionDenied, 403: PermissionDenied, 404: NotFound, 413: QuotaExceeded, 429: QuotaExceeded,
    499: Cancelled, 504: Cancelled,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a server reports of a model; a size of -1 varies."""

    name: str
    versions: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def connect(url: str, *, token: str | None = None, timeout_s: float = TIMEOUT_S) -> Client:
    """A client of the server at this URL, of http or https; `token` is sent as a bearer token. No request is made yet.
    Raises `InvalidInput`."""
    return Client(url, token=token, timeout_s=timeout_s)


class Client:
    """One connection, kept open between requests; for one thread at a time. Certificates of https are verified, and
    redirects are refused, so that the token goes to no other server. `timeout_s` is for each wait for the server."""

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InvalidInput(f"{url!r} is no URL: {error}") from None
        if parts.scheme not in {"http", "https"} or not host or parts.username or parts.query or parts.fragment:
            raise InvalidInput(
                "The URL of a server is http://HOST:PORT or https://HOST:PORT, without a name, a password or a query"
            )
        if token is not None and not (token.isascii() and token.isprintable()):
            raise InvalidInput("The token has characters that an HTTP header cannot hold")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._path = parts.path.rstrip("/")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._connection = (
            http.client.HTTPSConnection(host, port, timeout=timeout_s, context=ssl.create_default_context())
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=timeout_s)
        )
        self.answered_version: str | None = None
        """The header `x-skyhold-version` of the last response."""

    def ready(self) -> bool:
        """Whether the server answers requests to every model. Raises `Unavailable` where it cannot be reached."""
        status, _, _ = self._request("GET", "/v2/health/ready")
        return status == 200

    def metadata(self, model: str) -> ModelMetadata:
        """Raises `NotFound` and other `SkyholdError`."""
        return self._metadata_of(self._answer("GET", _path(model))[0])

    def infer(
        self, model: str, inputs: Mapping[str, Array], outputs: Iterable[str] = (), *, binary: bool = True
    ) -> dict[str, Array]:
        """The outputs for these inputs; without `outputs` those that the server returns by default. `binary` sends and
        asks for binary tensor data, which a server may lack. Raises the `SkyholdError` of the answer, with the
        server's own code where it gives one."""
        body, json_bytes = encode_request(inputs, outputs, binary=binary)
        headers = {"Content-Type": "application/json"}
        if json_bytes is not None:
            headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(json_bytes)}
        answer, length = self._answer("POST", f"{_path(model)}/infer", body, headers)
        try:
            return decode_response(answer, length)
        except InvalidInput as error:
            raise self._wrong(error.message) from error

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> tuple[bytes, int | None]:
        """The body of a response with status 200, and the length of its JSON."""
        status, answer, length = self._request(method, path, body, headers)
        if status == 200:
            return answer, length
        raise _error(self.url, status, answer)

    def _request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> tuple[int, bytes, int | None]:
        was_open = self._connection.sock is not None
        try:
            return self._exchange(method, path, body, headers)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
            self._connection.close()
            if not was_open:  # else the server ended a connection that was idle
                raise self._unreachable(error) from error
        except TimeoutError as error:
            self._connection.close()
            raise Unavailable(f"The server at {self.url} did not answer in time") from error
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise self._unreachable(error) from error
        try:
            return self._exchange(method, path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise self._unreachable(error) from error

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes, int | None]:
        self._connection.request(method, self._path + path, body, {**self._headers, **headers})
        response = self._connection.getresponse()
        answer = response.read(RESPONSE_BYTES_MAX + 1)
        if len(answer) > RESPONSE_BYTES_MAX:
            self._connection.close()
            raise QuotaExceeded(f"The response of {self.url} is longer than {RESPONSE_BYTES_MAX} bytes")
        self.answered_version = response.headers.get("x-skyhold-version")
        try:
            return response.status, answer, decode_length(response.headers.get(HEADER_LENGTH))
        except InvalidInput as error:
            raise self._wrong(error.message) from error

    def _unreachable(self, error: Exception) -> Unavailable:
        return Unavailable(f"The server at {self.url} cannot be reached: {error}")

    def _wrong(self, why: str) -> Unavailable:
        return Unavailable(f"{self.url} does not answer as the protocol defines: {why}")

    def _metadata_of(self, body: bytes) -> ModelMetadata:
        try:
            return ModelMetadata(*decode_metadata(body))
        except InvalidInput as error:
            raise self._wrong(error.message) from error


def _path(model: str) -> str:
    return f"/v2/models/{quote(model, safe='')}"


def _error(url: str, status: int, body: bytes) -> SkyholdError:
    """The error of a response that is none: the class by its status, message and code as in its body."""
    if 300 <= status < 400:
        return InvalidInput(f"{url} redirects to another address, which is refused", hint="Name the address itself")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    fields = document if isinstance(document, dict) else {}
    message, code = fields.get("error"), fields.get("code")
    kind = _CLASSES.get(status, InvalidInput if status < 500 else Unavailable)
    return kind(
        message[:2000] if isinstance(message, str) else f"{url} answered with status {status}",
        code=code if isinstance(code, str) and code in vars(error_codes).values() else None,
        status=status,
    )
