"""Index segments: which chunks lie in which packs, as blobs in the buckets (format.md, 8)."""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import rfc8785

from skyhold.buckets.bucket import Bucket
from skyhold.errors import Corrupt, NotFound
from skyhold.storage.blobs import BucketBlobs
from skyhold.storage.catalogue import Catalogue, KnownPack
from skyhold.storage.names import INDEXES, blob_name_of
from skyhold.storage.pack import NO_BASE, PackRef, Place
from skyhold.storage.replicas import Replicas

SEGMENT_CHUNKS_MAX: Final = 50_000
"""Chunks of one segment: 4 MiB of entries, so that merging and reading one stay small."""

SEGMENTS_UNMERGED_MAX: Final = 16
"""More small segments than this are merged by the next push."""

_PACK: Final = struct.Struct("<16s16sQ")
_ENTRY: Final = struct.Struct("<32s32sIIIB3xI")


@dataclass(frozen=True, slots=True)
class Segment:
    """What one segment lists. `replaces` names the segments that it contains, also at second hand."""

    placement_class: str
    packs: tuple[KnownPack, ...]
    places: tuple[Place, ...]
    replaces: frozenset[str]


def encode_segment(
    placement_class: str, packs: Sequence[KnownPack], places: Iterable[Place], replaces: Iterable[str]
) -> bytes:
    """The body of a segment, its entries sorted by chunk id."""
    numbers = {known.pack: number for number, known in enumerate(packs)}
    entries = sorted(
        _ENTRY.pack(p.chunk_id, p.base_id or NO_BASE, p.offset, p.stored_length, p.raw_length, p.codec, numbers[p.pack])
        for p in places
    )
    fields: dict[str, object] = {
        "index": 1, "class": placement_class, "packs": len(packs), "chunks": len(entries),
        "first": entries[0][:32].hex(), "last": entries[-1][:32].hex(), "replaces": sorted(replaces),
    }  # fmt: skip
    document = rfc8785.dumps(fields)  # type: ignore[arg-type]
    listed = (_PACK.pack(known.pack.pack_id, known.pack.salt, known.size_bytes) for known in packs)
    return b"".join((struct.pack("<I", len(document)), document, *listed, *entries))


def decode_segment(body: bytes, name: str) -> Segment:
    """The segment in `body`. Raises `Corrupt`."""
    try:
        (length,) = struct.unpack_from("<I", body)
        fields = json.loads(body[4 : 4 + length])
        placement_class, at = fields["class"], 4 + length
        end = at + _PACK.size * fields["packs"]
        packs = tuple(
            KnownPack(PackRef(pack_id, salt), placement_class, size)
            for pack_id, salt, size in _PACK.iter_unpack(body[at:end])
        )
        places = tuple(
            Place(chunk_id, packs[number].pack, offset, stored, raw, codec, None if base == NO_BASE else base)
            for chunk_id, base, offset, stored, raw, codec, number in _ENTRY.iter_unpack(body[end:])
        )
        if fields["index"] != 1 or len(places) != fields["chunks"]:
            raise ValueError("its counts do not fit its length")  # noqa: TRY301
        return Segment(placement_class, packs, places, frozenset(fields["replaces"]))
    except (ValueError, KeyError, TypeError, IndexError, struct.error) as error:
        raise Corrupt(f"Index segment {name} is damaged: {error}", code="index_damaged", segment=name) from error


def learn_segments(catalogue: Catalogue, blobs: BucketBlobs, replicas: Replicas, placement_class: str) -> None:
    """Enter the segments of the buckets that the catalogue does not contain yet. Raises `Unavailable` where no bucket
    can be listed; a segment that no bucket gives intact is passed over: an index only saves work."""
    folder = f"{INDEXES}/{placement_class}"

    def listed(bucket: Bucket) -> list[str]:
        return [name for info in bucket.list(f"{folder}/") if (name := blob_name_of(info.key)) is not None]

    known = catalogue.segments(placement_class)
    for name in replicas.first(f"the list of {folder}", listed):
        if name not in known:
            try:
                segment = decode_segment(blobs.read(folder, name), name)
            except (Corrupt, NotFound):
                continue
            catalogue.add_segment(name, placement_class, segment.packs, segment.places, segment.replaces)


def listed_places(
    blobs: BucketBlobs, replicas: Replicas, placement_class: str, packs: Collection[bytes]
) -> dict[bytes, list[Place]]:
    """The places that the segments of the buckets list of packs of these ids, by offset; of those that no segment
    lists, none. A segment that no bucket gives intact is passed over."""
    folder = f"{INDEXES}/{placement_class}"
    names = {
        name
        for bucket in replicas.buckets.values()
        for info in bucket.list(f"{folder}/")
        if (name := blob_name_of(info.key)) is not None
    }
    found: dict[bytes, list[Place]] = {}
    for name in sorted(names):
        try:
            segment = decode_segment(blobs.read(folder, name), name)
        except (Corrupt, NotFound):
            continue
        for pack_id in {known.pack.pack_id for known in segment.packs} & set(packs):
            places = [place for place in segment.places if place.pack_id == pack_id]
            found[pack_id] = sorted(places, key=lambda place: place.offset)
    return found


def write_segments(catalogue: Catalogue, blobs: BucketBlobs, placement_class: str, durable: Collection[bytes]) -> None:
    """Write segments for those of the packs of these ids that are in none yet, merging small segments when there are
    many. A segment names no pack that is not durable: what a push that was killed had sent is listed by who reuses it.
    """
    unlisted = [known for known in catalogue.unlisted(placement_class) if known.pack.pack_id in durable]
    if not unlisted:
        return
    small = catalogue.small_segments(placement_class, SEGMENT_CHUNKS_MAX // SEGMENTS_UNMERGED_MAX)
    merged = sorted(small) if len(small) >= SEGMENTS_UNMERGED_MAX else []
    # A segment is merged whole into one other, which can then say that it contains it.
    parts = [(catalogue.packs_in(name), {name} | catalogue.contained_in(name)) for name in merged]
    parts += [([known], set()) for known in unlisted]
    folder = f"{INDEXES}/{placement_class}"
    group: list[KnownPack] = []
    places: list[Place] = []
    contains: set[str] = set()

    def flush() -> None:
        name = blobs.write(folder, encode_segment(placement_class, group, places, contains))
        catalogue.list_in(name, placement_class, [known.pack.pack_id for known in group], contains, len(places))
        for collected in (group, places, contains):
            collected.clear()

    for packs, names in parts:
        found = [place for known in packs for place in catalogue.places(known.pack)]
        if group and len(places) + len(found) > SEGMENT_CHUNKS_MAX:
            flush()
        group += packs
        places += found
        contains |= names
    flush()
