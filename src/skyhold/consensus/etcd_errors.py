"""What etcd answers, and how requests to it fail, as our errors, in one table.

The messages are those of `api/v3rpc/rpctypes/error.go`, the codes those of gRPC. What matters most is whether a write
may still take effect after it: etcd answers `request timed out` to a proposal that it then applies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Final

from urllib3 import exceptions

from skyhold import error_codes
from skyhold.consensus.no_majority import contended
from skyhold.errors import (
    Corrupt,
    InvalidInput,
    OutcomeUnknown,
    PermissionDenied,
    QuotaExceeded,
    SkyholdError,
    Unavailable,
)

PROBLEM_BYTES_MAX: Final = 200
_USER: Final = (
    "Give the user of this machine `readwrite` on the store's prefix: `etcdctl role grant-permission --prefix`"
)
_CREDENTIALS: Final = "Check user and password where the credentials reference points"
_TLS: Final = "Check `ca_file`, and `cert_file` and `key_file` where the cluster asks for a client's certificate"
_LIMIT: Final = "Start etcd with its default limits: --max-request-bytes 1572864, --max-txn-ops 128"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an answer means: the error, whether another node may do better, and whether a write may take effect yet."""

    error: type[SkyholdError]
    code: str
    hint: str
    elsewhere: bool = False
    maybe_applied: bool = False


_LATE: Final = Meaning(Unavailable, error_codes.ETCD_UNAVAILABLE, "", elsewhere=True, maybe_applied=True)
_NOT_NOW: Final = Meaning(Unavailable, error_codes.ETCD_UNAVAILABLE, "", elsewhere=True)
_BY_MESSAGE: Final = {
    "etcdserver: no leader": _NOT_NOW,  # sent before anything is proposed
    "etcdserver: too many requests": _NOT_NOW,
    "etcdserver: mvcc: database space exceeded": Meaning(
        QuotaExceeded, error_codes.ETCD_SPACE_EXCEEDED, "Compact and defragment etcd, then `etcdctl alarm disarm`"
    ),
    "etcdserver: request is too large": Meaning(QuotaExceeded, error_codes.ETCD_LIMIT, _LIMIT),
    "etcdserver: too many operations in txn request": Meaning(QuotaExceeded, error_codes.ETCD_LIMIT, _LIMIT),
    "etcdserver: authentication failed, invalid user ID or password": Meaning(
        PermissionDenied, error_codes.ETCD_CREDENTIALS_REFUSED, _CREDENTIALS
    ),
    "etcdserver: user name is empty": Meaning(PermissionDenied, error_codes.ETCD_PERMISSION_DENIED, _CREDENTIALS),
    "etcdserver: authentication is not enabled": Meaning(
        InvalidInput, error_codes.ETCD_AUTH_DISABLED, "Run `etcdctl auth enable`, or leave the user out"
    ),
}
_BY_CODE: Final = {
    1: _LATE,  # canceled
    2: _LATE,  # unknown
    4: _LATE,  # deadline exceeded
    7: Meaning(PermissionDenied, error_codes.ETCD_PERMISSION_DENIED, _USER),
    8: _NOT_NOW,  # resource exhausted
    9: _NOT_NOW,  # failed precondition: a learner, a node that was removed
    10: _LATE,  # aborted
    13: _LATE,  # internal
    14: _LATE,  # unavailable
    15: Meaning(Corrupt, error_codes.ETCD_CORRUPT, "Compare the nodes with `etcdctl endpoint hashkv --cluster`"),
    16: Meaning(PermissionDenied, error_codes.ETCD_CREDENTIALS_REFUSED, _CREDENTIALS),
}
_REFUSED: Final = Meaning(InvalidInput, error_codes.ETCD_REFUSED, "Use etcd 3.6, with which Skyhold is tested")
_NO_GATEWAY: Final = Meaning(
    InvalidInput,
    error_codes.ETCD_GATEWAY_MISSING,
    "Name etcd's client URLs, `etcds://` for TLS; its JSON gateway (--enable-grpc-gateway) is on by default",
)
_TOKEN_REFUSED: Final = frozenset({"etcdserver: invalid auth token", "etcdserver: revision of auth store is old"})


class AttemptFailed(Exception):
    """One attempt on the wire failed. `error` is raised where no other node does better."""

    def __init__(self, error: SkyholdError, *, elsewhere: bool, maybe_applied: bool) -> None:
        super().__init__(error.message)
        self.error = error
        self.elsewhere = elsewhere
        self.maybe_applied = maybe_applied


