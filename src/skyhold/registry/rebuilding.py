"""Rebuilds packs that no bucket has intact, for all versions that need them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from skyhold.errors import Corrupt, NotFound, PermissionDenied, SkyholdError
from skyhold.registry.inventory import Inventory
from skyhold.registry.pack_spaces import bucket_space
from skyhold.registry.reading import open_version
from skyhold.storage.cache import CacheFolder, PackCache
from skyhold.storage.chunk_record import PackRef, PackSession, Place
from skyhold.storage.chunks import ChunkReader
from skyhold.storage.index_segments import listed_places
from skyhold.storage.object_keys import PACKS, pack_id_of, pack_key
from skyhold.storage.pack import TRAILER_BYTES, footer_span, read_footer
from skyhold.storage.rebuild import ChunkSources, LostPack, check_places, find_sources, rebuild_pack
from skyhold.storage.replicas import Replicas
from skyhold.store.connection import Connection
from skyhold.store.session import Session
from skyhold.units import Buffer


@dataclass(slots=True)
class Need:
    """What the layouts of all versions contain about a pack."""

    pack: PackRef
    placement_class: bytes
    places: set[Place] = field(default_factory=set)


def needs_of(session: Session, inventory: Inventory, keys: Collection[str]) -> dict[str, Need]:
    """The needs of these packs, by their keys. A pack that no version needs is absent; so is an unreadable one."""
    found: dict[str, Need] = {}
    ids = {pack_id_of(key) for key in keys}
    for repository in inventory.repositories:
        for entry in repository.snapshot.versions():
            with suppress(Corrupt, NotFound):
                _, version = open_version(session, repository.snapshot, entry.digest)
                of_class = bytes.fromhex(version.head.placement_class)
                for index in range(len(version.files)):
                    for chunk in version.chunks(index):
                        for place in (chunk.place, chunk.base):
                            if place is not None and place.pack_id in ids:
                                need = found.setdefault(pack_key(place.pack_id), Need(place.pack, of_class))
                                need.places.add(place)
    return found


def rebuild_packs(
    connection: Connection, operation: Session, needs: Mapping[str, Need]
) -> Iterator[tuple[str, bytes | SkyholdError]]:
    """Each of these packs, rebuilt, or the error."""
    listed = {
        name: {info.key: info.size_bytes for info in bucket.list(f"{PACKS}/")}
        for name, bucket in connection.buckets().items()
    }
    for placement_class in {need.placement_class for need in needs.values()}:
        ids = {need.pack.pack_id for need in needs.values()}
        indexed = listed_places(operation.blobs, operation.store_replicas, placement_class.hex(), ids)
        listings: dict[str, list[tuple[Place, ...]]] = {}
        for key, need in needs.items():
            if need.placement_class == placement_class:
                possible = [*_footers(connection, key, need.pack), *indexed.get(need.pack.pack_id, [])]
                listings[key] = [places for places in possible if check_places(places, need.places)]
        with _Readers(connection, placement_class) as readers:
            sources = ChunkSources(readers.of)
            places = [place for found in listings.values() for listing in found for place in listing]
            wanted = {place.chunk_id for place in places}
            wanted |= {place.base_id for place in places if place.base_id is not None}
            find_sources(listed, connection.buckets(), placement_class, wanted, sources, connection.checker)
            for key, found in listings.items():
                pack = needs[key].pack
                session = PackSession(bytes.fromhex(connection.document.store), placement_class, pack.salt)
                copies = tuple(_copies(connection, key))
                try:
                    yield (
                        key,
                        rebuild_pack(LostPack(pack, session, tuple(found), copies), sources.chunk, connection.keys),
                    )
                except Corrupt as error:
                    yield key, error


def _copies(connection: Connection, key: str) -> Iterator[Buffer]:
    """The copies of a pack in the buckets, damaged or not."""
    for bucket in connection.buckets().values():
        with suppress(SkyholdError):
            yield connection.checker.read(bucket, key)


def _footers(connection: Connection, key: str, pack: PackRef) -> Iterator[tuple[Place, ...]]:
    """The listings of the footers that are intact in some copy."""
    for copy in _copies(connection, key):
        with suppress(Corrupt, PermissionDenied):
            start, length = footer_span(memoryview(copy)[-TRAILER_BYTES:], len(copy), pack.pack_id)
            yield tuple(read_footer(memoryview(copy)[start : start + length], pack, connection.keys))


class _Readers:
    """Readers of the packs of a class as single buckets have them."""

    def __init__(self, connection: Connection, placement_class: bytes) -> None:
        self._connection, self._class = connection, placement_class
        self._open: dict[str, tuple[ChunkReader, Replicas]] = {}

    def of(self, bucket: str) -> ChunkReader:
        if bucket not in self._open:
            nothing_kept = PackCache(CacheFolder(Path(), 0))
            space = bucket_space(self._connection, bucket, self._class.hex(), nothing_kept)
            self._open[bucket] = ChunkReader(space), space.replicas
        return self._open[bucket][0]

    def __enter__(self) -> _Readers:
        return self

    def __exit__(self, *_exc: object) -> None:
        for _, replicas in self._open.values():
            replicas.close()
