"""Index segments: which chunks are in which packs, as blobs in the buckets (format.md, 8)."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import rfc8785

from skyhold import error_codes
from skyhold.buckets.bucket import Bucket
from skyhold.errors import Corrupt, NotFound
from skyhold.storage.blobs import BucketBlobs
from skyhold.storage.chunk_index import ChunkIndex, KnownPack
from skyhold.storage.chunk_record import NO_BASE, PackRef, Place, check_lengths
from skyhold.storage.object_keys import INDEXES, blob_name_of
from skyhold.storage.pack import PACK_BYTES_MAX
from skyhold.storage.replicas import Replicas

SEGMENT_CHUNKS_MAX: Final = 50_000
"""Chunks of one segment: 4 MiB of entries, so that merging and reading one stay small."""

SEGMENTS_UNMERGED_MAX: Final = 16
"""More small segments than this are merged by the next push."""

LISTINGS_MAX: Final = 2

_FIELDS: Final = frozenset({"index", "class", "packs", "chunks", "first", "last", "replaces"})
_CLASS: Final = re.compile(r"[0-9a-f]{16}")
_NAME: Final = re.compile(r"[0-9a-f]{64}")
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
    entries = []
    for p in places:
        check_lengths(p.raw_length, p.stored_length)
        base_id, number = p.base_id or NO_BASE, numbers[p.pack]
        entries.append(_ENTRY.pack(p.chunk_id, base_id, p.offset, p.stored_length, p.raw_length, p.codec, number))
    entries.sort()
    for known in packs:
        _check_size(known.size_bytes)
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
        placement_class, packs_count, chunks_count, replaces = _fields(body[4 : 4 + length])
        at = 4 + length
        end = at + _PACK.size * packs_count
        packs = []
        for pack_id, salt, size_bytes in _PACK.iter_unpack(body[at:end]):
            _check_size(size_bytes)
            packs.append(KnownPack(PackRef(pack_id, salt), placement_class, size_bytes))
        places = []
        for chunk_id, base, offset, stored, raw, codec, number in _ENTRY.iter_unpack(body[end:]):
            check_lengths(raw, stored)
            base_id = None if base == NO_BASE else base
            places.append(Place(chunk_id, packs[number].pack, offset, stored, raw, codec, base_id))
        if (len(packs), len(places)) != (packs_count, chunks_count):
            raise ValueError("its counts do not fit its length")  # noqa: TRY301
        return Segment(placement_class, tuple(packs), tuple(places), replaces)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, struct.error) as error:
        raise Corrupt(
            f"Index segment {name} is damaged: {error}", code=error_codes.INDEX_DAMAGED, segment=name
        ) from error


def _fields(document: bytes) -> tuple[str, int, int, frozenset[str]]:
    """Placement class, numbers of packs and chunks, and the names that are replaced. Raises `ValueError`: any client
    with write access to a bucket of an open store may have written it, and the values go into a database."""
    fields = json.loads(document)
    if not isinstance(fields, dict) or fields.keys() != _FIELDS:
        raise ValueError("its fields differ")
    placement_class, replaces = fields["class"], fields["replaces"]
    if fields["index"] != 1 or not isinstance(placement_class, str) or not _CLASS.fullmatch(placement_class):
        raise ValueError("its kind or its class is unknown")
    if not isinstance(replaces, list) or not all(isinstance(name, str) and _NAME.fullmatch(name) for name in replaces):
        raise ValueError("what it replaces are no names of segments")
    counts = fields["packs"], fields["chunks"]
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("its counts are no numbers")
    return placement_class, *counts, frozenset(replaces)


def _check_size(size_bytes: int) -> None:
    if not 0 < size_bytes <= PACK_BYTES_MAX:
        raise ValueError(f"a pack of {size_bytes} bytes, which cannot be")


def learn_segments(
    chunk_index: ChunkIndex, blobs: BucketBlobs, replicas: Replicas, placement_class: str
) -> frozenset[str]:
    """Enter the segments of the buckets that the chunk index does not contain yet; returns the names of those that a
    bucket lists. Raises `Unavailable` where no bucket can be listed; a segment that no bucket returns intact is
    skipped: an index only saves work."""
    folder = f"{INDEXES}/{placement_class}"

    def listed(bucket: Bucket) -> list[str]:
        return [name for info in bucket.list(f"{folder}/") if (name := blob_name_of(info.key)) is not None]

    found: list[str] = []
    for _ in range(LISTINGS_MAX):
        found, gone = replicas.first(f"the list of {folder}", listed), False
        known = chunk_index.segments(placement_class, found)
        for name in found:
            if name not in known:
                try:
                    segment = decode_segment(blobs.read(folder, name), name)
                except (Corrupt, NotFound):
                    gone = True  # another push may have merged it since: then the list has changed
                    continue
                chunk_index.add_segment(name, placement_class, segment.packs, segment.places, segment.replaces)
        if not gone:
            break
    return frozenset(found)


def listed_places(
    blobs: BucketBlobs, replicas: Replicas, placement_class: str, packs: Collection[bytes]
) -> dict[bytes, list[tuple[Place, ...]]]:
    """The places, by offset, that the segments of the buckets list for packs of these ids: each list that differs,
    since one may be wrong. A segment that no bucket returns intact is skipped."""
    folder = f"{INDEXES}/{placement_class}"
    names = {
        name
        for bucket in replicas.buckets.values()
        for info in bucket.list(f"{folder}/")
        if (name := blob_name_of(info.key)) is not None
    }
    found: dict[bytes, list[tuple[Place, ...]]] = {}
    for name in sorted(names):
        try:
            segment = decode_segment(blobs.read(folder, name), name)
        except (Corrupt, NotFound):
            continue
        for pack_id in {known.pack.pack_id for known in segment.packs} & set(packs):
            listed = (place for place in segment.places if place.pack_id == pack_id)
            places = tuple(sorted(listed, key=lambda place: place.offset))
            if places not in found.setdefault(pack_id, []):
                found[pack_id].append(places)
    return found


def write_segments(
    chunk_index: ChunkIndex,
    blobs: BucketBlobs,
    placement_class: str,
    durable: Collection[bytes],
    listed: Collection[str] = (),
) -> None:
    """Write segments for those of the packs of these ids that are in none yet, merging small segments when there are
    many. A segment names only durable packs: a pack that a killed push had sent is listed by the push that reuses it.

    Merged segments are deleted from each bucket that has the segment that contains them, so that the list, which every
    push reads, does not grow with the number of pushes. `listed` are those that a bucket still lists: only these need
    to be named as contained.
    """
    unlisted = [known for known in chunk_index.unlisted(placement_class) if known.pack.pack_id in durable]
    if not unlisted:
        return
    small = chunk_index.small_segments(placement_class, SEGMENT_CHUNKS_MAX // SEGMENTS_UNMERGED_MAX)
    merged = sorted(small) if len(small) >= SEGMENTS_UNMERGED_MAX else []
    # A segment is merged whole into one other, which can then list it as contained.
    there = frozenset(listed)
    parts = [(chunk_index.packs_in(name), {name} | chunk_index.contained_in(name) & there) for name in merged]
    parts += [([known], set()) for known in unlisted]
    folder = f"{INDEXES}/{placement_class}"
    group: list[KnownPack] = []
    places: list[Place] = []
    contains: set[str] = set()

    def flush() -> None:
        name = blobs.write(folder, encode_segment(placement_class, group, places, contains))
        chunk_index.list_in(name, placement_class, [known.pack.pack_id for known in group], contains, len(places))
        for collected in (group, places, contains):
            collected.clear()

    for packs, names in parts:
        found = [place for known in packs for place in chunk_index.places(known.pack)]
        if group and len(places) + len(found) > SEGMENT_CHUNKS_MAX:
            flush()
        group += packs
        places += found
        contains |= names
    flush()
    blobs.forget(folder, merged)
