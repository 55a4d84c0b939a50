"""Opening a store by any of its buckets that answers."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

from skyhold import error_codes
from skyhold.buckets.consent import Destination, override, refused
from skyhold.buckets.location import BucketLocation, completed, parse_location
from skyhold.buckets.open import open_bucket
from skyhold.buckets.overlap import refuse_overlap
from skyhold.consensus.no_majority import UNDOCUMENTED
from skyhold.consensus.sightings import SightingsFile
from skyhold.errors import (
    Corrupt,
    InvalidInput,
    NotFound,
    PermissionDenied,
    SkyholdError,
    Unavailable,
)
from skyhold.store.bootstrap import read_store_document
from skyhold.store.configuration import Configuration, ConfiguredBucket
from skyhold.store.connection import Connection
from skyhold.store.settings import Settings
from skyhold.store.state import RememberedStore, StateFolder, StoreState, open_state
from skyhold.store.store_document import (
    StoreDocument,
    check_machine,
    decode_store_document,
    encode_store_document,
)
from skyhold.store.store_keys import key_encryption_keys


def document_for(document: StoreDocument, configuration: Configuration, configured: ConfiguredBucket) -> StoreDocument:
    """The `store.json` of one bucket of a store."""
    hints = [other.location for other in configuration.buckets if other is not configured]
    return document.for_bucket(configured.location.name, configured.incarnation, hints, configuration.features)


def open_store(
    url: str,
    settings: Settings,
    *,
    meet: bool = False,
    trust: Iterable[str] = (),
    accept_rollback: bool = False,
    max_age_s: float | None = None,
    offline: bool = False,
) -> Connection:
    """Open the store that a bucket's URL names. Where that bucket is away, damaged or closed to us, another one that
    this machine knows is used. `meet` accepts whichever store the bucket contains, as `connect` does; the user agrees
    to `trust`, and all consents that the store needs beyond that are named in one error. With `accept_rollback` what
    this machine has seen of the store's registers is forgotten: they are taken as they are. `max_age_s` as `Connection`
    takes it. With `offline` a store that this machine knows opens by its own copy of `store.json` where none of the
    buckets answers.

    Raises `PermissionDenied` code `other_machine` where the registers live elsewhere, code `endpoint_not_trusted`.
    """
    agreed = frozenset(Destination.parse(text) for text in trust)
    state_folder = open_state()
    sought = look_up(state_folder, url, by_user=meet or url != settings.store or settings.store_is_users)
    state, met = (None, None) if meet else (sought.state, sought.met)
    consents = agreed if state is None else state.consents()
    errors: dict[str, SkyholdError] = {}
    keks = key_encryption_keys(settings)
    for candidate in sought.candidates() if met is not None else [sought.whole]:
        try:
            with open_bucket(settings.locate(candidate, consents)) as bucket:
                document, keys = read_store_document(
                    bucket, keks, expected_store=None if state is None else state.store_id, known=met
                )
                if met is None:  # any store is accepted, but only if it agrees with the state on this machine
                    known = state_folder.store(document.store).recall()
                    read_store_document(bucket, keks, known=known)
                if meet:
                    state_folder.store(document.store).consent(agreed)
                check_machine(document, state_folder.machine_id)
                state_folder.store(document.store).keep_document(encode_store_document(document, keys))
        except (Unavailable, NotFound, Corrupt, PermissionDenied) as error:
            errors[candidate.url] = error
            continue
        places = (replace(candidate, name=document.bucket), *(met.locations if met is not None else ()))
        state = state_folder.store(document.store)
        document = _at_newest_term(document, state)
        if accept_rollback:
            with closing(SightingsFile(state.sightings)) as sightings:
                sightings.forget()
        with ExitStack() as opened:
            connection = Connection(document, keys, state, settings, places, max_age_s=max_age_s)
            opened.callback(connection.close)
            connection.consents.agree_to_typed([candidate], durably=meet)
            if met is None:
                _meet(connection, url, ask=meet)
            opened.pop_all()
        return connection
    away = all(isinstance(error, (Unavailable, NotFound)) for error in errors.values())
    if offline and away and state is not None and met is not None:
        kept = state.kept_document()
        if kept is not None:
            document, keys = decode_store_document(kept, keks, "this machine")
            if (met.sealed, met.key_check) == (document.sealed, keys.check):
                document = _at_newest_term(document, state)
                return Connection(document, keys, state, settings, met.locations, max_age_s=max_age_s)
    raise _unopened(sought, errors)


def _unopened(sought: Sought, errors: Mapping[str, SkyholdError]) -> SkyholdError:
    """Why none of the buckets opens the store; of those that this machine knows, the way back."""
    codes = {error.code for error in errors.values()}
    if sought.state is not None and sought.met is not None and codes <= UNDOCUMENTED:
        reasons = "; ".join(f"{url}: {error.message}" for url, error in errors.items())
        return Corrupt(
            f"No bucket of store {sought.state.store_id} has its store.json intact ({reasons}); nothing was changed",
            code=error_codes.STORE_DOCUMENTS_LOST,
            hint="Bring the store.json of one of them back from a backup: without any, nothing of the store can be "
            "opened. Make no store in their place before",
            buckets=list(errors),
        )
    return next(iter(errors.values())) if len(codes) == 1 else unreachable(errors)


def _at_newest_term(document: StoreDocument, state: StoreState) -> StoreDocument:
    """A bucket that went back shows an earlier epoch; the registers are on this machine, which knows its last one."""
    if document.engine.shared or document.engine.epoch >= state.newest_epoch:
        return document
    return replace(document, engine=replace(document.engine, epoch=state.newest_epoch))


def _meet(connection: Connection, url: str, *, ask: bool) -> None:
    """Remember the store; where its user can be asked, only once they have agreed to all its places."""
    if ask:
        _refuse_unallowed(connection, url, connection.known_places)  # first: the registers may be out of reach without
    refuse_overlap(connection.locations)
    remember(connection)
    if ask:
        _refuse_unallowed(connection, url, connection.configuration.locations)


def _refuse_unallowed(connection: Connection, url: str, locations: Iterable[BucketLocation]) -> None:
    if wanted := connection.consents.missing(locations, connection.document.engine.cluster):
        raise refused(wanted, shlex.quote(url))


def remember(connection: Connection) -> None:
    """Note on this machine where the store's buckets are, and what it is, so that no bucket can contradict it.

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
    connection.state.remember(RememberedStore(locations, sealed, check))


