"""How a store goes from one epoch to the next: which registers each has, and what a machine notes of a move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import BucketLocation
from skyhold.consensus.carrying import CONFIG, Succession
from skyhold.consensus.checkpoint import CheckpointedRegisters, Holders
from skyhold.consensus.framed import FramedRegisters
from skyhold.consensus.register import Registers, Versioned
from skyhold.consensus.sqlite import SqliteRegisters
from skyhold.errors import Corrupt, SkyholdError
from skyhold.registry.name_table import Names
from skyhold.registry.voters import open_voters
from skyhold.storage.bootstrap import inspect_store_document
from skyhold.storage.configuration import Configuration, decode_configuration, encode_configuration
from skyhold.storage.epoch import decode_epoch
from skyhold.storage.policy import Policy, copies_wanted
from skyhold.storage.state import open_state
from skyhold.storage.store_document import BUCKETS, ETCD, Engine, check_machine

if TYPE_CHECKING:
    from skyhold.registry.connection import Connection

EPOCH_LEAP_MAX: Final = 2**16
"""How far the epoch that one bucket tells of may be above the one that was opened."""


class StoreSuccession(Succession):
    """The epochs of the store of a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def open(self, next_configuration: bytes) -> Registers:
        epoch = decode_epoch(next_configuration)
        epoch.configuration.features.refuse_unread()
        return open_registers(self._connection, epoch.engine, epoch.configuration)

    def listed(self, names: Versioned, configuration: bytes) -> Mapping[str, bool]:
        if not names.data:
            return {}
        blobs = self._connection.blobs_of(decode_configuration(configuration))
        return Names.decode(names.data, names.version, blobs).created()

    def configuration(self, next_configuration: bytes) -> bytes:
        return encode_configuration(decode_epoch(next_configuration).configuration)

    def check_writable(self) -> None:
        self._connection.features.refuse_unwritten()

    def entered(self, next_configuration: bytes) -> None:
        self._connection.enter(decode_epoch(next_configuration))


def open_registers(connection: Connection, engine: Engine, configuration: Configuration | None) -> Registers:
    """The registers of one epoch. `configuration` is None where only its own register knows it."""
    if engine.kind == BUCKETS:
        places = configuration.locations if configuration is not None else connection.known_places
        # What a voter holds is framed as a whole: its values, which are much alike, are not framed one by one.
        return open_voters(connection, engine, {location.name: location for location in places})
    if engine.kind == ETCD:
        from skyhold.consensus.etcd import open_etcd

        location = connection.consents.reach_etcd(engine.cluster)
        etcd = open_etcd(location, store_id=connection.document.store, epoch=engine.term, writer=connection.author)
        return FramedRegisters(etcd, connection.keys)
    return open_machine_registers(connection, engine, configuration)


def open_machine_registers(
    connection: Connection, engine: Engine, configuration: Configuration | None, *, needed: int | None = None
) -> CheckpointedRegisters:
    """The registers on this machine. `needed` buckets have to take a checkpoint, by default as many as a policy without
    wishes wants. Raises `PermissionDenied` code `other_machine` where they are on another."""
    document = replace(connection.document, engine=engine)
    check_machine(document, open_state().machine_id)
    database = SqliteRegisters(connection.state.registers(engine.term))
    framed = FramedRegisters(database, connection.keys)
    if configuration is None:
        value = framed.read(CONFIG)
        if value is None:
            database.close()
            raise Corrupt(
                f"The registers of store {document.store} on this machine are empty",
                code="registers_missing",
                hint="Run `skyhold recover URL` with the URL of one of its buckets",
            )
        configuration = decode_configuration(value.data)

    def holders() -> Holders:
        value = framed.read(CONFIG)  # another process of this machine may have changed it
        now = configuration if value is None else decode_configuration(value.data)
        return Holders(
            tuple(connection.bucket_at(location) for location in now.locations),
            needed or copies_wanted(Policy(), now.locations),
            0 if value is None else value.version,
        )

    return CheckpointedRegisters(
        framed,
        database,
        holders,
        connection.keys,
        connection.store_keys.name_key(),
        term=engine.term,
        machine=engine.machine,
        read_holder=partial(_holder, connection),
    )


def _holder(connection: Connection, bucket: Bucket) -> tuple[int, str]:
    """Term and machine that a bucket tells of."""
    engine = inspect_store_document(bucket, connection.store_keys).engine
    return engine.term, engine.machine


def newest_engine(connection: Connection) -> tuple[Engine, list[BucketLocation]]:
    """The engine of the greatest epoch that any bucket tells of which is known, and the places that it tells with it:
    none where no bucket knows more than the connection. On one machine it is what it is. One bucket that tells of an
    epoch which nobody can have come to is passed over, so that no later epoch is counted on from it."""
    newest, told = connection.document.engine, []
    for place in {place.place: place for place in connection.known_places}.values() if connection.shared else ():
        try:
            document = inspect_store_document(connection.bucket_at(place), connection.store_keys)
        except SkyholdError:
            continue
        if newest.term < document.engine.term <= connection.document.engine.term + EPOCH_LEAP_MAX:
            newest, told = document.engine, [replace(place, name=document.bucket), *document.hints]
    return newest, told
