"""What a seal carries: the epoch that follows, as an engine and a configuration (format.md, 11b). Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from skyhold import error_codes
from skyhold.consensus.acceptor import VOTERS_MAX
from skyhold.consensus.etcd_location import parse_etcd_location
from skyhold.errors import Corrupt, InvalidInput
from skyhold.storage.canonical import decode, decode_canonical, encode
from skyhold.store.configuration import Configuration, decode_configuration, encode_configuration
from skyhold.store.store_document import (
    BUCKETS,
    ETCD,
    SQLITE,
    Engine,
    engine_from_json,
    engine_to_json,
)

_WHAT = "configuration of an epoch"


@dataclass(frozen=True, slots=True)
class Epoch:
    """One engine, and the configuration of the store when it begins with it. Epochs are numbered by `engine.epoch`."""

    engine: Engine
    configuration: Configuration


def voters_of(configuration: Configuration) -> tuple[tuple[str, str], ...]:
    """Name and incarnation of each bucket that votes, where the engine is `buckets`."""
    return tuple(
        (bucket.location.name, bucket.incarnation) for bucket in configuration.buckets if bucket.role == "voter"
    )


def new_engine(place: str, epoch: int, machine: str, configuration: Configuration) -> Engine:
    """The engine that `place` names: `sqlite` (on `machine`), `buckets`, or the URL of an etcd cluster.

    Raises `InvalidInput` for another word, for a malformed URL, for one that holds what belongs to a machine's own
    settings, and where there are no voters or too many.
    """
    if place == SQLITE:
        return Engine(machine, epoch)
    if place == BUCKETS:
        return Engine("", epoch, BUCKETS, checked_voters(configuration))
    if not place.startswith(("etcd://", "etcds://")):
        raise InvalidInput(
            f"Expected engine `{SQLITE}`, `{BUCKETS}` or the URL of an etcd cluster but got {place!r}",
            code=error_codes.ENGINE_UNKNOWN,
            hint="An etcd cluster is etcds://host:2379,host:2379/prefix",
        )
    if "?" in place:
        raise InvalidInput(
            "The URL of an etcd cluster is sent to every machine, and its settings are each machine's own",
            code=error_codes.ENGINE_UNKNOWN,
            hint="Put credentials, ca_file and allow_http under [etcd] in skyhold.toml",
        )
    return Engine("", epoch, ETCD, cluster=parse_etcd_location(place, allow_http=True).url)


def next_epoch(engine: Engine, configuration: Configuration) -> Epoch:
    """The epoch that follows on one with this engine, and keeps its kind. Raises `InvalidInput` code `voters_count`."""
    voters = checked_voters(configuration) if engine.votes else ()
    return Epoch(replace(engine, epoch=engine.epoch + 1, voters=voters), configuration)


def checked_voters(configuration: Configuration) -> tuple[tuple[str, str], ...]:
    """The voters of a configuration. Raises `InvalidInput` code `voters_count` unless they are 1 to `VOTERS_MAX`."""
    voters = voters_of(configuration)
    if not 1 <= len(voters) <= VOTERS_MAX:
        raise InvalidInput(
            f"A store has 1 to {VOTERS_MAX} voters, and would have {len(voters)}; nothing was changed",
            code=error_codes.VOTERS_COUNT,
            hint="See them: skyhold store voters show",
        )
    return voters


def encode_epoch(epoch: Epoch) -> bytes:
    """Canonical JSON."""
    configuration = decode(encode_configuration(epoch.configuration), _WHAT)
    return encode({"epoch": 1, "engine": engine_to_json(epoch.engine), "configuration": configuration}, _WHAT)


def decode_epoch(body: bytes) -> Epoch:
    """The inverse. Raises `Corrupt`, and `InvalidInput` for what a later Skyhold wrote."""
    document = decode_canonical(body, _WHAT)
    if document.keys() != {"epoch", "engine", "configuration"} or document["epoch"] != 1:
        raise Corrupt(f"The {_WHAT} is malformed: it has other fields", code=error_codes.CONFIGURATION_MALFORMED)
    configuration = decode_configuration(encode(document["configuration"], _WHAT))
    return Epoch(engine_from_json(document["engine"], _WHAT), configuration)
