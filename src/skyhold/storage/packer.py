"""Filling packs and sending them: a few buffers, each lent to a pack until its last replica has been written."""

from __future__ import annotations

import os
import queue
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from skyhold.storage.chunk_index import ChunkIndex, KnownPack
from skyhold.storage.chunk_record import Place, Record, RecordSealer
from skyhold.storage.chunks import PackSpace
from skyhold.storage.object_keys import pack_key
from skyhold.storage.pack import PACK_BYTES_TARGET, PackBuilder
from skyhold.storage.replica_write import Written

_SLOWNESS_CHECK_S: Final = 1.0

ABANDON_S: Final = 5.0
"""How long a failed push waits for the packs in flight, to note those that arrive."""


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """Where a chunk is, and its delta base, if it has one."""

    place: Place
    base: Place | None


@dataclass(slots=True)
class Sent:
    """What a packer has sent: the sizes of packs by id."""

    packs: dict[bytes, int] = field(default_factory=dict)
    stored_bytes: int = 0


class Packer:
    """Takes records in order and sends packs. Used by one thread; replicas are written by others."""

    def __init__(self, space: PackSpace, chunk_index: ChunkIndex, *, buffers: int, dry_run: bool = False) -> None:
        self._space = space
        self._scratch = tempfile.TemporaryDirectory(prefix="skyhold-dry-run-") if dry_run else None
        # What a dry run would have stored is noted in a temporary folder: 1 TB has a million chunks.
        self._chunk_index = chunk_index if self._scratch is None else ChunkIndex(Path(self._scratch.name))
        self._session = space.session(os.urandom(16))
        self.sealer = RecordSealer(space.keys, self._session)
        self._buffers: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        self._buffers_unmade = buffers
        self._builder: PackBuilder | None = None
        self._buffer = bytearray()
        self._flights: dict[bytes, Written | None] = {}
        """Packs in flight by id, all in the chunk index; None for the moment before a pack is sent."""
        self._placed: dict[bytes, StoredChunk] = {}
        """The chunks of the pack that is being filled, which the chunk index does not know yet."""
        self.sent = Sent()

    def find(self, chunk_id: bytes) -> StoredChunk | None:
        """Where this packer has placed a chunk that the store's chunk index does not list (yet). Thread-safe."""
        stored = self._placed.get(chunk_id)
        if stored is not None or self._scratch is None:
            return stored
        place = self._chunk_index.find(chunk_id, self._space.placement_class.hex())
        return None if place is None else StoredChunk(place, None)

    def append(self, record: Record, base: Place | None) -> Place:
        """Append a record to the current pack; a full pack is sent first. Raises as `Replicas.wait_settled` does."""
        if self._builder is not None and not self._builder.fits(record):
            self.flush()
        if self._builder is None:
            self._buffer = self._free_buffer()
            self._builder = PackBuilder(self._buffer, self._session, self._space.keys)
        place = self._builder.append(record)
        self._placed[place.chunk_id] = StoredChunk(place, base)
        return place

    def flush(self) -> None:
        """Send the current pack, if there is one."""
        if self._builder is None:
            return
        builder, buffer, self._builder = self._builder, self._buffer, None
        body, pack_id = builder.finish(), builder.pack.pack_id
        self.sent.packs[pack_id] = len(body)
        self.sent.stored_bytes += len(body)
        buffers = self._buffers
        self._flights[pack_id] = None
        self._chunk_index.enter(KnownPack(builder.pack, self._space.placement_class.hex(), len(body)), builder.places)
        self._placed = {}
        if self._scratch is not None:
            buffers.put(buffer)
            return
        self._space.cache.put(pack_id, 0, body)
        self._flights[pack_id] = self._space.replicas.begin_write(
            pack_key(pack_id), body, lambda _written: buffers.put(buffer)
        )
        self._settle()

    def finish(self) -> None:
        """Send the last pack and return once every pack is durable to the policy, in every bucket that does not lag.

        The buffers are free then, except those that are still being written to a lagging bucket.
        """
        self.flush()
        self._buffer, self._buffers, self._buffers_unmade = bytearray(), queue.SimpleQueue(), 0
        for pack_id, written in self._under_way():
            self._space.replicas.wait_settled(written)
            self._arrived(pack_id)

    def close(self) -> None:
        """Remove what a dry run has noted."""
        if self._scratch is not None:
            self._chunk_index.close()
            self._scratch.cleanup()

    def abandon(self) -> None:
        """Give up: nothing more is sent. Packs that have arrived stay in the chunk index, the others are removed from
        it."""
        replicas = self._space.replicas
        replicas.stop()
        deadline = time.monotonic() + ABANDON_S
        gone = []
        for pack_id, written in self._flights.items():
            if written is not None:
                replicas.wait_all(written, timeout_s=max(0.0, deadline - time.monotonic()))
            if written is not None and written.verified:
                self._chunk_index.arrived(pack_id)
            else:
                gone.append(pack_id)
        self._chunk_index.forget(gone)

    def _settle(self) -> None:
        """Note arrivals; raise early where a pack can no longer become durable."""
        for pack_id, written in self._under_way():
            if not written.pending:
                self._space.replicas.wait_settled(written)
                self._arrived(pack_id)

    def _arrived(self, pack_id: bytes) -> None:
        self._chunk_index.arrived(pack_id)
        del self._flights[pack_id]

    def _under_way(self) -> list[tuple[bytes, Written]]:
        return [(pack_id, written) for pack_id, written in self._flights.items() if written is not None]

    def _free_buffer(self) -> bytearray:
        if self._buffers_unmade and self._buffers.empty():
            self._buffers_unmade -= 1
            return bytearray(PACK_BYTES_TARGET)
        while True:  # ends with a bucket's answer: every driver bounds its writes
            try:
                return self._buffers.get(timeout=_SLOWNESS_CHECK_S)
            except queue.Empty:
                self._space.replicas.check_cancelled()
                for _, written in self._under_way():
                    self._space.replicas.mark_slow(written)
