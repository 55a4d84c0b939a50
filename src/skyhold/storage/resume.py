"""What a push that was killed had sent: found again, so that nothing is sent twice."""

from __future__ import annotations

from skyhold.storage.catalogue import Catalogue
from skyhold.storage.chunks import PackSpace
from skyhold.storage.names import pack_key
from skyhold.storage.reuse import find_holders


def resume(space: PackSpace, catalogue: Catalogue) -> None:
    """Ask the buckets which packs of pushes that no longer run have arrived; the others are forgotten."""
    abandoned = catalogue.abandoned(space.placement_class.hex())
    if not abandoned:
        return
    sizes = {pack_key(known.pack.pack_id): known.size_bytes for known in abandoned}
    holders = find_holders(space.replicas, sizes)
    gone = []
    for known in abandoned:
        if holders.of[pack_key(known.pack.pack_id)]:
            catalogue.arrived(known.pack.pack_id)
        else:
            gone.append(known.pack.pack_id)
    if not holders.silent:  # else a bucket that could not be asked may hold them: the next push asks again
        catalogue.forget(gone)
