"""Voters at a distance: one versitygw process for each, behind a proxy that delays, and engines of ours on them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from distance import far
from gateway import Endpoint, Gateway, running_gateway

from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import BucketLocation, parse_location
from skyhold.buckets.open import open_bucket
from skyhold.codec.frame import DataKey, FrameKeys
from skyhold.consensus.buckets import BucketRegisters
from skyhold.consensus.voter import Voter

KEYS = FrameKeys({0: DataKey(b"m" * 32, b"s" * 32)}, 0, sealed=False)
BUCKET = "voter"
STORE_DOCUMENT = "store.json"
STORE_DOCUMENT_BYTES = 1500
"""About what the document of a store of three buckets has."""


@dataclass(frozen=True, slots=True)
class Cloud:
    """One server with one empty bucket, on loopback without distance."""

    gateway: Gateway
    endpoint: Endpoint
    number: int

    @property
    def port(self) -> int:
        return urlsplit(self.endpoint.url).port or 0


@dataclass(frozen=True, slots=True)
class Region:
    """The clouds as one machine reaches them."""

    locations: tuple[BucketLocation, ...]

    def buckets(self) -> list[Bucket]:
        """Drivers of our own, without any connection yet."""
        return [open_bucket(location) for location in self.locations]

    def engine(
        self, buckets: Sequence[Bucket], writer: str = "bench", intervals_s: Sequence[float] = ()
    ) -> BucketRegisters:
        """A proposer that knows nothing yet. A voter is asked for its `store.json` as in a store."""
        intervals_s = intervals_s or [0.0] * len(buckets)
        voters = [
            Voter(bucket, f"{number:032x}", partial(_verify, bucket), interval_s)
            for number, (bucket, interval_s) in enumerate(zip(buckets, intervals_s, strict=True))
        ]
        return BucketRegisters(voters, 1, KEYS, writer=writer)


def _verify(bucket: Bucket) -> None:
    assert len(bucket.read_tagged(STORE_DOCUMENT).body) == STORE_DOCUMENT_BYTES


@contextlib.contextmanager
def running_clouds(count: int, folder: Path) -> Iterator[list[Cloud]]:
    """Servers, each with a bucket that holds a `store.json`."""
    with contextlib.ExitStack() as stack:
        clouds = []
        for number in range(count):
            gateway = stack.enter_context(running_gateway(folder / f"cloud-{number}", keep_alive=True))
            endpoint = gateway.make_bucket(BUCKET)
            os.environ[f"BENCH{number}_ACCESS_KEY_ID"] = endpoint.access_key
            os.environ[f"BENCH{number}_SECRET_ACCESS_KEY"] = endpoint.secret_key
            clouds.append(Cloud(gateway, endpoint, number))
        with near(clouds) as region:
            for bucket in region.buckets():
                bucket.write(STORE_DOCUMENT, bytes(STORE_DOCUMENT_BYTES))
        yield clouds


@contextlib.contextmanager
def near(clouds: Sequence[Cloud]) -> Iterator[Region]:
    """The clouds without any distance."""
    yield Region(tuple(_location(cloud, cloud.port) for cloud in clouds))


@contextlib.contextmanager
def region(clouds: Sequence[Cloud], round_trips_ms: Sequence[float]) -> Iterator[Region]:
    """The clouds from a machine that is so far away from each."""
    with far([cloud.port for cloud in clouds], round_trips_ms) as ports:
        yield Region(tuple(_location(cloud, port) for cloud, port in zip(clouds, ports, strict=True)))


def _location(cloud: Cloud, port: int) -> BucketLocation:
    return parse_location(
        f"s3://{BUCKET}/store",
        endpoint=f"http://127.0.0.1:{port}",
        credentials=f"env:BENCH{cloud.number}",
        name=f"cloud-{cloud.number}",
        allow_http=True,
    )
