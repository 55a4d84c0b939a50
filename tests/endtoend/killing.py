"""Processes that die: a child that is killed (SIGKILL) when it is about to make its n-th call to any bucket."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from skyhold.buckets.bucket import WRITE_IF_DEADLINE_S, Bucket, ObjectInfo, Tagged
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.open import open_bucket
from skyhold.store import context, founding, join_plan, opening, reconfiguring, recovering, voters
from skyhold.units import Buffer


@dataclass(frozen=True)
class Call:
    """One call that reached a bucket."""

    bucket: str
    verb: str
    key: str


class Fuse:
    """Counts the calls to all buckets, and kills this process when the n-th begins, or the first that is like this."""

    def __init__(self, kill_at: int | Callable[[Call], bool] | None = None) -> None:
        self.kill_at = kill_at
        self.calls: list[Call] = []
        self._lock = threading.Lock()

    def burn(self, bucket: str, verb: str, key: str) -> None:
        with self._lock:
            call = Call(bucket, verb, key)
            self.calls.append(call)
            if self.kill_at(call) if callable(self.kill_at) else len(self.calls) == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)


class FusedBucket(Bucket):
    """A bucket whose every call burns the fuse first."""

    def __init__(self, inner: Bucket, fuse: Fuse) -> None:
        self.name, self.url = inner.name, inner.url
        self._inner = inner
        self._fuse = fuse

    def read(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        self._fuse.burn(self.name, "read", key)
        return self._inner.read(key, start, length)

    def read_stream(
        self, key: str, start: int = 0, length: int | None = None, part_bytes: int = 4 << 20
    ) -> Iterator[Buffer]:
        self._fuse.burn(self.name, "read_stream", key)
        return self._inner.read_stream(key, start, length, part_bytes)

    def read_tagged(self, key: str, *, unless_tag: str | None = None) -> Tagged | None:
        self._fuse.burn(self.name, "read_tagged", key)
        return self._inner.read_tagged(key, unless_tag=unless_tag)

    def write(self, key: str, body: Buffer, *, md5: Callable[[], bytes] | None = None) -> str:
        self._fuse.burn(self.name, "write", key)
        return self._inner.write(key, body, md5=md5)

    def write_if(
        self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = WRITE_IF_DEADLINE_S
    ) -> str:
        self._fuse.burn(self.name, "write_if", key)
        return self._inner.write_if(key, body, expected_tag=expected_tag, deadline_s=deadline_s)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        self._fuse.burn(self.name, "list", prefix)
        return self._inner.list(prefix, after=after)

    def delete(self, key: str) -> None:
        self._fuse.burn(self.name, "delete", key)
        self._inner.delete(key)

    def close(self) -> None:
        self._inner.close()


def is_checkpoint(call: Call) -> bool:
    return call.verb == "write" and call.key.startswith("checkpoints/")


def insert_fuse(fuse: Fuse) -> None:
    """Let every bucket that this process opens from now on burn the fuse. For a child only: it stays."""

    def opened(location: BucketLocation) -> Bucket:
        return FusedBucket(open_bucket(location), fuse)

    for module in (context, founding, join_plan, opening, reconfiguring, recovering, voters):
        vars(module)["open_bucket"] = opened


@dataclass(frozen=True)
class Ended:
    """How a child ended: killed by a signal, or with the result of its action."""

    signal: int
    result: Any


def in_child(action: Callable[[], object]) -> Ended:
    """Run `action` in a forked child, which ends without Python's exit handlers; an error fails the test."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            outcome = pickle.dumps((True, action()))
        except BaseException:  # noqa: BLE001 - reported to the parent, which fails
            outcome = pickle.dumps((False, traceback.format_exc()))
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(outcome)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        outcome = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return Ended(os.WTERMSIG(status), None)
    well, result = pickle.loads(outcome)
    if not well:
        pytest.fail(f"the child failed:\n{result}")
    return Ended(0, result)
