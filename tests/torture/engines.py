"""The registers under torture: one function opens each engine as a process of its own would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import parse_location
from skyhold.buckets.open import open_bucket
from skyhold.buckets.retry import RetryPolicy
from skyhold.consensus.buckets import BucketRegisters
from skyhold.consensus.etcd import open_etcd
from skyhold.consensus.etcd_location import parse_etcd_location
from skyhold.consensus.register import Registers
from skyhold.consensus.sqlite import SqliteRegisters
from skyhold.consensus.voter import Voter
from skyhold.errors import Corrupt
from tests.consensus.fixtures import KEYS

IMPATIENT: Final = RetryPolicy(
    attempts_max=2, total_s=4.0, first_delay_s=0.02, connect_timeout_s=1.0, stall_timeout_s=3.0
)
"""Reads give up early: there are always other registers to change."""
DEADLINE_S: Final = 10.0
INCARNATION: Final = "incarnation"
STORE: Final = "ab" * 16


@dataclass(frozen=True)
class Place:
    """Where a voter is, as a worker reaches it."""

    name: str
    url: str
    endpoint: str | None = None
    credentials: str = "chain"

    def open(self, endpoint: str | None = None) -> Bucket:
        """Its bucket, through another endpoint where one is given."""
        location = parse_location(
            self.url, endpoint=endpoint or self.endpoint, credentials=self.credentials, name=self.name
        )
        return open_bucket(location, IMPATIENT)


@dataclass(frozen=True)
class Engine:
    """What a worker needs to open the registers. `places` are those of the voters of `buckets`; `path` is the file of
    `sqlite`, or the location of `etcd`."""

    kind: str
    places: tuple[Place, ...] = ()
    path: str = ""


def open_registers(engine: Engine, writer: str) -> Registers:
    """The registers as another machine, or another process of this one, has them."""
    return _ENGINES[engine.kind](engine, writer)


def incarnation_of(place: Place) -> str:
    """The incarnation in a voter's bucket."""
    return place.name.encode().hex().zfill(32)


def admit(place: Place, bucket: Bucket) -> None:
    """Mark a bucket as the voter that it is."""
    bucket.write(INCARNATION, incarnation_of(place).encode())


def _open_buckets(engine: Engine, writer: str) -> Registers:
    voters = []
    for place in engine.places:
        bucket = place.open()
        voters.append(Voter(bucket, incarnation_of(place), partial(_verify, bucket, incarnation_of(place))))
    return BucketRegisters(voters, 1, KEYS, writer=writer, deadline_s=DEADLINE_S)


def _verify(bucket: Bucket, incarnation: str) -> None:
    if bytes(bucket.read(INCARNATION)).decode() != incarnation:
        raise Corrupt(f"bucket {bucket.name} is not the one that was admitted", code="voter_not_admitted")


def _open_sqlite(engine: Engine, writer: str) -> Registers:
    return SqliteRegisters(Path(engine.path))


def _open_etcd(engine: Engine, writer: str) -> Registers:
    location = parse_etcd_location(engine.path)
    return open_etcd(location, store_id=STORE, epoch=1, writer=writer, attempt_s=1.0, deadline_s=DEADLINE_S)


_ENGINES: Final[dict[str, Callable[[Engine, str], Registers]]] = {
    "buckets": _open_buckets,
    "etcd": _open_etcd,
    "sqlite": _open_sqlite,
}
