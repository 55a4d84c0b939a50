"""How a store goes from one epoch to the next: which registers each has, and what a machine notes of a move."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from skyhold import error_codes
from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import BucketLocation
from skyhold.consensus.checkpoint import CheckpointedRegisters, Holders
from skyhold.consensus.framed_registers import FramedRegisters
from skyhold.consensus.migration import CONFIG, Succession
from skyhold.consensus.register import EngineRegisters, Versioned
from skyhold.consensus.sqlite import SqliteRegisters
from skyhold.errors import Corrupt, SkyholdError
from skyhold.storage.policy import Policy, copies_wanted
from skyhold.store.bootstrap import inspect_store_document
from skyhold.store.configuration import Configuration, decode_configuration, encode_configuration
from skyhold.store.context import StoreContext
from skyhold.store.directory import Directory
from skyhold.store.epoch import Epoch, decode_epoch
from skyhold.store.features import Features
from skyhold.store.state import open_state
from skyhold.store.store_document import ETCD, Engine, check_machine
from skyhold.store.voters import open_voters

EPOCH_LEAP_MAX: Final = 2**16
"""How far the epoch that one bucket reports may be above the one that was opened."""


class StoreSuccession(Succession):
    """The epochs of a store. `features` are those that hold now; `enter` is called with each epoch that begins."""

    def __init__(self, context: StoreContext, features: Callable[[], Features], enter: Callable[[Epoch], None]) -> None:
        self._context = context
        self._features = features
        self._enter = enter

    def open(self, next_configuration: bytes) -> EngineRegisters:
        epoch = decode_epoch(next_configuration)
        epoch.configuration.features.refuse_unread()
        return open_registers(self._context, epoch.engine, epoch.configuration)

    def listed(self, names: Versioned, configuration: bytes) -> Mapping[str, bool]:
        if not names.data:
            return {}
        blobs = self._context.blobs_of(decode_configuration(configuration))
        return Directory.decode(names.data, names.version, blobs).created()

    def configuration(self, next_configuration: bytes) -> bytes:
        return encode_configuration(decode_epoch(next_configuration).configuration)

    def check_writable(self) -> None:
        self._features().refuse_unwritten()

    def entered(self, next_configuration: bytes) -> None:
        self._enter(decode_epoch(next_configuration))


def open_registers(context: StoreContext, engine: Engine, configuration: Configuration | None) -> EngineRegisters:
    """The registers of one epoch. `configuration` is None where only its own register knows it."""
    if engine.votes:
        places = configuration.locations if configuration is not None else context.known_places
        # What a voter holds is framed as a whole: its values, which are much alike, are not framed one by one.
        return open_voters(context, engine, {location.name: location for location in places})
    if engine.kind == ETCD:
        from skyhold.consensus.etcd import open_etcd

        location = context.consents.reach_etcd(engine.cluster)
        etcd = open_etcd(location, store_id=context.document.store, epoch=engine.epoch, writer=context.author)
        return FramedRegisters(etcd, context.keys)
    return open_machine_registers(context, engine, configuration)


def open_machine_registers(
    context: StoreContext, engine: Engine, configuration: Configuration | None, *, needed: int | None = None
) -> CheckpointedRegisters:
    """The registers on this machine. `needed` buckets have to take a checkpoint, by default as many as a policy without
    wishes wants. Raises `PermissionDenied` code `other_machine` where they are on another."""
    document = replace(context.document, engine=engine)
    check_machine(document, open_state().machine_id)
    database = SqliteRegisters(context.state.registers(engine.epoch))
    framed = FramedRegisters(database, context.keys)
    if configuration is None:
        value = framed.read(CONFIG)
        if value is None:
            database.close()
            raise Corrupt(
                f"The registers of store {document.store} on this machine are empty",
                code=error_codes.REGISTERS_MISSING,
                hint="Run `skyhold recover URL` with the URL of one of its buckets",
            )
        configuration = decode_configuration(value.data)

    def holders() -> Holders:
        value = framed.read(CONFIG)  # another process of this machine may have changed it
        now = configuration if value is None else decode_configuration(value.data)
        return Holders(
            tuple(context.bucket_at(location) for location in now.locations),
            needed or copies_wanted(Policy(), now.locations),
            0 if value is None else value.version,
        )

    return CheckpointedRegisters(
        framed,
        database,
        holders,
        context.keys,
        context.store_keys.name_key(),
        epoch=engine.epoch,
        machine=engine.machine,
        read_holder=partial(_holder, context),
    )


def _holder(context: StoreContext, bucket: Bucket) -> tuple[int, str]:
    """Epoch and machine that a bucket reports."""
    engine = inspect_store_document(bucket, context.store_keys).engine
    return engine.epoch, engine.machine


def newest_engine(context: StoreContext) -> tuple[Engine, list[BucketLocation]]:
    """The engine of the greatest epoch that any known bucket reports, and the places that it reports with it: none
    where no bucket knows more than this machine. With registers on one machine it is unchanged. A bucket that reports
    an impossibly high epoch is skipped, so that no later epoch is counted from it."""
    newest, places = context.document.engine, []
    for place in {place.place: place for place in context.known_places}.values() if context.shared else ():
        try:
            document = inspect_store_document(context.bucket_at(place), context.store_keys)
        except SkyholdError:
            continue
        if newest.epoch < document.engine.epoch <= context.document.engine.epoch + EPOCH_LEAP_MAX:
            newest, places = document.engine, [replace(place, name=document.bucket), *document.hints]
    return newest, places
