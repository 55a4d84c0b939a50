"""Keys and buckets for the tests of checkpoints."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from skyhold.buckets.bucket import WRITE_IF_DEADLINE_S, Bucket, Tagged
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.memory import MemoryBucket
from skyhold.codec.frame import DataKey, FrameKeys
from skyhold.consensus.buckets import BucketRegisters
from skyhold.consensus.checkpoint import CheckpointedRegisters, Holders
from skyhold.consensus.framed_registers import FramedRegisters
from skyhold.consensus.sqlite import SqliteRegisters
from skyhold.consensus.voter import Voter
from skyhold.errors import Unavailable
from skyhold.units import Buffer

KEYS = FrameKeys({0: DataKey(b"m" * 32, b"s" * 32)}, 0, sealed=False)
NAME_KEY = b"n" * 32
MACHINE = "a1" * 16


class FlakyBucket(MemoryBucket):
    """A bucket that can be set to be unreachable, and to call something before each write."""

    away = False
    before_write: Callable[[], object] | None = None
    epoch = 0
    machine: str | None = None

    def write(self, key: str, body: Buffer, *, md5: Callable[[], bytes] | None = None) -> str:
        self._check()
        if self.before_write:
            self.before_write()
        return super().write(key, body, md5=md5)

    def read(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        self._check()
        return super().read(key, start, length)

    def list(self, prefix: str = "", *, after: str = ""):  # type: ignore[no-untyped-def]
        self._check()
        return super().list(prefix, after=after)

    def read_tagged(self, key: str, *, unless_tag: str | None = None) -> Tagged | None:
        self._check()
        return super().read_tagged(key, unless_tag=unless_tag)

    def write_if(
        self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = WRITE_IF_DEADLINE_S
    ) -> str:
        self._check()
        return super().write_if(key, body, expected_tag=expected_tag, deadline_s=deadline_s)

    def _check(self) -> None:
        if self.away:
            raise Unavailable(f"bucket {self.name} is away")


def new_buckets(count: int = 3) -> list[FlakyBucket]:
    run = secrets.token_hex(8)
    return [
        FlakyBucket(BucketLocation(name=f"cloud-{n}", url=f"memory://{run}-{n}", provider="memory"))
        for n in range(count)
    ]


def bucket_registers(buckets: Sequence[Bucket], *, epoch: int = 1, writer: str = "test") -> BucketRegisters:
    """An engine on these buckets, as another process would have it."""
    voters = [Voter(bucket, f"{number:032x}", verify=lambda: None) for number, bucket in enumerate(buckets)]
    return BucketRegisters(voters, epoch, KEYS, writer=writer, deadline_s=20)


def wait_until(true: Callable[[], bool], limit_s: float = 20.0) -> None:
    """Wait for what another thread does."""
    give_up_s = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < give_up_s, "it did not happen in time"
        time.sleep(0.005)


def checkpointed(
    path: Path,
    buckets: Sequence[Bucket],
    *,
    needed: int = 2,
    epoch: int = 0,
    machine: str = MACHINE,
    keys: FrameKeys = KEYS,
) -> CheckpointedRegisters:
    engine = SqliteRegisters(path)
    return CheckpointedRegisters(
        FramedRegisters(engine, keys),
        engine,
        lambda: Holders(tuple(buckets), needed, engine.configured() or 0),
        keys,
        NAME_KEY,
        epoch=epoch,
        machine=machine,
        read_holder=lambda bucket: (
            (bucket.epoch, bucket.machine or machine) if isinstance(bucket, FlakyBucket) else (0, machine)
        ),
    )


def wait_until_at_rest(registers: BucketRegisters, key: str) -> None:
    """Until the last voter has answered what it was sent, though no caller waits for it."""

    def at_rest() -> bool:
        slot = registers._slots[key]
        while (answer := slot.answers.get(0)) is not None:
            slot.note(answer)
        return not slot.busy

    wait_until(at_rest)
