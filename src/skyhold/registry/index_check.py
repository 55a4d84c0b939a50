"""What the index segments list of packs, compared with what the packs contain.

A segment is a hint: any client reads a pack before it uses it. But a wrong segment costs each machine that loads it
useless reads, and chunks that it omits are sent again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock

from skyhold import error_codes
from skyhold.buckets.bucket import Bucket
from skyhold.codec.frame import Kind, decode_frame
from skyhold.errors import Corrupt, SkyholdError
from skyhold.storage.chunk_index import KnownPack, each_once, hash_of
from skyhold.storage.chunk_record import Place
from skyhold.storage.index_segments import SEGMENT_CHUNKS_MAX, Segment, decode_segment, encode_segment
from skyhold.storage.object_check import ObjectChecker
from skyhold.storage.object_keys import INDEXES, PACKS, blob_name_of, pack_id_of, pack_key
from skyhold.store.session import Session
from skyhold.units import Buffer


@dataclass(frozen=True, slots=True)
class _Noted:
    """A segment: for each pack a digest of its listing, and the names of the segments that it replaces."""

    packs: dict[bytes, bytes]
    replaces: frozenset[str]
    malformed: str | None = None


@dataclass(slots=True)
class IndexCheck:
    """Records intact objects as they are read, each once. Thread-safe."""

    checker: ObjectChecker
    _contained: dict[bytes, bytes] = field(default_factory=dict)
    _segments: dict[str, _Noted] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def note(self, key: str, body: Buffer) -> None:
        pack_id = pack_id_of(key)
        if pack_id is not None and pack_id not in self._contained:
            known, places = self.checker.contents(key, body)
            digest = hash_of(known, each_once(places))
            with self._lock:
                self._contained[pack_id] = digest
        elif key.startswith(f"{INDEXES}/") and key not in self._segments:
            noted = _noted(key, body, self.checker)
            with self._lock:
                self._segments[key] = noted

    def wrong(self) -> dict[str, str]:
        """The keys of segments that are wrong, each with what is wrong. A pack that no bucket has intact is not judged,
        and a segment that a correct segment replaces does not count."""
        faults = {key: fault for key, noted in self._segments.items() if (fault := self._fault(noted)) is not None}
        replaced = {name for key, noted in self._segments.items() if key not in faults for name in noted.replaces}
        return {key: fault for key, fault in sorted(faults.items()) if blob_name_of(key) not in replaced}

    def contents(self, pack_id: bytes, holders: Mapping[Bucket, int]) -> tuple[KnownPack, list[Place]] | None:
        """What a pack that was found intact contains, each chunk once, by the footer of a copy of the size given."""
        for bucket, size_bytes in holders.items():
            with suppress(SkyholdError):
                pack, placement_class, places = self.checker.listed(bucket, pack_key(pack_id), size_bytes)
                found = KnownPack(pack, placement_class.hex(), size_bytes), each_once(places)
                if hash_of(*found) == self._contained.get(pack_id):
                    return found
        return None

    def unlisted(self, needed: Collection[str]) -> list[str]:
        """Which of these packs are intact, and in no correct segment."""
        wrong = self.wrong()
        listed = {pack for key, noted in self._segments.items() if key not in wrong for pack in noted.packs}
        return sorted(key for key in needed if (pack := pack_id_of(key)) in self._contained and pack not in listed)

    def sentences(self, needed: Collection[str]) -> list[str]:
        """What is wrong with the index, where versions need these packs."""
        found = [
            f"Index segment {key} {fault}; machines that load it read packs in vain. `skyhold repair` replaces it"
            for key, fault in self.wrong().items()
        ]
        unlisted = [] if found else self.unlisted(needed)
        if unlisted:
            more = f" and {len(unlisted) - 1} more packs" if len(unlisted) > 1 else ""
            found.append(
                f"No index segment lists {unlisted[0]}{more}; another machine would send their content again. "
                "`skyhold repair` lists them"
            )
        return found

    def _fault(self, noted: _Noted) -> str | None:
        if noted.malformed is not None:
            return noted.malformed
        contained = self._contained
        wrong = [pack.hex() for pack, digest in noted.packs.items() if contained.get(pack, digest) != digest]
        return f"does not list what pack {wrong[0]} contains" if wrong else None


def mend_index(check: IndexCheck, session: Session, buckets: Mapping[str, Bucket], needed: Collection[str]) -> int:
    """Replace each wrong segment by one that lists what its packs contain, and write segments for needed packs that
    none lists. Returns how many were written.

    Raises `Corrupt` for a segment whose packs cannot be determined.
    """
    count = 0
    listed = {
        name: {info.key: info.size_bytes for info in bucket.list(f"{PACKS}/")} for name, bucket in buckets.items()
    }

    def contents(pack_id: bytes) -> tuple[KnownPack, list[Place]] | None:
        key = pack_key(pack_id)
        return check.contents(pack_id, {buckets[name]: sizes[key] for name, sizes in listed.items() if key in sizes})

    for key in check.wrong():
        folder, name = key.rpartition("/")[0], blob_name_of(key)
        if name is None:
            raise AssertionError(key)
        segment = decode_segment(session.blobs.read(folder, name), name)
        known: list[KnownPack] = []
        places: list[Place] = []
        for wanted in segment.packs:
            found = contents(wanted.pack.pack_id)
            if found is not None and found[0].placement_class == segment.placement_class:
                known.append(found[0])
                places += found[1]
        if not places:
            raise Corrupt(
                f"Index segment {key} lists no pack that a bucket has", code=error_codes.INDEX_DAMAGED, segment=name
            )
        session.blobs.write(folder, encode_segment(segment.placement_class, known, places, segment.replaces | {name}))
        count += 1
    missing = [] if count else check.unlisted(needed)
    ids = (pack_id for key in missing if (pack_id := pack_id_of(key)) is not None)
    return count + _write_listing((found for pack_id in ids if (found := contents(pack_id)) is not None), session)


def _write_listing(packs: Iterable[tuple[KnownPack, list[Place]]], session: Session) -> int:
    """Write segments of packs, each of one placement class and of so many chunks; returns how many."""
    count = 0
    groups: dict[str, list[tuple[KnownPack, list[Place]]]] = {}

    def write(placement_class: str) -> None:
        group = groups.pop(placement_class)
        places = [place for _, found in group for place in found]
        body = encode_segment(placement_class, [known for known, _ in group], places, [])
        session.blobs.write(f"{INDEXES}/{placement_class}", body)

    for known, places in packs:
        group = groups.get(known.placement_class, [])
        if group and sum(len(found) for _, found in group) + len(places) > SEGMENT_CHUNKS_MAX:
            write(known.placement_class)
            count += 1
        groups.setdefault(known.placement_class, []).append((known, places))
    for placement_class in list(groups):
        write(placement_class)
        count += 1
    return count


def _noted(key: str, body: Buffer, checker: ObjectChecker) -> _Noted:
    placement_class = key.split("/")[1]
    try:
        decoded = decode_frame(body, kind=Kind.INDEX, context=INDEXES, keys=checker.keys)
        segment = decode_segment(decoded, key)
    except SkyholdError as error:
        return _Noted({}, frozenset(), f"cannot be read ({error.message})")
    if segment.placement_class != placement_class:
        return _Noted({}, frozenset(), "is of another placement class than in its name")
    return _Noted(_listed(segment), segment.replaces)


def _listed(segment: Segment) -> dict[bytes, bytes]:
    places: dict[bytes, list[Place]] = {known.pack.pack_id: [] for known in segment.packs}
    for place in segment.places:
        places[place.pack_id].append(place)
    return {known.pack.pack_id: hash_of(known, each_once(places[known.pack.pack_id])) for known in segment.packs}
