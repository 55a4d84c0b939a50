"""Creating, opening, joining and recovering a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from skyhold import error_codes
from skyhold.buckets.location import BucketLocation
from skyhold.errors import InvalidInput
from skyhold.registry import validate
from skyhold.registry.store import Store
from skyhold.security.keys import KeyEncryptionKey
from skyhold.storage.policy import Policy
from skyhold.store.opening import named_locations, open_store
from skyhold.store.settings import Settings, load_settings

if TYPE_CHECKING:
    from skyhold.store.recovering import RecoverReport
    from skyhold.store.register_recovery import RegisterPlan, RegisterReport

__all__ = ["connect", "init", "open", "recover", "recover_register"]


def init(
    locations: Sequence[str | BucketLocation],
    *,
    names: Sequence[str] | None = None,
    settings: Settings | None = None,
    encrypt_with: Sequence[KeyEncryptionKey] = (),
    policy: Policy | None = None,
    engine: str | None = None,
) -> Store:
    """Create a store of these buckets (URLs, folders, or locations). Its registers are in the buckets (`buckets`),
    where every machine that connects may change them, or on this machine (`sqlite`, the default of one that cannot
    vote)."""
    from skyhold.store.founding import found_store

    places = [
        place if isinstance(place, BucketLocation) else validate.text(place, "each of the buckets")
        for place in validate.items(locations, "the buckets")
    ]
    return Store(
        found_store(
            named_locations(places, None if names is None else validate.texts(names, "the names")),
            settings or load_settings(),
            encrypt_with=encrypt_with,
            policy=policy,
            engine=None if engine is None else validate.text(engine, "the engine"),
        )
    )


def open(
    url: str | None = None,
    *,
    settings: Settings | None = None,
    max_age_s: float | None = None,
    offline: bool = False,
) -> Store:
    """Open a store by the URL of one of its buckets, by default the one that the settings name.

    Reads of refs see every move that was acknowledged before; with `max_age_s` they may miss the moves of the last that
    many seconds, and cost less in a long-lived process. With `math.inf` they also return the newest known state where
    no majority of the voters answers; `Store.stale` lists these reads. With `offline` a store that this machine knows
    opens even where none of its buckets answers: versions that are in its cache can then be read by their full digest.
    """
    chosen = settings or load_settings()
    place = chosen.store if url is None else validate.text(url, "the URL")
    if place is None:
        raise InvalidInput(
            "No store is named",
            code=error_codes.NO_STORE,
            hint="Set SKYHOLD_STORE, or `store = URL` in skyhold.toml, or use --store; a new one: skyhold init URL…",
        )
    return Store(open_store(place, chosen, max_age_s=max_age_s, offline=offline))


def connect(
    url: str, *, settings: Settings | None = None, trust: Sequence[str] = (), accept_rollback: bool = False
) -> Store:
    """Join a store that exists, and remember it on this machine. `trust`: the destinations to which it may send
    credentials because the store names them, as field `destinations` of error `endpoint_not_trusted` lists them.

    This machine refuses refs that are older than what it has seen (`Corrupt` code `register_rolled_back`).
    `accept_rollback` makes it forget what it has seen, once: after a deliberate recovery, or where the newer refs are
    lost.
    """
    agreed = validate.texts(trust, "trust")
    return Store(
        open_store(
            validate.text(url, "the URL"),
            settings or load_settings(),
            meet=True,
            trust=agreed,
            accept_rollback=accept_rollback,
        )
    )


def recover(
    url: str,
    *,
    settings: Settings | None = None,
    minority: bool = False,
    consent: Callable[[str], None] = lambda _kind: None,
) -> tuple[Store, RecoverReport]:
    """Recover a store's refs from its buckets to this machine, after its registers were lost or with another machine.
    `consent` is called before anything is changed, with the engine that is recovered, and raises to refuse."""
    from skyhold.store.recovering import recover_store

    connection, report = recover_store(
        validate.text(url, "the URL"), settings or load_settings(), minority=minority, consent=consent
    )
    return Store(connection), report


def recover_register(
    url: str,
    name: str,
    *,
    settings: Settings | None = None,
    empty: bool = False,
    consent: Callable[[RegisterPlan], None],
) -> tuple[Store, RegisterReport]:
    """Recover one register that is damaged or gone at a majority of its voters: that of a repository (by its name, or
    as `repository/<id>`), of a document, `names` or `config`. `consent` is called with what was found before anything
    is changed, and raises to refuse. `empty` recreates a repository of which nothing is left."""
    from skyhold.registry.lost_register import REGISTER_OWNER
    from skyhold.store import recovering

    connection, report = recovering.recover_register(
        validate.text(url, "the URL"),
        validate.text(name, "the register"),
        settings or load_settings(),
        REGISTER_OWNER,
        empty=empty,
        consent=consent,
    )
    return Store(connection), report