def named_locations(urls: Iterable[str | BucketLocation], names: Sequence[str] | None) -> list[BucketLocation]:
    """Locations of URLs. Raises `InvalidInput` where the names are not as many, or where two are alike."""
    given = list(urls)
    if names is not None and len(names) != len(given):
        raise InvalidInput(f"Expected {len(given)} names but got {len(names)}", code=error_codes.NAMES_COUNT)
    locations = []
    for index, url in enumerate(given):
        name = names[index] if names is not None else None
        if isinstance(url, str):
            locations.append(parse_location(url, name=name))
        else:
            named = replace(url, named=True)
            locations.append(named if name is None else replace(named, name=name))
    return locations


@dataclass(frozen=True, slots=True)
class Sought:
    """A store as it was named: `typed` is the bucket's location as it was written, `whole` with the environment's
    settings added; `state` and `met` are the state of that store on this machine, if any."""

    typed: BucketLocation
    whole: BucketLocation
    state: StoreState | None
    met: RememberedStore | None

    def candidates(self) -> list[BucketLocation]:
        """Where to look for the store: first at the location, as it is known in full, then at its other buckets."""
        places = (self.whole.place, self.typed.place)
        known = sorted(
            () if self.met is None else self.met.locations,
            key=lambda other: (other.place not in places, other.url != self.typed.url),
        )
        if not known or known[0].url != self.typed.url:
            return [self.whole, *known]
        written = {
            name: value for name, value in self.typed.to_json().items() if name not in {"name", "url", "provider"}
        }
        return [override(known[0], written, by_user=self.typed.named), *known[1:]]


def look_up(folder: StateFolder, url: str, *, by_user: bool = True) -> Sought:
    """The store that a URL means, which this machine's user wrote, or a document. A store that was opened at the URL
    keeps that location, whatever the environment contains; one written without an endpoint may mean a place that has
    one."""
    typed = replace(parse_location(url, complete=False), named=by_user)
    whole = completed(typed)
    known = [(state, met) for state in folder.stores() if (met := state.recall()) is not None]
    for place in (whole.place, typed.place):
        for state, met in known:
            if place in {other.place for other in met.locations}:
                return Sought(typed, whole, state, met)
    for state, met in known:
        if typed.endpoint is None and typed.url in {other.url for other in met.locations}:
            return Sought(typed, whole, state, met)
    return Sought(typed, whole, None, None)


def unreachable(errors: Mapping[str, SkyholdError]) -> Unavailable:
    """The error of a store none of whose known buckets answers."""
    reasons = "; ".join(f"{url}: {error.message}" for url, error in errors.items())
    return Unavailable(
        f"No bucket of the store answers ({reasons})",
        code=error_codes.STORE_UNREACHABLE,
        hint="Check the network and the credentials: `skyhold doctor`",
        buckets=list(errors),
    )
