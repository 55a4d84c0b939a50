"""Reading chunks: coalesced ranges from the cache or the next bucket, opened, decoded, and checked by their ids."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from skyhold import error_codes
from skyhold.buckets.bucket import Bucket
from skyhold.codec.frame import FrameKeys
from skyhold.errors import Corrupt
from skyhold.storage.cache import PackCache
from skyhold.storage.chunk_record import PackSession, Place, open_record
from skyhold.storage.linked_files import LinkedFiles
from skyhold.storage.object_keys import pack_key
from skyhold.storage.replicas import Replicas
from skyhold.units import KIB, MIB, Buffer

if TYPE_CHECKING:
    from skyhold.codec.squeeze import Decoder


SPAN_BYTES_MAX: Final = 12 * MIB
SPAN_GAP_BYTES_MAX: Final = 64 * KIB
"""Bytes between two records that are fetched and discarded, since another request would cost more."""


@dataclass(frozen=True, slots=True)
class Span:
    """Records of one pack that are fetched by one request, in order of offset."""

    places: tuple[Place, ...]

    @property
    def start(self) -> int:
        return self.places[0].offset

    @property
    def length(self) -> int:
        return self.places[-1].offset + self.places[-1].record_length - self.start


@dataclass(frozen=True, slots=True)
class PackSpace:
    """The packs of one placement class: where they are read from and written to, and with which keys."""

    store_id: bytes
    placement_class: bytes
    keys: FrameKeys
    chunk_id_key: bytes
    replicas: Replicas
    cache: PackCache
    files: LinkedFiles

    def session(self, salt: bytes) -> PackSession:
        return PackSession(self.store_id, self.placement_class, salt)


def spans(places: Iterable[Place]) -> list[Span]:
    """Few requests that cover the records of `places`, each at most `SPAN_BYTES_MAX` (or one record) long."""
    found: list[list[Place]] = []
    for place in sorted({(p.pack_id, p.offset): p for p in places}.values(), key=lambda p: (p.pack_id, p.offset)):
        if found:
            first, last = found[-1][0], found[-1][-1]
            gap = place.offset - (last.offset + last.record_length)
            length = place.offset + place.record_length - first.offset
            if last.pack_id == place.pack_id and gap <= SPAN_GAP_BYTES_MAX and length <= SPAN_BYTES_MAX:
                found[-1].append(place)
                continue
        found.append([place])
    return [Span(tuple(group)) for group in found]


class ChunkReader:
    """Reads chunks of one pack space. Thread-safe: decoders are per thread."""

    def __init__(self, space: PackSpace) -> None:
        self._space = space
        self._local = threading.local()

    def fetch(self, places: Iterable[Place], *, keep: bool = True) -> dict[Place, Buffer]:
        """The records of places, from the cache or the buckets; with `keep` they are added to the cache. They are not
        yet checked."""
        records: dict[Place, Buffer] = {}
        for span in spans(places):
            data = self._fetch_span(span, keep=keep)
            view = memoryview(data)
            for place in span.places:
                at = place.offset - span.start
                records[place] = view[at : at + place.record_length]
        return records

    def decode(self, place: Place, record: Buffer, base: Buffer | None, out: memoryview | None = None) -> memoryview:
        """The chunk of a record that `fetch` gave; where it is damaged, that of another bucket's.

        `base` is the delta base's chunk, already checked. Raises `Corrupt` where no bucket has an intact record.
        """
        try:
            return self._decode_checked(place, record, base, out)
        except Corrupt:
            key = pack_key(place.pack_id)
            self._space.replicas.doubt(key)

            def from_bucket(bucket: Bucket) -> memoryview:
                other = bucket.read(key, place.offset, place.record_length)
                chunk = self._decode_checked(place, other, base, None)
                self._space.cache.put(place.pack_id, place.offset, other)
                return chunk

            chunk = self._space.replicas.first(f"an intact chunk {place.chunk_id.hex()[:16]} of {key}", from_bucket)
            if out is None:
                return chunk
            out[:] = chunk
            return out

    def decode_delta(
        self, place: Place, base: Place, records: Mapping[Place, Buffer], buffer: memoryview, out: memoryview
    ) -> memoryview:
        """The chunk of a delta, into `out`; `buffer` takes its base, out of a linked file where `records` has no record
        of it. The base is checked only where the chunk turns out wrong: a damaged base makes a chunk that does not
        match its id."""
        try:
            unchecked: Buffer | None
            if base in records:
                unchecked = self._decode_unchecked(base, records[base], None, buffer)
            else:
                unchecked = self._space.files.read(base)
            return self._decode_checked(place, records[place], unchecked, out)
        except Corrupt:
            record = records[base] if base in records else self.fetch([base])[base]
            return self.decode(place, records[place], self.decode(base, record, None, buffer), out)

    def read(self, place: Place, base: Place | None) -> memoryview:
        """One chunk with what it needs."""
        records = self.fetch([place] if base is None else [place, base])
        base_chunk = None if base is None else self.decode(base, records[base], None)
        return self.decode(place, records[place], base_chunk)

    def _fetch_span(self, span: Span, *, keep: bool) -> Buffer:
        pack_id, space = span.places[0].pack_id, self._space
        cached = space.cache.get(pack_id, span.places)
        if cached is not None:
            return cached
        data = space.replicas.read(pack_key(pack_id), span.start, span.length)
        if keep:
            space.cache.put(pack_id, span.start, data)
        return data

    def _decode_checked(self, place: Place, record: Buffer, base: Buffer | None, out: memoryview | None) -> memoryview:
        chunk = self._decode_unchecked(place, record, base, out)
        if blake3(chunk, key=self._space.chunk_id_key).digest() != place.chunk_id:
            raise Corrupt(
                f"Chunk {place.chunk_id.hex()[:16]} in pack {place.pack_id.hex()} is damaged: it does not match its id",
                code=error_codes.CHUNK_DAMAGED,
                hint="Run `skyhold verify --deep`, then `skyhold repair`",
                pack=place.pack_id.hex(),
                chunk=place.chunk_id.hex(),
            )
        return chunk

    def _decode_unchecked(
        self, place: Place, record: Buffer, base: Buffer | None, out: memoryview | None
    ) -> memoryview:
        session = self._space.session(place.pack.salt) if self._space.keys.sealed else None
        payload = open_record(record, place, session, self._space.keys)
        return self._decoder().decode(place.codec, payload, place.raw_length, base, out)

    def _decoder(self) -> Decoder:
        decoder: Decoder | None = getattr(self._local, "decoder", None)
        if decoder is None:
            from skyhold.codec.squeeze import Decoder  # importing NumPy is slow: it overlaps with the first fetch

            decoder = self._local.decoder = Decoder()
        return decoder
