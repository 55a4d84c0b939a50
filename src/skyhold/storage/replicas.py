"""The replicas of objects: written to all buckets of a set at once, read from the next bucket when one fails.

A bucket that fails a write is left out for the rest of the session (its lag is reported, `sync` brings it up to
date); a bucket that fails or stalls a read is asked last from then on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar

from skyhold import error_codes
from skyhold.buckets.bucket import Bucket
from skyhold.consensus.parallel import CALLS_AT_ONCE, at_once
from skyhold.errors import NotFound, SkyholdError, Unavailable
from skyhold.storage.cancel import CHECK_INTERVAL_S, current
from skyhold.storage.replica_read import after_failures, after_silence, begin_read, no_bucket_serves
from skyhold.storage.replica_write import (
    SharedMD5,
    Written,
    is_lagging,
    not_durable,
    too_slow,
)
from skyhold.units import Buffer

T = TypeVar("T")

STALL_S: Final = 8.0
STALL_FACTOR: Final = 3.0
STALL_S_MAX: Final = 60.0
"""A read without an answer after `STALL_S`, or `STALL_FACTOR` times the longest successful one (a slow link is no
stall), is also sent to the next bucket; the first answer wins."""

READ_DEADLINE_S: Final = 120.0
"""The deadline of one read. (A range has at most 12 MiB: links slower than 100 KiB/s do not suffice.)"""

ENOUGH_WAIT_S: Final = 20.0
"""How long `wait_enough` waits for the buckets that an object was sent to before its caller tries others, too."""

CLOSE_S: Final = 5.0
"""How long `close` waits for calls in flight."""

_READERS_PER_BUCKET: Final = 2 * CALLS_AT_ONCE
"""Twice the reads that any operation has in flight, so that stalled ones do not keep others from starting."""

Enough = Callable[[frozenset[str]], bool]
"""Whether verified replicas in the buckets of these names make an object durable to the policy."""


class CopyNotes(Protocol):
    """What this machine remembers of the copies of packs; other keys are ignored."""

    def note_copy(self, bucket: str, key: str, stamp: str) -> None:
        """The copy in the bucket of this URL has been verified now, under this stamp."""

    def doubt(self, key: str) -> None:
        """Some copy has turned out damaged: none is verified any more."""


class Replicas:
    """A set of buckets that have to hold the same objects. Thread-safe; `close` ends its threads, not the buckets."""

    def __init__(
        self,
        buckets: Sequence[Bucket],
        enough: Enough,
        *,
        writers_per_bucket: int = 2,
        lagging: dict[str, SkyholdError] | None = None,
        notes: CopyNotes | None = None,
    ) -> None:
        self.buckets = {bucket.name: bucket for bucket in buckets}
        self._notes = notes
        self.enough = enough
        self.lagging: dict[str, SkyholdError] = {} if lagging is None else lagging
        self._order = list(self.buckets)
        self._changed = threading.Condition()
        self._writers = {
            name: ThreadPoolExecutor(writers_per_bucket, thread_name_prefix=f"write-{name}") for name in self.buckets
        }
        self._readers = ThreadPoolExecutor(_READERS_PER_BUCKET * max(1, len(self.buckets)), thread_name_prefix="read")
        self._longest_read_s = 0.0
        self._cancel = current()
        self._calls: set[Future[Any]] = set()
        self._stopped = False

    def stop(self) -> None:
        """Start no queued write any more; those in flight continue."""
        self._stopped = True

    def close(self) -> None:
        """End the threads. It waits for a call that hangs in a driver `CLOSE_S` at most: such a call ends at the
        timeout of its driver (every driver bounds its calls), and a process that exits earlier waits for it, as Python
        does."""
        self.stop()
        for pool in (*self._writers.values(), self._readers):
            pool.shutdown(wait=False, cancel_futures=True)
        wait(self._calls.copy(), timeout=CLOSE_S)

    def check_cancelled(self) -> None:
        """Raise `Cancelled` where the operation that these replicas were made for was."""
        if self._cancel is not None:
            self._cancel.check()

    def _begin(self, pool: ThreadPoolExecutor, call: Callable[..., T], *arguments: object) -> Future[T]:
        future = pool.submit(call, *arguments)
        self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        return future

    # ---- writing

    def begin_write(self, key: str, body: Buffer, done: Callable[[Written], None] | None = None) -> Written:
        """Start writing an object to every bucket that is not lagging; `done` is called once, when the last replica has
        been written or has failed. `body` must not change before that."""
        written = Written(key, len(body))
        with self._changed:
            written.failed.update(self.lagging)
            targets = sorted(name for name in self.buckets if name not in self.lagging)
        if not targets and done is not None:
            done(written)
        self.send(written, body, targets, done)
        return written

    def send(
        self, written: Written, body: Buffer, names: Sequence[str], done: Callable[[Written], None] | None = None
    ) -> None:
        """Start writing an object to these buckets as well."""
        with self._changed:
            written.pending.update(names)
        md5 = SharedMD5(body)
        for name in names:
            self._begin(self._writers[name], self._write_one, name, body, md5, written, done)

    def wait_settled(self, written: Written) -> None:
        """Return once the object is durable to the policy and no replica is pending; a bucket that is much slower than
        enough others is marked as lagging. Raises `Unavailable` once the object can no longer become durable."""
        with self._changed:
            while not self._is_settled(written):
                self.check_cancelled()
                self._changed.wait(CHECK_INTERVAL_S)

    def _is_settled(self, written: Written) -> bool:
        if not self.enough(frozenset(written.verified | written.pending)):
            raise not_durable(written)
        self.mark_slow(written)
        return written.pending <= self.lagging.keys() and self.enough(frozenset(written.verified))

    def wait_enough(self, written: Written) -> bool:
        """Wait until the object is durable to the policy, can no longer become so, or for `ENOUGH_WAIT_S`; returns
        whether it is."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self.enough(frozenset(written.verified))
                    or not self.enough(frozenset(written.verified | written.pending))
                ),
                ENOUGH_WAIT_S,
            )
            return self.enough(frozenset(written.verified))

    def wait_all(self, written: Written, *, timeout_s: float) -> None:
        """Return once no replica of the object is pending, or at the timeout."""
        with self._changed:
            self._changed.wait_for(lambda: not written.pending, timeout_s)

    def mark_lagging(self, name: str, reason: SkyholdError) -> None:
        """Leave a bucket out of what is still to be written in this session; `sync` brings it up to date."""
        with self._changed:
            self.lagging.setdefault(name, reason)

    def mark_slow(self, written: Written) -> None:
        """Mark as lagging the buckets that are much slower with this object than enough others."""
        with self._changed:
            if written.enough_after_s is None:
                return
            if is_lagging(time.monotonic() - written.started_s, written.enough_after_s):
                for name in sorted(written.pending):
                    self.mark_lagging(name, too_slow(name))

    def write(self, items: Sequence[tuple[str, Buffer]]) -> None:
        """Write small objects, all at once, durable to the policy when this returns; it waits for slower replicas too,
        so that every healthy bucket has the object or is marked as lagging."""
        started = [self.begin_write(key, body) for key, body in items]
        for written in started:
            self.wait_settled(written)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects that nothing needs, from the buckets that are not lagging; what one refuses stays there."""
        if not keys:
            return
        with self._changed:
            buckets = [bucket for name, bucket in self.buckets.items() if name not in self.lagging]

        def delete(of: tuple[Bucket, str]) -> None:
            with suppress(SkyholdError):
                of[0].delete(of[1])

        at_once(delete, [(bucket, key) for bucket in buckets for key in keys], "delete")

    def _write_one(
        self, name: str, body: Buffer, md5: SharedMD5, written: Written, done: Callable[[Written], None] | None
    ) -> None:
        error = self._try_write(name, body, md5, written.key)
        with self._changed:
            if error is None:
                written.verified.add(name)
                if written.enough_after_s is None and self.enough(frozenset(written.verified)):
                    written.enough_after_s = time.monotonic() - written.started_s
            else:
                written.failed[name] = error
                if not self._stopped:
                    self.lagging.setdefault(name, error)
            written.pending.discard(name)
            last = not written.pending
            self._changed.notify_all()
        if last and done is not None:
            done(written)

    def _try_write(self, name: str, body: Buffer, md5: SharedMD5, key: str) -> SkyholdError | None:
        """What prevented the write, if anything did."""
        if self._stopped:
            return Unavailable(
                f"The write of {key} was given up before it began", code=error_codes.STOPPED, bucket=name
            )
        if name in self.lagging:
            return self.lagging[name]
        try:
            self._note(self.buckets[name], key, self.buckets[name].write(key, body, md5=md5.digest))
        except SkyholdError as failure:
            return failure
        except BaseException as failure:  # noqa: BLE001  no failure of a driver may leave a push waiting for ever
            error = Unavailable(f"Bucket `{name}` failed: {failure!r}", code=error_codes.DRIVER_FAILED, bucket=name)
            error.__cause__ = failure
            return error
        return None

    def _note(self, bucket: Bucket, key: str, stamp: str) -> None:
        if self._notes is not None:
            with suppress(SkyholdError):  # a copy without a note is read back before it counts
                self._notes.note_copy(bucket.url, key, stamp)

    def doubt(self, key: str) -> None:
        """Trust no copy of this object any more that was verified earlier: one has turned out damaged."""
        if self._notes is not None:
            with suppress(SkyholdError):  # a machine whose state cannot be written still reads
                self._notes.doubt(key)

    # ---- reading

    @property
    def order(self) -> list[str]:
        """The buckets by name, in the order in which a read asks them: one that failed or stalled a read comes last."""
        with self._changed:
            return self._order.copy()

    def read(self, key: str, start: int = 0, length: int | None = None, *, only: Iterable[str] | None = None) -> Buffer:
        """Bytes of an object from the first bucket that returns them. See `first`."""
        return self.first(key, lambda bucket: bucket.read(key, start, length), only=only)

    def first(self, what: str, action: Callable[[Bucket], T], *, only: Iterable[str] | None = None) -> T:
        """The result of `action` from the first bucket that returns one, in order of trust; when a bucket stalls for
        `STALL_S` the next one is asked as well.

        `action` raises `SkyholdError` for a bucket that does not serve. If all fail with one error it is raised as
        such, different errors as `Unavailable`; but `Corrupt` where one raised that, or where all have lost it. After
        `READ_DEADLINE_S` without an answer it is `Unavailable`, however many buckets there are.
        """
        chosen = None if only is None else set(only)
        names = [name for name in self.order if chosen is None or name in chosen]
        errors: dict[str, SkyholdError] = {}
        running: dict[Future[T], str] = {}
        started_s = time.monotonic()
        step = begin_read(names, started_s, stall_s=self._stall_s(), give_up_s=started_s + READ_DEADLINE_S)
        while not step.over:
            if step.ask is not None:
                running[self._begin(self._readers, action, self.buckets[step.ask])] = step.ask
            patience_s = max(0.0, step.choice.look_again_s - time.monotonic())
            if self._cancel is not None:
                self._cancel.check()
                patience_s = min(patience_s, CHECK_INTERVAL_S)
            finished, _ = wait(running, timeout=patience_s, return_when=FIRST_COMPLETED)
            failed = {}
            for future in finished:
                name = running.pop(future)
                try:
                    result = future.result()
                except SkyholdError as error:
                    failed[name] = error
                    self._demote(name, error)
                else:
                    self._longest_read_s = max(self._longest_read_s, time.monotonic() - started_s)
                    return result
            errors |= failed
            now_s, stall_s = time.monotonic(), self._stall_s()
            if failed:
                step = after_failures(step.choice, failed, now_s, stall_s=stall_s)
            else:
                step = after_silence(step.choice, now_s, stall_s=stall_s)
            for name in step.stalled:
                self._demote(name, None)
        raise no_bucket_serves(what, names, errors)

    def _stall_s(self) -> float:
        return min(STALL_S_MAX, max(STALL_S, STALL_FACTOR * self._longest_read_s))

    def _demote(self, name: str, error: SkyholdError | None) -> None:
        if isinstance(error, NotFound):
            return  # it lacks one object; that is no reason to distrust the bucket
        with self._changed:
            if self._order[-1] != name:
                self._order.remove(name)
                self._order.append(name)
