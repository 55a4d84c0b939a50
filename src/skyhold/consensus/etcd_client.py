"""A client of etcd over its JSON gateway: endpoints, TLS, tokens, fail-over. It knows nothing of registers.

Each attempt is one request on the wire, with a deadline that the server gets too. Nothing here repeats a write: the
caller learns whether it may have taken effect, and decides. See docs/decisions/013-etcd.md for why it is the gateway.
Each attempt is reported to `telemetry`, as those at buckets are.
"""

from __future__ import annotations

import json
import random
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import Final, TypeVar

import urllib3

from skyhold import error_codes
from skyhold.buckets.in_time_pools import InTimePool, InTimeTlsPool
from skyhold.buckets.telemetry import Telemetry
from skyhold.consensus.etcd_credentials import EtcdCredentials
from skyhold.consensus.etcd_errors import (
    TRANSPORT_ERRORS,
    AttemptFailed,
    TokenRefused,
    broken,
    no_answer,
    refused,
)
from skyhold.consensus.etcd_gateway import AUTHENTICATE, WATCH, Json, encode, watch
from skyhold.errors import PermissionDenied, SkyholdError

T = TypeVar("T")

DEADLINE_S: Final = 20.0
ATTEMPT_S: Final = 4.0
CONNECT_S_MAX: Final = 2.0
PAUSE_S_MIN: Final = 0.05
PAUSE_S_MAX: Final = 1.0
WATCH_PAUSE_S: Final = 0.25
CONNECTIONS_KEPT: Final = 16
REPLY_BYTES_MAX: Final = 64 << 20
"""The most that a node answers: a list of all registers has some MiB."""
PART_BYTES: Final = 64 << 10
_TOKENS_TRIED: Final = 2


