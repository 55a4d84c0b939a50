"""The replicas of objects: written to all buckets of a set at once, read from the next bucket when one fails.

A bucket that fails a write is left out for the rest of the session (its lag is reported, `sync` brings it up to
date); a bucket that fails or stalls a read is asked last from then on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Final, TypeVar

from blake3 import blake3

from skyhold.buckets.bucket import Bucket
from skyhold.errors import Corrupt, NotFound, SkyholdError, Unavailable

Buffer = bytes | bytearray | memoryview
T = TypeVar("T")

STALL_S: Final = 8.0
"""A read that has not answered after this long is also asked of the next bucket; the first answer wins."""

READ_DEADLINE_S: Final = 120.0

Enough = Callable[[frozenset[str]], bool]
"""Whether verified replicas in the buckets of these names make an object durable to the policy."""


@dataclass(slots=True)
class Written:
    """What became of one object's replicas; grows until `pending` is empty."""

    key: str
    size_bytes: int
    verified: set[str] = field(default_factory=set)
    failed: dict[str, SkyholdError] = field(default_factory=dict)
    pending: set[str] = field(default_factory=set)


class Replicas:
    """A set of buckets that shall hold the same objects. Thread-safe; `close` ends its threads, not the buckets."""

    def __init__(self, buckets: Sequence[Bucket], enough: Enough, *, writers_per_bucket: int = 2) -> None:
        self.buckets = {bucket.name: bucket for bucket in buckets}
        self.enough = enough
        self.lagging: dict[str, SkyholdError] = {}
        self._order = list(self.buckets)
        self._changed = threading.Condition()
        self._writers = {
            name: ThreadPoolExecutor(writers_per_bucket, thread_name_prefix=f"write-{name}") for name in self.buckets
        }
        self._readers = ThreadPoolExecutor(4 * max(1, len(self.buckets)), thread_name_prefix="read")

    def close(self) -> None:
        for pool in (*self._writers.values(), self._readers):
            pool.shutdown(wait=True, cancel_futures=True)

    # ---- writing

    def begin_write(self, key: str, body: Buffer, done: Callable[[Written], None] | None = None) -> Written:
        """Start writing an object to every bucket that is not lagging; `done` is called once, when the last replica has
        been written or has failed. `body` must not change before that."""
        written = Written(key, len(body))
        with self._changed:
            written.failed.update(self.lagging)
            written.pending.update(name for name in self.buckets if name not in self.lagging)
            targets = sorted(written.pending)
        if not targets and done is not None:
            done(written)
        for name in targets:
            self._writers[name].submit(self._write_one, name, body, written, done)
        return written

    def wait_enough(self, written: Written) -> None:
        """Return once the object is durable to the policy. Raises `Unavailable` once it can no longer become so."""
        with self._changed:
            while not self.enough(frozenset(written.verified)):
                if not self.enough(frozenset(written.verified | written.pending)):
                    raise self._not_durable(written)
                self._changed.wait()

    def wait_all(self, written: Written) -> None:
        """Return once no replica of the object is pending."""
        with self._changed:
            while written.pending:
                self._changed.wait()

    def pass_over(self, name: str, reason: SkyholdError) -> None:
        """Leave a bucket out of what is still to be written in this session."""
        with self._changed:
            self.lagging.setdefault(name, reason)

    def write(self, items: Sequence[tuple[str, Buffer]]) -> None:
        """Write small objects, all at once, durable to the policy when this returns; slower replicas are waited for too,
        so that an object is in every healthy bucket or its bucket is known to lag."""
        started = [self.begin_write(key, body) for key, body in items]
        for written in started:
            self.wait_all(written)
            self.wait_enough(written)

    def _write_one(self, name: str, body: Buffer, written: Written, done: Callable[[Written], None] | None) -> None:
        error: SkyholdError | None = self.lagging.get(name)
        if error is None:
            try:
                write_verified(self.buckets[name], written.key, body)
            except SkyholdError as failure:
                error = failure
            except Exception as failure:  # noqa: BLE001  a driver's own mistake must not leave a pusher waiting for ever
                error = Unavailable(f"Bucket `{name}` failed: {failure!r}", code="driver_failed", bucket=name)
                error.__cause__ = failure
        with self._changed:
            written.pending.discard(name)
            if error is None:
                written.verified.add(name)
            else:
                written.failed[name] = error
                self.lagging.setdefault(name, error)
            last = not written.pending
            self._changed.notify_all()
        if last and done is not None:
            done(written)

    def _not_durable(self, written: Written) -> SkyholdError:
        reasons = "; ".join(f"`{name}`: {error.message}" for name, error in sorted(written.failed.items()))
        kinds = {type(error) for error in written.failed.values()}
        kind = kinds.pop() if len(kinds) == 1 else Unavailable
        return kind(
            f"Too few buckets took {written.key}; nothing was changed ({reasons})",
            code="not_durable",
            hint="Bring a bucket back, or ask for fewer copies, then run the same command again: it continues",
            buckets=sorted(written.failed),
        )

    # ---- reading

    def read(self, key: str, start: int = 0, length: int | None = None, *, only: Iterable[str] | None = None) -> Buffer:
        """Bytes of an object from the first bucket that gives them. See `first`."""
        return self.first(key, lambda bucket: bucket.read(key, start, length), only=only)

    def first(self, what: str, action: Callable[[Bucket], T], *, only: Iterable[str] | None = None) -> T:
        """The result of `action` from the first bucket that gives one, in order of trust; a bucket that stalls for
        `STALL_S` gets company by the next one.

        `action` raises `SkyholdError` for a bucket that does not serve; a `Corrupt` of all, or `NotFound` of all, is
        raised as such, anything mixed as `Unavailable` (or `Corrupt`, where one was).
        """
        names = [name for name in self._order if only is None or name in set(only)]
        errors: dict[str, SkyholdError] = {}
        running: dict[Future[T], str] = {}
        deadline = time.monotonic() + READ_DEADLINE_S
        queue = list(names)
        if len(queue) == 1:
            return action(self.buckets[queue[0]])
        while queue or running:
            if queue and (not running or len(running) < len(names)):
                name = queue.pop(0)
                running[self._readers.submit(action, self.buckets[name])] = name
            timeout = min(STALL_S if queue else READ_DEADLINE_S, deadline - time.monotonic())
            finished, _ = wait(running, timeout=max(0.0, timeout), return_when=FIRST_COMPLETED)
            for future in finished:
                name = running.pop(future)
                try:
                    return future.result()
                except SkyholdError as error:
                    errors[name] = error
                    self._demote(name, error)
            if not finished:
                if time.monotonic() >= deadline:
                    break
                for name in running.values():
                    self._demote(name, None)
        raise _no_bucket_serves(what, names, errors)

    def _demote(self, name: str, error: SkyholdError | None) -> None:
        if isinstance(error, NotFound):
            return  # it lacks one object; that is no reason to distrust the bucket
        with self._changed:
            if self._order[-1] != name:
                self._order.remove(name)
                self._order.append(name)


