"""What adding a bucket would check and change, found out without changing anything."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from skyhold.buckets.location import BucketLocation
from skyhold.buckets.open import open_bucket, would_create
from skyhold.buckets.overlap import refuse_overlap
from skyhold.storage.policy import loss_report
from skyhold.store.bootstrap import refuse_occupied
from skyhold.store.configuration import ConfiguredBucket, add_bucket
from skyhold.store.connection import Connection
from skyhold.store.inside_bucket import refuse_inside_bucket
from skyhold.store.membership import names_store


@dataclass(frozen=True, slots=True)
class JoinPlan:
    """A bucket that joins a store: whether its folder must be made first, the buckets whose `store.json` then lists it
    (`notified`), and what the loss of a bucket costs from then on, as sentences."""

    bucket: BucketLocation
    makes_folder: bool
    notified: tuple[str, ...]
    losses: tuple[str, ...]


def plan_join(connection: Connection, location: BucketLocation) -> JoinPlan:
    """Check that the bucket can join: its name and place are free, it can be reached from this machine, and is empty.

    Raises `AlreadyExists` where it cannot, and what the bucket raises. That it can be written shows only when it is.
    """
    before = connection.configuration
    after = add_bucket(before, ConfiguredBucket(location, secrets.token_hex(16)))
    reached = connection.reach(location)
    refuse_overlap([*connection.locations, reached])
    refuse_inside_bucket(reached)
    makes_folder = would_create(reached)
    if not makes_folder:
        with open_bucket(reached) as bucket:
            if names_store(bucket) != connection.document.store:  # ours already, by a join that died
                refuse_occupied(bucket)
    notified = tuple(known.name for known in before.locations)
    return JoinPlan(location, makes_folder, notified, tuple(loss_report(after.locations, after.policy)))