class EtcdClient:
    """The nodes at `endpoints` (`host:port`), tried in this order; one that answers is kept. Thread-safe.

    A request gets `attempt_s` at one node, an operation about `deadline_s` in all. `tls` is None for plain HTTP.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        credentials: EtcdCredentials,
        *,
        tls: ssl.SSLContext | None,
        attempt_s: float = ATTEMPT_S,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self.endpoints = tuple(endpoints)
        self.attempt_s = attempt_s
        self.deadline_s = deadline_s
        self._credentials = credentials
        self._tls = tls
        self._preferred = 0
        self._token: str | None = None
        self._pools = {endpoint: self._pool(endpoint) for endpoint in self.endpoints}
        self._telemetry = {endpoint: _telemetry_of(endpoint) for endpoint in self.endpoints}

    def _pool(self, endpoint: str) -> urllib3.HTTPConnectionPool:
        host, _, port = endpoint.rpartition(":")
        if self._tls is None:
            return InTimePool(host.strip("[]"), int(port), maxsize=CONNECTIONS_KEPT)
        return InTimeTlsPool(host.strip("[]"), int(port), maxsize=CONNECTIONS_KEPT, ssl_context=self._tls)

    @property
    def preferred(self) -> str:
        """The node that is asked next."""
        return self.endpoints[self._preferred]

    def avoid(self, endpoint: str) -> None:
        """Ask another node next, unless another thread has switched already."""
        if self.preferred == endpoint:
            self._preferred = (self._preferred + 1) % len(self.endpoints)

    def post(
        self, endpoint: str, path: str, request: Mapping[str, object], timeout_s: float, key: str = "", attempt: int = 1
    ) -> Json:
        """One attempt at one node, with a token where there is a user. Raises `AttemptFailed`. `key` of the register
        and the number of the attempt are for telemetry."""
        body = encode(request)
        for _ in range(_TOKENS_TRIED):
            token = self._token
            if token is None and self._credentials.user is not None:
                token = self._authenticate(endpoint, timeout_s)
            try:
                return self._observed(
                    endpoint, path, key, attempt, partial(self._post, endpoint, path, body, timeout_s, token)
                )
            except TokenRefused as failed:
                refusal = failed
                if self._token == token:  # else another thread has a new one already
                    self._token = None
        raise AttemptFailed(refusal.error, elsewhere=True, maybe_applied=False)

    def _authenticate(self, endpoint: str, timeout_s: float) -> str:
        account = {"name": self._credentials.user, "password": self._credentials.password}
        ask = partial(self._post, endpoint, AUTHENTICATE, encode(account), timeout_s, None)
        try:
            token = str(self._observed(endpoint, AUTHENTICATE, "", 1, ask)["token"])
        except AttemptFailed as failed:  # what it was needed for was not sent yet
            raise AttemptFailed(failed.error, elsewhere=failed.elsewhere, maybe_applied=False) from failed
        self._token = token
        return token

    def _observed(self, endpoint: str, path: str, key: str, attempt: int, ask: Callable[[], tuple[T, int]]) -> T:
        """The answer to one request, which comes with its size in bytes."""
        request = self._telemetry[endpoint].begin(path.rpartition("/")[2], key, attempt)
        try:
            answer, size_bytes = request.wait(ask)
        except (AttemptFailed, TokenRefused) as failed:
            request.fail(failed.error)
            raise
        except BaseException as error:
            request.fail(error)
            raise
        request.succeed(size_bytes)
        return answer

    def _send(
        self, endpoint: str, path: str, body: bytes, timeout_s: float, headers: Mapping[str, str]
    ) -> urllib3.BaseHTTPResponse:
        return self._pools[endpoint].urlopen(
            "POST",
            path,
            body=body,
            headers=headers,
            timeout=_timeout(timeout_s),
            retries=False,
            redirect=False,
            preload_content=False,
        )

    def _post(self, endpoint: str, path: str, body: bytes, timeout_s: float, token: str | None) -> tuple[Json, int]:
        end_s = time.monotonic() + timeout_s
        try:
            response = self._send(endpoint, path, body, timeout_s, _headers(timeout_s, token))
            answer = _taken(response, end_s)
            if response.status != 200:
                raise refused(endpoint, response.status, answer)
            return _object(answer), len(answer)
        except (*TRANSPORT_ERRORS, json.JSONDecodeError) as error:
            raise broken(endpoint, error) from error

    def wait_for_change(self, key: str, name: str, from_revision: int, timeout_s: float) -> None:
        """Return when the key `name` of etcd, that of a register, changes at or after a revision of etcd, or after
        `timeout_s`.

        Returns early, after a short pause, where the stream ends for another reason: its history was compacted, the
        node went away, the token ran out. The caller reads again, so the stream need not be trusted.
        """
        end_s = time.monotonic() + timeout_s
        endpoint, changed = self.preferred, False
        with suppress(AttemptFailed, TokenRefused):
            changed = self._observed(
                endpoint, WATCH, key, 1, partial(self._watch, endpoint, encode(watch(name, from_revision)), timeout_s)
            )
        if not changed:
            time.sleep(max(0.0, min(WATCH_PAUSE_S, end_s - time.monotonic())))

    def _watch(self, endpoint: str, body: bytes, timeout_s: float) -> tuple[bool, int]:
        """Whether the stream of a watch reported a change."""
        try:
            response = self._send(endpoint, WATCH, body, timeout_s, _headers(None, self._token))
            with closing(response):  # not back into the pool: the stream has no end
                if response.status != 200:
                    raise refused(endpoint, response.status, _taken(response, time.monotonic() + timeout_s))
                return _reported_change(response), 0
        except TRANSPORT_ERRORS as error:
            raise broken(endpoint, error) from error

    def call(self, key: str) -> Call:
        """Begin an operation on a register."""
        return Call(self, key)

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()


class Call:
    """One operation: when it has to end, and the last error of each node."""

    def __init__(self, client: EtcdClient, key: str) -> None:
        self._client = client
        self._key = key
        self._end_s = time.monotonic() + client.deadline_s
        self._errors: dict[str, SkyholdError] = {}
        self._failures = 0
        self._number = 1

    def ask(self, path: str, request: Mapping[str, object]) -> Json:
        """Read: ask one node after the other until one answers. Raises as `attempt` does at the end."""
        while True:
            try:
                return self.attempt(path, request)
            except AttemptFailed:
                continue

    def attempt(self, path: str, request: Mapping[str, object]) -> Json:
        """One attempt on the wire, at the node that answered last.

        Raises `AttemptFailed` where another attempt makes sense, and knows whether this one may take effect yet; else,
        and when the operation's time is over, the error of the operation, without any effect of this attempt.
        """
        remaining_s = self._end_s - time.monotonic()
        if remaining_s <= 0 or self._nobody_lets_us_in():
            raise no_answer(self._key, self._errors)
        endpoint = self._client.preferred
        timeout_s, number = min(self._client.attempt_s, remaining_s), self._number
        self._number = 1
        try:
            return self._client.post(endpoint, path, request, timeout_s, self._key, number)
        except AttemptFailed as failed:
            self._number = number + 1
            if not failed.elsewhere:
                raise failed.error from failed
            self._errors[endpoint] = failed.error
            self._client.avoid(endpoint)
            self._pause()
            raise

    def _nobody_lets_us_in(self) -> bool:
        """Trying on until the deadline helps where nodes are away, but not where all of them refuse us. Twice, since a
        node that is just going down breaks a connection by TLS as one does that refuses a certificate."""
        denied = sum(isinstance(error, PermissionDenied) for error in self._errors.values())
        return denied == len(self._client.endpoints) and self._failures >= 2 * denied

    def _pause(self) -> None:
        """After each round over all nodes, longer each time: an election takes about a second."""
        self._failures += 1
        rounds, rest = divmod(self._failures, len(self._client.endpoints))
        if rest == 0:
            longest_s = min(PAUSE_S_MAX, PAUSE_S_MIN * 2**rounds)
            time.sleep(max(0.0, min(random.uniform(PAUSE_S_MIN, longest_s), self._end_s - time.monotonic())))  # noqa: S311


def tls_context(ca_file: str | None, credentials: EtcdCredentials) -> ssl.SSLContext:
    """For TLS with these certificates; without a `ca_file`, those that this machine trusts. Raises `PermissionDenied`
    code `credentials_missing` for a file that can't be used."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
        if credentials.cert_file is not None:
            context.load_cert_chain(credentials.cert_file, credentials.key_file)
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(file for file in (ca_file, credentials.cert_file, credentials.key_file) if file)
        raise PermissionDenied(
            f"The certificates for etcd cannot be used ({files}): {error.strerror or error}",
            code=error_codes.CREDENTIALS_MISSING,
            hint="Give PEM files that this user can read: `ca_file`, and `cert_file` with its `key_file`",
        ) from error
    return context


