"""The registers of an epoch whose engine is `buckets`: its voters, as this machine reaches them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from skyhold.buckets.admission import admit
from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.open import open_bucket
from skyhold.consensus.buckets import BucketRegisters
from skyhold.consensus.voter import Voter
from skyhold.errors import Corrupt, InvalidInput
from skyhold.security.keys import StoreKeys
from skyhold.storage.bootstrap import inspect_store_document
from skyhold.storage.store_document import Engine

if TYPE_CHECKING:
    from skyhold.registry.connection import Connection

WRITE_INTERVAL_S: Final[Mapping[str, float]] = {"google": 1.0, "r2": 1.0}
"""Least time between two writes of one object, by provider, where a provider states one
(https://cloud.google.com/storage/quotas, https://developers.cloudflare.com/r2/platform/limits)."""

ADMISSION_ROUNDS: Final = 40
ADMISSION_CLIENTS: Final = 16
FOLDER_ROUNDS: Final = 10
FOLDER_CLIENTS: Final = 8
"""A folder's puts are made atomic by our own driver; what is tried is the file system's locks and links."""


def open_voters(connection: Connection, engine: Engine, places: Mapping[str, BucketLocation]) -> BucketRegisters:
    """The registers in the voters that `engine` names; `places` says where they are. Nothing is asked of them yet.

    Raises `Corrupt` where a voter's place is not known.
    """
    voters = []
    for name, incarnation in engine.voters:
        if name not in places:
            raise Corrupt(
                f"The store names `{name}` as a voter, and does not say where it is",
                code="store_document_malformed",
                hint="Connect by another bucket of the store, then run `skyhold repair`",
            )
        location = connection.settings.locate(places[name])
        bucket = open_bucket(location)
        verify: Callable[[], None] = partial(
            _verify, bucket, connection.document.store, incarnation, connection.store_keys
        )
        voters.append(Voter(bucket, incarnation, verify, WRITE_INTERVAL_S.get(location.provider, 0.0)))
    return BucketRegisters(voters, engine.term, connection.keys, writer=connection.author)


def refuse_unfit_voter(bucket: Bucket, location: BucketLocation) -> None:
    """Try whether the conditional puts of a bucket are atomic, which takes some seconds over a network.

    Raises `InvalidInput` code `voter_refused` where they are not, and what the bucket raises.
    """
    folder = location.scheme == "file"
    rounds, clients = (FOLDER_ROUNDS, FOLDER_CLIENTS) if folder else (ADMISSION_ROUNDS, ADMISSION_CLIENTS)
    verdict = admit(bucket, rounds, clients)
    if not verdict.admitted:
        raise InvalidInput(
            f"Bucket `{bucket.name}` cannot vote: its conditional puts are not atomic under contention "
            f"({'; '.join(verdict.reasons)})",
            code="voter_refused",
            hint=f"Use it for packs only: skyhold bucket add {bucket.name} {location.url} --role packs",
            bucket=bucket.name,
        )


def _verify(bucket: Bucket, store: str, incarnation: str, keys: StoreKeys) -> None:
    found = inspect_store_document(bucket, keys)
    if (found.store, found.incarnation) != (store, incarnation):
        raise Corrupt(
            f"Bucket `{bucket.name}` is not the one that was admitted as a voter: it was emptied or exchanged",
            code="voter_not_admitted",
            hint=f"It has forgotten what it promised. Admit it again: skyhold store voters replace {bucket.name}",
            bucket=bucket.name,
        )
