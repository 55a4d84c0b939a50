"""Rebuilding a pack that no bucket returns intact, out of other copies of its chunks (concepts.md, Durability).

Layouts name places in a pack: offset, lengths and codec. So the pack gets its old id, session and places. Records that
are intact in a damaged copy are kept, and every other chunk is encoded again as it was. Each chunk is known by its id,
which is checked, so it does not matter where it comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from skyhold import error_codes
from skyhold.buckets.bucket import Bucket
from skyhold.codec.frame import FrameKeys
from skyhold.codec.seal import TAG_BYTES
from skyhold.codec.squeeze import Encoder
from skyhold.errors import Corrupt, PermissionDenied, SkyholdError
from skyhold.storage.chunk_record import PackRef, PackSession, Place, Record, RecordSealer, open_record, split_record
from skyhold.storage.chunks import ChunkReader
from skyhold.storage.object_check import ObjectChecker
from skyhold.storage.pack import PACK_BYTES_MAX, PACK_HEADER_BYTES, PackBuilder, pack_bytes_at_most
from skyhold.units import Buffer

_LISTED_AT_ONCE: Final = 8
_PUSH_AGAIN: Final = "Push the files again that contain it, then run `skyhold repair`"


@dataclass(frozen=True, slots=True)
class LostPack:
    """A pack that no bucket returns intact: its session, the places that it has to have (as different sources list
    them, the best one first), and its damaged copies."""

    pack: PackRef
    session: PackSession
    listings: tuple[tuple[Place, ...], ...]
    copies: tuple[Buffer, ...]


ChunkOf = Callable[[bytes], Buffer | None]
"""A chunk by its id, checked, or None where no bucket returns it."""


@dataclass(slots=True)
class ChunkSources:
    """Where chunks are in the packs of one placement class, and their content. `reader` makes a reader of the packs as
    one bucket has them."""

    reader: Callable[[str], ChunkReader]
    _places: dict[bytes, list[tuple[str, Place]]] = field(default_factory=dict)

    def enter(self, bucket: str, places: Iterable[Place]) -> None:
        for place in places:
            self._places.setdefault(place.chunk_id, []).append((bucket, place))

    def bases(self) -> set[bytes]:
        """The ids of the delta bases of all places that are entered."""
        return {place.base_id for places in self._places.values() for _, place in places if place.base_id is not None}

    def chunk(self, chunk_id: bytes) -> Buffer | None:
        """The content of a chunk, out of the first place that returns it."""
        for bucket, place in sorted(self._places.get(chunk_id, ()), key=lambda found: found[1].base_id is not None):
            with suppress(SkyholdError):
                reader = self.reader(bucket)
                base = None if place.base_id is None else self.chunk(place.base_id)
                if base is not None or place.base_id is None:
                    return reader.decode(place, reader.fetch([place])[place], base)
        return None


def find_sources(
    packs: Mapping[str, Mapping[str, int]],
    buckets: Mapping[str, Bucket],
    placement_class: bytes,
    wanted: Collection[bytes],
    sources: ChunkSources,
    checker: ObjectChecker,
) -> None:
    """Enter in `sources` the places of the `wanted` chunks, and of their bases, in all packs of a class. `packs` are
    the sizes that each bucket lists of the packs that it has."""
    known: set[bytes] = set()
    missing = set(wanted)
    while missing:  # twice at most: a base is stored whole
        known |= missing
        asked = [(name, key, size) for name, sizes in packs.items() for key, size in sizes.items()]

        def look(item: tuple[str, str, int], missing: Collection[bytes] = missing) -> tuple[str, list[Place]]:
            name, key, size_bytes = item
            with suppress(SkyholdError):
                _, of_class, places = checker.listed(buckets[name], key, size_bytes)
                if of_class == placement_class:
                    return name, [place for place in places if place.chunk_id in missing]
            return name, []

        with ThreadPoolExecutor(_LISTED_AT_ONCE, thread_name_prefix="sources") as pool:
            for name, places in pool.map(look, asked):
                sources.enter(name, places)
        missing = sources.bases() - known


def rebuild_pack(lost: LostPack, chunk_of: ChunkOf, keys: FrameKeys) -> bytes:
    """The whole pack. Raises `Corrupt` code `chunk_lost` where a chunk of it cannot be found anywhere, or cannot be
    stored in the same place."""
    error = Corrupt(
        f"What pack {lost.pack.pack_id.hex()} contained is not known: no footer of a copy is intact, and no "
        "intact index segment lists it",
        code=error_codes.CHUNK_LOST,
        hint=_PUSH_AGAIN,
        pack=lost.pack.pack_id.hex(),
    )
    for places in lost.listings:
        try:
            return _rebuilt(lost, places, chunk_of, keys)
        except Corrupt as failure:
            error = failure
    raise error


def _rebuilt(lost: LostPack, places: Sequence[Place], chunk_of: ChunkOf, keys: FrameKeys) -> bytes:
    keys = replace(keys, number=_number(lost, places, keys))
    sealer = RecordSealer(keys, lost.session)
    buffer = bytearray(pack_bytes_at_most(places))
    builder = PackBuilder(buffer, lost.session, keys, lost.pack.pack_id)
    encoder = Encoder()
    for place in places:
        record = _kept(lost, place, keys) or _made(place, chunk_of, sealer, encoder)
        if builder.append(record) != place:
            raise _lost(place, "it does not fit in its old place")
    return bytes(builder.finish())


def check_places(places: Sequence[Place], needed: Collection[Place]) -> bool:
    """Whether these are all places of one pack, one after another, and those among them that layouts name."""
    end = PACK_HEADER_BYTES
    for place in places:
        if place.offset != end:
            return False
        end += place.record_length
    return bool(places) and end <= PACK_BYTES_MAX and set(needed) <= set(places)


def _number(lost: LostPack, places: Sequence[Place], keys: FrameKeys) -> int:
    """The number of the data key of the records that are kept: all records of a pack have the same."""
    for place in places:
        for copy in lost.copies:
            if _intact(copy, place, lost.session, keys):
                return int.from_bytes(memoryview(copy)[place.offset + 6 : place.offset + 8], "little")
    return keys.number


def _kept(lost: LostPack, place: Place, keys: FrameKeys) -> Record | None:
    for copy in lost.copies:
        if _intact(copy, place, lost.session, keys):
            return split_record(memoryview(copy)[place.offset : place.offset + place.record_length], place)
    return None


def _intact(copy: Buffer, place: Place, session: PackSession, keys: FrameKeys) -> bool:
    try:
        open_record(memoryview(copy)[place.offset : place.offset + place.record_length], place, session, keys)
    except (Corrupt, PermissionDenied):
        return False
    return True


def _made(place: Place, chunk_of: ChunkOf, sealer: RecordSealer, encoder: Encoder) -> Record:
    chunk = chunk_of(place.chunk_id)
    base = None if place.base_id is None else chunk_of(place.base_id)
    if chunk is None or len(chunk) != place.raw_length:
        raise _lost(place, "no bucket holds another copy of it")
    if place.base_id is not None and (base is None or len(base) != place.raw_length):
        raise _lost(place, "no bucket holds a copy of its delta base")
    payload = encoder.encode_as(place.codec, chunk, base, place.stored_length - TAG_BYTES)
    if payload is None:
        raise _lost(place, "this version of Skyhold cannot compress it to the length that it had")
    return sealer.seal(place.chunk_id, place.codec, place.raw_length, place.base_id, payload)


def _lost(place: Place, why: str) -> Corrupt:
    return Corrupt(
        f"Chunk {place.chunk_id.hex()[:16]} of pack {place.pack_id.hex()} is lost: {why}",
        code=error_codes.CHUNK_LOST,
        hint=_PUSH_AGAIN,
        chunk=place.chunk_id.hex(),
        pack=place.pack_id.hex(),
    )
