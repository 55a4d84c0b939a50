"""Filling packs and sending them: a few buffers, each lent to a pack until its last replica has been written."""

from __future__ import annotations

import os
import queue
from dataclasses import dataclass, field
from typing import Final

from skyhold.errors import SkyholdError, Unavailable
from skyhold.storage.catalogue import Catalogue, KnownPack
from skyhold.storage.chunks import PackSpace
from skyhold.storage.names import pack_key
from skyhold.storage.pack import PACK_BYTES_TARGET, PackBuilder, Place, Record, RecordSealer
from skyhold.storage.replicas import Written
from skyhold.units import MIB

PATIENCE_S: Final = 20.0
"""How long a push waits for a slow bucket before it goes on without it, where the others suffice."""

_BUFFER_BYTES: Final = PACK_BYTES_TARGET + 5 * MIB
"""Room for a record that passes the target, which a pack takes where it is the first."""


@dataclass(slots=True)
class Sent:
    """What a packer has sent: the sizes of packs by id."""

    packs: dict[bytes, int] = field(default_factory=dict)
    stored_bytes: int = 0


class Packer:
    """Takes records in order and sends packs. Used by one thread; replicas are written by others."""

    def __init__(self, space: PackSpace, catalogue: Catalogue, *, buffers: int, dry_run: bool = False) -> None:
        self._space = space
        self._catalogue = catalogue
        self._dry_run = dry_run
        self._session = space.session(os.urandom(16))
        self.sealer = RecordSealer(space.keys, self._session)
        self._buffers: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        for _ in range(buffers):
            self._buffers.put(bytearray())
        self._builder: PackBuilder | None = None
        self._buffer = bytearray()
        self._flights: list[Written] = []
        self.placed: dict[bytes, Place] = {}
        """Chunks of packs that the catalogue does not know yet."""
        self.sent = Sent()

    def append(self, record: Record) -> Place:
        """Lay a record into the current pack; a full pack is sent first. Raises as `Replicas.wait_enough` does."""
        if self._builder is not None and not self._builder.fits(record):
            self.flush()
        if self._builder is None:
            self._buffer = self._free_buffer()
            self._builder = PackBuilder(self._buffer, self._session, self._space.keys)
        place = self._builder.append(record)
        self.placed[place.chunk_id] = place
        return place

    def flush(self) -> None:
        """Send the current pack, if there is one."""
        if self._builder is None:
            return
        builder, self._builder = self._builder, None
        body, buffer = builder.finish(), self._buffer
        known = KnownPack(builder.pack, self._space.placement_class.hex(), len(body))
        self.sent.packs[builder.pack.pack_id] = len(body)
        self.sent.stored_bytes += len(body)
        if self._dry_run:
            body.release()
            self._buffers.put(buffer)
            return
        self._catalogue.enter(known, builder.places)
        for place in builder.places:
            self.placed.pop(place.chunk_id, None)
        self._space.cache.put(builder.pack.pack_id, 0, body)

        def done(written: Written) -> None:
            body.release()
            self._buffers.put(buffer)

        self._flights.append(self._space.replicas.begin_write(pack_key(builder.pack.pack_id), body, done))
        self._settle()

    def finish(self) -> None:
        """Send the last pack and return once every pack is durable to the policy and no replica is pending."""
        self.flush()
        for written in self._flights:
            self._space.replicas.wait_all(written)
            self._space.replicas.wait_enough(written)
        self._settle()

    def abandon(self) -> None:
        """Give up: wait until no thread reads a buffer any more. What has arrived stays known to the catalogue."""
        for written in self._flights:
            self._space.replicas.wait_all(written)

    def _settle(self) -> None:
        """Note arrivals; raise early where a pack can no longer become durable."""
        pending = []
        for written in self._flights:
            if written.pending:
                pending.append(written)
                continue
            self._space.replicas.wait_enough(written)
            self._catalogue.arrived(bytes.fromhex(written.key.rsplit("/", 1)[1]))
        self._flights = pending

    def _free_buffer(self) -> bytearray:
        while True:
            try:
                buffer = self._buffers.get(timeout=PATIENCE_S)
            except queue.Empty:
                self._pass_over_slow_buckets()
                continue
            if len(buffer) < _BUFFER_BYTES:  # new, or cut to the length of a pack that was not full
                buffer.extend(bytes(_BUFFER_BYTES - len(buffer)))
            return buffer

    def _pass_over_slow_buckets(self) -> None:
        replicas = self._space.replicas
        for written in self._flights:
            if replicas.enough(frozenset(written.verified)):
                for name in sorted(written.pending):
                    replicas.pass_over(name, _too_slow(name))


def _too_slow(name: str) -> SkyholdError:
    return Unavailable(
        f"Bucket `{name}` is too slow; it follows later",
        code="bucket_slow",
        hint="Run `skyhold sync` to bring it up to date",
        bucket=name,
    )
