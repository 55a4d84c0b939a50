"""Opening a store from whichever of its buckets answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

from skyhold.buckets.location import BucketLocation, parse_location
from skyhold.buckets.open import open_bucket
from skyhold.consensus.sightings import SightingsFile
from skyhold.errors import (
    Corrupt,
    InvalidInput,
    NotFound,
    PermissionDenied,
    SkyholdError,
    Unavailable,
)
from skyhold.registry.connection import (
    Connection,
    key_encryption_keys,
)
from skyhold.storage.bootstrap import read_store_document
from skyhold.storage.configuration import Configuration, ConfiguredBucket
from skyhold.storage.settings import Settings
from skyhold.storage.state import Acquaintance, StateFolder, StoreState, open_state
from skyhold.storage.store_document import StoreDocument, check_machine


def document_for(document: StoreDocument, configuration: Configuration, configured: ConfiguredBucket) -> StoreDocument:
    """The `store.json` of one bucket of a store."""
    hints = [other.location for other in configuration.buckets if other is not configured]
    return document.for_bucket(configured.location.name, configured.incarnation, hints)


def open_store(
    url: str, settings: Settings, *, meet: bool = False, accept_rollback: bool = False, max_age_s: float | None = None
) -> Connection:
    """Open the store that a bucket's URL names. Where that bucket is away, damaged or closed to us, another one that
    this machine has met opens it as well. `meet` takes the bucket's own word for which store it is, as `connect` does.
    With `accept_rollback` what this machine has seen of the store's registers is forgotten: they are taken as they are.
    `max_age_s` as `Connection` takes it.

    Raises `PermissionDenied` code `other_machine` where the registers live elsewhere.
    """
    state_folder = open_state()
    location = parse_location(url)
    state, met = (None, None) if meet else acquaintance(state_folder, location)
    errors: dict[str, SkyholdError] = {}
    keks = key_encryption_keys(settings)
    for candidate in candidates(location, met):
        try:
            with open_bucket(settings.locate(candidate)) as bucket:
                document, keys = read_store_document(
                    bucket, keks, expected_store=None if state is None else state.store_id, known=met
                )
                check_machine(document, state_folder.machine_id, url)
                if met is None:  # the bucket's own word is taken, but not against what is known of that store
                    known = state_folder.store(document.store).recall()
                    read_store_document(bucket, keks, known=known)
        except (Unavailable, NotFound, Corrupt, PermissionDenied) as error:
            errors[candidate.url] = error
            continue
        places = (replace(candidate, name=document.bucket), *(met.locations if met is not None else ()))
        state = state_folder.store(document.store)
        if accept_rollback:
            with closing(SightingsFile(state.sightings)) as sightings:
                sightings.forget()
        connection = Connection(document, keys, state, settings, places, max_age_s=max_age_s)
        if met is None:
            remember(connection)
        return connection
    raise next(iter(errors.values())) if len({error.code for error in errors.values()}) == 1 else unreachable(errors)


def remember(connection: Connection) -> None:
    """Note on this machine where the store's buckets are, and what it is, so that no bucket can say otherwise.

    A place holds one store: another one that this machine met there before is not looked for there any more.
    """
    locations = connection.configuration.locations
    sealed, check = connection.store_keys.sealed, connection.store_keys.check
    places = {location.place for location in locations}
    for other in open_state().stores():
        met = other.recall()
        if other.store_id != connection.state.store_id and met is not None:
            left = tuple(location for location in met.locations if location.place not in places)
            if left != met.locations:
                other.remember(replace(met, locations=left))
    connection.state.remember(Acquaintance(locations, sealed, check))


def named_locations(urls: Iterable[str | BucketLocation], names: Sequence[str] | None) -> list[BucketLocation]:
    """Locations of URLs. Raises `InvalidInput` where the names are not as many, or where two are alike."""
    given = list(urls)
    if names is not None and len(names) != len(given):
        raise InvalidInput(f"Expected {len(given)} names but got {len(names)}", code="names_count")
    locations = []
    for index, url in enumerate(given):
        name = names[index] if names is not None else None
        if isinstance(url, str):
            locations.append(parse_location(url, name=name))
        else:
            locations.append(url if name is None else replace(url, name=name))
    return locations


def acquaintance(folder: StateFolder, location: BucketLocation) -> tuple[StoreState | None, Acquaintance | None]:
    """The store that this machine met at a location; one written without an endpoint may mean a place that has one."""
    known = [(state, met) for state in folder.stores() if (met := state.recall()) is not None]
    for state, met in known:
        if location.place in {other.place for other in met.locations}:
            return state, met
    for state, met in known:
        if location.endpoint is None and location.url in {other.url for other in met.locations}:
            return state, met
    return None, None


def candidates(location: BucketLocation, met: Acquaintance | None) -> list[BucketLocation]:
    """Where to look for the store: first at the location, as it is known in full, then at its other buckets."""
    known = sorted(
        () if met is None else met.locations,
        key=lambda other: (other.place != location.place, other.url != location.url),
    )
    if not known or known[0].url != location.url:
        return [location, *known]
    written = {name: value for name, value in location.to_json().items() if name not in {"name", "url", "provider"}}
    return [replace(known[0], **written), *known[1:]]  # type: ignore[arg-type]


def unreachable(errors: Mapping[str, SkyholdError]) -> Unavailable:
    """The error of a store none of whose known buckets answers."""
    reasons = "; ".join(f"{url}: {error.message}" for url, error in errors.items())
    return Unavailable(
        f"No bucket of the store answers ({reasons})",
        code="store_unreachable",
        hint="Check the network and the credentials: `skyhold doctor`",
        buckets=list(errors),
    )