def write_verified(bucket: Bucket, key: str, body: Buffer) -> None:
    """Write an object and return once its stored bytes are verified: by the provider's confirmed checksum, else by
    reading them back. Raises `Corrupt` where they differ."""
    bucket.write(key, body)
    if bucket.capabilities.confirms_checksum:
        return
    hasher, length = blake3(), 0
    for part in bucket.read_stream(key):
        hasher.update(part)
        length += len(part)
    if length != len(body) or hasher.digest() != blake3(body).digest():
        raise Corrupt(
            f"Bucket `{bucket.name}` stored other bytes of {key} than were sent",
            code="stored_differently",
            hint=f"Run `skyhold bucket check {bucket.name}`",
            bucket=bucket.name,
            key=key,
        )


def _no_bucket_serves(what: str, names: Sequence[str], errors: dict[str, SkyholdError]) -> SkyholdError:
    kinds = {type(error) for error in errors.values()}
    reasons = "; ".join(f"`{name}`: {error.message}" for name, error in sorted(errors.items())) or "no answer in time"
    if len(kinds) == 1 and len(errors) == len(names):
        kind = kinds.pop()
    else:
        kind = Corrupt if Corrupt in kinds else Unavailable
    first = next(iter(errors.values()), None)
    return kind(
        f"No bucket gives {what} ({reasons})",
        code=first.code if first is not None and len({error.code for error in errors.values()}) == 1 else "no_replica",
        hint="Run `skyhold status` to see what each bucket holds, then `skyhold repair`",
        buckets=sorted(errors),
    )
