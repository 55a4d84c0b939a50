"""Whether a store works now, at a cost that grows with its buckets alone: for a monitor that polls."""

from __future__ import annotations

import time
from dataclasses import dataclass

from skyhold.consensus.parallel import at_once
from skyhold.errors import SkyholdError
from skyhold.store.configuration import ConfiguredBucket
from skyhold.store.connection import Connection
from skyhold.store.engine_status import EngineStatus, engine_of
from skyhold.store.membership import examine_bucket


@dataclass(frozen=True, slots=True)
class BucketHealth:
    """One bucket. `took_s` is how long it took to answer; `error` is why it cannot be used as a member now, and `hint`
    what to do."""

    name: str
    took_s: float
    error: str | None
    hint: str | None


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """`healthy`: every bucket is a member that answers, and every voter. `works`: changes can be decided."""

    store: str
    healthy: bool
    works: bool
    engine: EngineStatus
    buckets: tuple[BucketHealth, ...]


def health_of(connection: Connection) -> StoreHealth:
    """Ask every bucket for its `store.json`, and every voter for two registers. Nothing is listed, and no repository is
    read."""
    engine = engine_of(connection)
    buckets = tuple(at_once(lambda known: _bucket(connection, known), connection.configuration.buckets, "health"))
    works = engine.quorum in {None, "whole", "degraded"}
    healthy = engine.quorum in {None, "whole"} and all(bucket.error is None for bucket in buckets)
    return StoreHealth(connection.document.store, healthy, works, engine, buckets)


def _bucket(connection: Connection, configured: ConfiguredBucket) -> BucketHealth:
    began_s = time.monotonic()
    error: SkyholdError | None
    try:
        error = examine_bucket(connection, configured).error
    except SkyholdError as raised:  # of one that cannot be opened
        error = raised
    took_s = time.monotonic() - began_s
    message, hint = (error.message, error.hint) if error else (None, None)
    return BucketHealth(configured.location.name, took_s, message, hint)
