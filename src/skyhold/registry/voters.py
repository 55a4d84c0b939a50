"""The registers of a store whose engine is `buckets`: its voters, as this machine reaches them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.open import open_bucket
from skyhold.codec.frame import FrameKeys
from skyhold.consensus.buckets import BucketRegisters
from skyhold.consensus.voter import Voter
from skyhold.errors import Corrupt, InvalidInput
from skyhold.security.keys import StoreKeys
from skyhold.storage.bootstrap import inspect_store_document
from skyhold.storage.settings import Settings
from skyhold.storage.store_document import BUCKETS, StoreDocument

WRITE_INTERVAL_S: Final[Mapping[str, float]] = {"google": 1.0, "r2": 1.0}
"""Least time between two writes of one object, by provider, where a provider states one
(https://cloud.google.com/storage/quotas, https://developers.cloudflare.com/r2/platform/limits)."""


def open_voters(
    document: StoreDocument,
    keys: StoreKeys,
    frame_keys: FrameKeys,
    settings: Settings,
    places: Mapping[str, BucketLocation],
    writer: str,
) -> BucketRegisters:
    """The registers in the voters that `document` names; `places` says where they are. Nothing is asked of them yet.

    Raises `Corrupt` where a voter's place is not known.
    """
    voters = []
    for name, incarnation in document.engine.voters:
        if name not in places:
            raise Corrupt(
                f"The store.json of bucket `{document.bucket}` names `{name}` as a voter, and does not say where it is",
                code="store_document_malformed",
                hint="Connect by another bucket of the store, then run `skyhold repair`",
            )
        location = settings.locate(places[name])
        bucket = open_bucket(location)
        verify: Callable[[], None] = partial(_verify, bucket, document.store, incarnation, keys)
        voters.append(Voter(bucket, incarnation, verify, WRITE_INTERVAL_S.get(location.provider, 0.0)))
    return BucketRegisters(voters, document.engine.term, frame_keys, writer=writer)


def refuse_fixed_voters(document: StoreDocument) -> None:
    """Raise `InvalidInput` code `voters_fixed` where each bucket is a voter: they change by an epoch of their own,
    which comes with a later release."""
    if document.engine.kind == BUCKETS:
        raise InvalidInput(
            "The buckets of a store whose engine is `buckets` cannot be changed yet: each of them is a voter",
            code="voters_fixed",
            hint="A bucket that is away is done without, while a majority of them answers",
        )


def _verify(bucket: Bucket, store: str, incarnation: str, keys: StoreKeys) -> None:
    found = inspect_store_document(bucket, keys)
    if (found.store, found.incarnation) != (store, incarnation):
        raise Corrupt(
            f"Bucket `{bucket.name}` is not the one that was admitted as a voter: it was emptied or exchanged",
            code="voter_not_admitted",
            hint="It has forgotten what it promised, and takes no part until it is admitted again",
            bucket=bucket.name,
        )
