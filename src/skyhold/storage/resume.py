"""Finding the packs that a killed push had sent, so that nothing is sent twice."""

from __future__ import annotations

from skyhold.storage.chunk_index import ChunkIndex
from skyhold.storage.chunks import PackSpace
from skyhold.storage.object_keys import pack_key
from skyhold.storage.reuse import find_holders


def resume(space: PackSpace, chunk_index: ChunkIndex) -> None:
    """Ask the buckets which packs of pushes that no longer run have arrived; the others are forgotten."""
    abandoned = chunk_index.abandoned(space.placement_class.hex())
    if not abandoned:
        return
    sizes = {pack_key(known.pack.pack_id): known.size_bytes for known in abandoned}
    holders = find_holders(space.replicas, sizes)
    gone = []
    for known in abandoned:
        if holders.of[pack_key(known.pack.pack_id)]:
            chunk_index.arrived(known.pack.pack_id)
        else:
            gone.append(known.pack.pack_id)
    if not holders.silent:  # else a bucket that did not answer may hold them: the next push asks again
        chunk_index.forget(gone)