class TokenRefused(Exception):
    """The token has expired, or users were changed since: the request had no effect, and a new token is needed. `error`
    is raised where new ones are refused, too."""

    def __init__(self, endpoint: str, status: int) -> None:
        self.error = PermissionDenied(
            f"etcd node {endpoint} does not take the tokens that it gives: users may be changing",
            code=error_codes.ETCD_CREDENTIALS_REFUSED,
            hint="Try again",
            endpoint=endpoint,
            status=status,
        )
        super().__init__(self.error.message)


def refused(endpoint: str, status: int, body: bytes) -> AttemptFailed | TokenRefused:
    """What an answer that is not of status 200 means."""
    code, problem = _code_and_message(body)
    if problem in _TOKEN_REFUSED:
        return TokenRefused(endpoint, status)
    if code is not None:
        meaning = _BY_MESSAGE.get(problem) or _BY_CODE.get(code, _REFUSED)
    else:  # not of the gateway: of a proxy, a load balancer, or of a port of something else
        meaning = _LATE if status >= 500 else _NO_GATEWAY
    return _failed(meaning, endpoint, f"answered {status}: {problem}", status=status)


def broken(endpoint: str, error: Exception) -> AttemptFailed:
    """What it means that the connection failed. Only a connection that was never made is known to have sent nothing."""
    if isinstance(error, exceptions.SSLError):
        # Another node's certificate may be in order; where none is, it is a matter of credentials.
        meaning = Meaning(PermissionDenied, error_codes.ETCD_TLS_FAILED, _TLS, elsewhere=True, maybe_applied=True)
        return _failed(meaning, endpoint, f"failed in TLS: {error}")
    unsent = isinstance(error, exceptions.NewConnectionError | exceptions.ConnectTimeoutError)
    problem = "cannot be reached" if unsent else "did not answer in time"
    if isinstance(error, exceptions.ProtocolError):
        problem = "broke the connection"
    if isinstance(error, JSONDecodeError):
        problem = "sent an answer that is not JSON"
    return _failed(_NOT_NOW if unsent else _LATE, endpoint, problem)


def no_answer(key: str, errors: Mapping[str, SkyholdError]) -> SkyholdError:
    """The error of an operation without effect that did not end in time. `errors`: the last error of each node."""
    if not errors:
        return contended(key, sent=False)
    reasons = "; ".join(error.message for _, error in sorted(errors.items()))
    fields: dict[str, object] = {"key": key, "endpoints": sorted(errors)}
    if all(isinstance(error, PermissionDenied) for error in errors.values()):
        first = next(iter(errors.values()))
        return PermissionDenied(
            f"No node of etcd accepts the credentials ({reasons}); nothing was changed",
            code=first.code,
            hint=first.hint,
            **fields,
        )
    return Unavailable(
        f"Register {key} needs a majority of the etcd cluster, and no node answered for one ({reasons}); "
        "nothing was changed",
        code=error_codes.ETCD_UNAVAILABLE,
        hint="Check the nodes with `etcdctl endpoint health`, and that the URL begins with etcds:// where they "
        "speak TLS; what was pulled before stays readable",
        **fields,
    )


def outcome_unknown(key: str, why: SkyholdError) -> OutcomeUnknown:
    """The error of a change that was sent, and whose outcome no node can report now."""
    return OutcomeUnknown(
        f"A change of register {key} was sent to etcd, and may or may not take effect: {why.message}",
        code=error_codes.ETCD_OUTCOME_UNKNOWN,
        hint="Run the command again when etcd answers: what took effect is not done twice",
        key=key,
        cause=why.code,
    )


def unsettled(key: str, why: SkyholdError) -> OutcomeUnknown:
    """The error of an outcome that was asked for and cannot be determined now."""
    return OutcomeUnknown(
        f"What became of a change of register {key} cannot be settled now: {why.message}",
        code=error_codes.ETCD_OUTCOME_UNKNOWN,
        hint="Ask again when etcd answers",
        key=key,
        cause=why.code,
    )


def _failed(meaning: Meaning, endpoint: str, problem: str, **fields: object) -> AttemptFailed:
    error = meaning.error(
        f"etcd node {endpoint} {problem}", code=meaning.code, hint=meaning.hint or None, endpoint=endpoint, **fields
    )
    return AttemptFailed(error, elsewhere=meaning.elsewhere, maybe_applied=meaning.maybe_applied)


def _code_and_message(body: bytes) -> tuple[int | None, str]:
    try:
        answer = json.loads(body)
        return int(answer["code"]), str(answer["message"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None, body[:PROBLEM_BYTES_MAX].decode("utf-8", "replace").strip()


TRANSPORT_ERRORS: Final = (exceptions.HTTPError, OSError)
"""What urllib3 raises where a request fails on the way."""
