"""What a seal carries: the epoch that follows, as an engine and a configuration (format.md, 11b). Pure."""

from __future__ import annotations

from dataclasses import dataclass

from skyhold.errors import Corrupt
from skyhold.storage.canonical import decode, decode_canonical, encode
from skyhold.storage.configuration import Configuration, decode_configuration, encode_configuration
from skyhold.storage.store_document import BUCKETS, Engine, engine_from_json, engine_to_json

_WHAT = "configuration of an epoch"


@dataclass(frozen=True, slots=True)
class Epoch:
    """One engine, and the configuration of the store when it begins with it. Epochs are numbered by `engine.term`."""

    engine: Engine
    configuration: Configuration


def voters_of(configuration: Configuration) -> tuple[tuple[str, str], ...]:
    """Name and incarnation of each bucket that votes, where the engine is `buckets`."""
    return tuple(
        (bucket.location.name, bucket.incarnation) for bucket in configuration.buckets if bucket.role == "voter"
    )


def next_epoch(engine: Engine, configuration: Configuration) -> Epoch:
    """The epoch that follows on one with this engine, and keeps its kind."""
    voters = voters_of(configuration) if engine.kind == BUCKETS else ()
    return Epoch(Engine(engine.machine, engine.term + 1, engine.kind, voters), configuration)


def encode_epoch(epoch: Epoch) -> bytes:
    """Canonical JSON."""
    configuration = decode(encode_configuration(epoch.configuration), _WHAT)
    return encode({"epoch": 1, "engine": engine_to_json(epoch.engine), "configuration": configuration}, _WHAT)


def decode_epoch(body: bytes) -> Epoch:
    """The inverse. Raises `Corrupt`, and `InvalidInput` for what a later Skyhold wrote."""
    document = decode_canonical(body, _WHAT)
    if document.keys() != {"epoch", "engine", "configuration"} or document["epoch"] != 1:
        raise Corrupt(f"The {_WHAT} is malformed: it has other fields", code="configuration_malformed")
    configuration = decode_configuration(encode(document["configuration"], _WHAT))
    return Epoch(engine_from_json(document["engine"], _WHAT), configuration)