def _headers(timeout_s: float | None, token: str | None) -> dict[str, str]:
    # A node without a leader reports that at once, instead of letting the request wait.
    headers = {"Content-Type": "application/json", "Grpc-Metadata-hasleader": "true"}
    if timeout_s is not None:
        headers["Grpc-Timeout"] = f"{max(1, round(timeout_s * 1000))}m"
    if token is not None:
        headers["Authorization"] = token
    return headers


def _object(body: bytes) -> Json:
    try:
        answer = json.loads(body)
    except (UnicodeDecodeError, RecursionError) as error:
        raise json.JSONDecodeError("it cannot be read", "", 0) from error
    if not isinstance(answer, dict):
        raise json.JSONDecodeError("an object is expected", "", 0)
    return answer


def _taken(response: urllib3.BaseHTTPResponse, end_s: float) -> bytes:
    """A reply's body, as far as `REPLY_BYTES_MAX` and by `end_s`: the limits of `urllib3` are for each wait alone."""
    body = bytearray()
    while part := response.read1(PART_BYTES):  # what it raises, it raises with the connection closed
        body += part
        if len(body) > REPLY_BYTES_MAX or time.monotonic() > end_s:
            response.close()
            raise urllib3.exceptions.ProtocolError("the reply is too large or too slow")
    response.release_conn()
    return bytes(body)


def _timeout(read_s: float) -> urllib3.Timeout:
    return urllib3.Timeout(connect=min(CONNECT_S_MAX, read_s), read=read_s)


def _reported_change(response: urllib3.BaseHTTPResponse) -> bool:
    """Whether anything came after the first line, which reports that the watch was made (or was refused)."""
    received = b""
    with suppress(urllib3.exceptions.ReadTimeoutError):  # nothing has changed
        for part in response.stream():
            received += part
            if received.partition(b"\n")[2]:
                return True
            if len(received) > PART_BYTES:
                return False
    return False


def _telemetry_of(endpoint: str) -> Telemetry:
    host, _, port = endpoint.rpartition(":")
    return Telemetry(f"etcd {endpoint}", {"server.address": host.strip("[]"), "server.port": int(port)})
