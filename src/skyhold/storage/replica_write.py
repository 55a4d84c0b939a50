"""Writing one object to several buckets: the outcome of each replica, and when to stop waiting for a bucket."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field
from typing import Final

from skyhold import error_codes
from skyhold.errors import PermissionDenied, SkyholdError, Unavailable, reasons_of
from skyhold.units import Buffer

LAGGING_AFTER_S: Final = 20.0
LAGGING_FACTOR: Final = 3.0
"""A bucket is lagging if it has not finished a write after `LAGGING_AFTER_S` plus `LAGGING_FACTOR` times the time that
enough other buckets took: the uplink that all of them share may be slow, a single bucket may not."""


@dataclass(slots=True)
class Written:
    """The outcome of one object's replicas; grows until `pending` is empty."""

    key: str
    size_bytes: int
    verified: set[str] = field(default_factory=set)
    failed: dict[str, SkyholdError] = field(default_factory=dict)
    pending: set[str] = field(default_factory=set)
    started_s: float = field(default_factory=time.monotonic)
    enough_after_s: float | None = None
    """How long it took until the verified replicas sufficed."""


def is_lagging(elapsed_s: float, enough_after_s: float) -> bool:
    """Whether a write that still runs after `elapsed_s` is lagging, where others sufficed after `enough_after_s`."""
    return elapsed_s > LAGGING_AFTER_S + LAGGING_FACTOR * enough_after_s


def too_slow(name: str) -> SkyholdError:
    return Unavailable(
        f"Bucket `{name}` is too slow; it is lagging",
        code=error_codes.BUCKET_SLOW,
        hint="Run `skyhold sync` to bring it up to date",
        bucket=name,
    )


class SharedMD5:
    """The MD5 of a body that goes to several buckets, computed once, when it is asked for first."""

    def __init__(self, body: Buffer) -> None:
        self._body = body
        self._lock = threading.Lock()
        self._digest: bytes | None = None

    def digest(self) -> bytes:
        with self._lock:
            if self._digest is None:
                self._digest = hashlib.md5(self._body, usedforsecurity=False).digest()
            return self._digest


def not_durable(written: Written) -> SkyholdError:
    """The error of an object that cannot become durable to its policy, with the error of each bucket; of their class
    where they agree."""
    reasons = reasons_of(written.failed)
    reasons = reasons or "the policy asks for more buckets than there are"
    kinds = {type(error) for error in written.failed.values()}
    kind = kinds.pop() if len(kinds) == 1 else Unavailable
    hint = "Bring a bucket back, or ask for fewer copies, then run the same command again: it continues"
    if issubclass(kind, PermissionDenied):  # they answer, and their messages state what they need
        hint = "; ".join(sorted({error.hint for error in written.failed.values() if error.hint})) or hint
    return kind(
        f"Too few buckets took {written.key}; nothing was changed ({reasons})",
        code=error_codes.NOT_DURABLE,
        hint=hint,
        buckets=sorted(written.failed),
    )
