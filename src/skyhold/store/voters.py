"""The registers of an epoch whose engine is `buckets`: its voters, as this machine reaches them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Final

from skyhold import error_codes
from skyhold.buckets.admission import admit
from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.open import open_bucket
from skyhold.consensus.buckets import BucketRegisters
from skyhold.consensus.capabilities import Voting
from skyhold.consensus.migration import CONFIG
from skyhold.consensus.no_majority import TO_ADMIT_AGAIN, no_majority
from skyhold.consensus.parallel import at_once
from skyhold.consensus.voter import Voter
from skyhold.errors import Corrupt, InvalidInput, SkyholdError
from skyhold.security.keys import StoreKeys
from skyhold.store.bootstrap import inspect_store_document
from skyhold.store.context import StoreContext
from skyhold.store.store_document import BY_ANOTHER, Engine

WRITE_INTERVAL_S: Final[Mapping[str, float]] = {"google": 1.0, "r2": 1.0}
"""Least time between two writes of one object, by provider, where a provider states one
(https://cloud.google.com/storage/quotas, https://developers.cloudflare.com/r2/platform/limits)."""

ADMISSION_ROUNDS: Final = 40
ADMISSION_CLIENTS: Final = 16
FOLDER_ROUNDS: Final = 10
FOLDER_CLIENTS: Final = 8
"""A folder's puts are made atomic by our own driver; what is tried is the file system's locks and links."""


def open_voters(
    context: StoreContext, engine: Engine, places: Mapping[str, BucketLocation], *, verified: bool = False
) -> BucketRegisters:
    """The registers in the voters that `engine` names; `places` are their locations. No request is sent yet.
    `verified`: they are trusted as those that were admitted, which their `store.json` does not show yet.

    Raises `Corrupt` where a voter's place is not known.
    """
    voters = []
    with ExitStack() as opened:
        for name, incarnation in engine.voters:
            if name not in places:
                raise Corrupt(
                    f"The store names `{name}` as a voter, without its place",
                    code=error_codes.STORE_DOCUMENT_MALFORMED,
                    hint=BY_ANOTHER,
                )
            location = context.reach(places[name])
            bucket = opened.enter_context(open_bucket(location))
            verify: Callable[[], None] = partial(
                _verify, bucket, context.document.store, incarnation, context.store_keys
            )
            verify = _trust if verified else verify
            voters.append(Voter(bucket, incarnation, verify, WRITE_INTERVAL_S.get(location.provider, 0.0)))
        registers = BucketRegisters(
            voters, engine.epoch, context.keys, writer=context.author, sightings=context.sightings
        )
        opened.pop_all()  # they are the registers' from here on
        return registers


def refuse_needed_voter(registers: Voting, name: str, keys: Iterable[str]) -> None:
    """Raise unless the other voters of the present epoch are a majority without this one, for each of the registers
    `keys` too, of which this bucket forgets what it holds: `InvalidInput` code `voter_needed`, or `Unavailable` where
    too few of them answer."""
    shown = registers.inspect(CONFIG)
    needed = len(shown) // 2 + 1
    others = [voter for voter in shown if voter != name]
    if len(others) < needed:
        raise InvalidInput(
            f"Bucket `{name}` cannot begin anew: of {len(shown)} voters, the others are no majority without it",
            code=error_codes.VOTER_NEEDED,
            hint=f"Add another voter first: `skyhold bucket add NAME URL`. If what `{name}` had promised is lost, too: "
            "skyhold recover --minority URL",
            bucket=name,
        )

    def check(key: str) -> None:
        shown = registers.inspect(key)
        silent = {voter: held for voter in others if isinstance(held := shown[voter], SkyholdError)}
        if len(others) - len(silent) >= needed:
            return
        damaged = sorted(voter for voter, error in silent.items() if error.code in TO_ADMIT_AGAIN)
        if not damaged:
            raise no_majority(key, len(shown), silent, sent=False)
        raise InvalidInput(
            f"Bucket `{name}` cannot begin anew: what the others hold of register {key} is damaged in "
            f"{', '.join(f'`{voter}`' for voter in damaged)}, and they are no majority without it; nothing was changed",
            code=error_codes.VOTER_NEEDED,
            hint=f"Admit that one first: skyhold store voters replace {damaged[0]}",
            bucket=name,
            key=key,
        )

    at_once(check, [CONFIG, *keys], "needed")


def refuse_unfit_voter(bucket: Bucket, location: BucketLocation, hint: str) -> None:
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
            code=error_codes.VOTER_REFUSED,
            hint=hint,
            bucket=bucket.name,
        )


def _trust() -> None:
    """Trust that the voter is the one that was admitted."""


def _verify(bucket: Bucket, store: str, incarnation: str, keys: StoreKeys) -> None:
    found = inspect_store_document(bucket, keys)
    if (found.store, found.incarnation) != (store, incarnation):
        raise Corrupt(
            f"Bucket `{bucket.name}` is not the one that was admitted as a voter: it was emptied or exchanged",
            code=error_codes.VOTER_NOT_ADMITTED,
            hint=f"It has forgotten what it promised. Admit it again: skyhold store voters replace {bucket.name}",
            bucket=bucket.name,
        )
