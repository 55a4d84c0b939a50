"""Restoring every version from each bucket on its own, byte for byte, in memory: proof that each bucket alone is
sufficient.

A file counts as restored from a second bucket where both hold the same bytes of every pack that it needs, by the
digests of the packs. So only differing packs are restored more than once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3

from skyhold.errors import Corrupt, SkyholdError
from skyhold.registry.inventory import Inventory, RepositoryInventory
from skyhold.registry.pack_spaces import bucket_space
from skyhold.registry.reading import open_version
from skyhold.storage.chunk_record import PackRef
from skyhold.storage.chunks import ChunkReader, PackSpace
from skyhold.storage.fetch_plan import LOAD_BYTES
from skyhold.storage.object_keys import blob_key, pack_key
from skyhold.storage.pack_copies import PackCopies
from skyhold.storage.progress import Progress
from skyhold.storage.survey import Finding
from skyhold.storage.version_files import ChunkAt, VersionFiles
from skyhold.store.connection import Connection
from skyhold.store.session import Session

FAULTS_NAMED_MAX: Final = 3
"""How many wrong files of a version are named."""


@dataclass(slots=True)
class Restored:
    """How many versions there are, from each bucket how many it should hold (`placed`) and how many of all were
    restored (`whole`); `damage` names the versions whose objects some bucket has completely, but which do not match
    their documents; `findings` are packs, intact by themselves, that give another file than those of another bucket;
    `failed` are buckets that did not answer."""

    versions: int = 0
    placed: dict[str, int] = field(default_factory=dict)
    whole: dict[str, int] = field(default_factory=dict)
    damage: list[str] = field(default_factory=list)
    findings: dict[tuple[str, str], Finding] = field(default_factory=dict)
    failed: dict[str, SkyholdError] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _File:
    """What identifies the content of a file: a digest of its SHA-256 and of the places of its chunks and their bases;
    and the packs that contain them."""

    index: int
    places: bytes
    packs: frozenset[PackRef]

    def needs(self, packs: Collection[bytes]) -> bool:
        return any(pack.pack_id in packs for pack in self.packs)


def restore_all(
    connection: Connection,
    session: Session,
    inventory: Inventory,
    copies: PackCopies,
    progress: Progress,
    *,
    lacking: Collection[tuple[str, str]] = frozenset(),
    only: Collection[bytes] | None = None,
) -> Restored:
    """Restore every version of an inventory from every bucket of which `copies` has packs; with `only`, just the
    files that need one of these packs. `lacking` are the objects, by bucket and key, that a bucket does not give: a
    version whose document or layout is among them is not restored from that bucket alone."""
    found = Restored(placed=dict.fromkeys(connection.buckets(), 0), whole=dict.fromkeys(connection.buckets(), 0))
    progress.begin("restore", None)
    try:
        with ExitStack() as closing:
            restoring = _Restoring(connection, copies, progress, closing)
            for repository in inventory.repositories:
                with _naming(f"Not all versions of {repository.name}", repository, found):
                    for entry in repository.snapshot.versions():
                        found.versions += 1
                        what = f"Version {entry.public_id[:10]} of {repository.name}"
                        with _naming(what, repository, found):
                            _, version = open_version(session, repository.snapshot, entry.digest)
                            files = [file for file in _files(version) if only is None or file.needs(only)]
                            _count_placed(found, inventory, files)
                            _check_tensors(what, version, found)
                            keys = {blob_key("versions", entry.document)}
                            keys |= {blob_key(folder, blob) for folder, blob in version.blobs()}
                            able = {name for name in found.whole if not any((name, key) in lacking for key in keys)}
                            _restore_everywhere(restoring, what, version, files, found, able)
    finally:
        progress.end()
    return found


@contextmanager
def _naming(what: str, repository: RepositoryInventory, found: Restored) -> Iterator[None]:
    """Record what could not be read, and continue; the inventory has already named it for an incomplete repository."""
    try:
        yield
    except SkyholdError as error:
        if repository.complete:
            found.damage.append(f"{what} could not be read again: {error.message}")


def _count_placed(found: Restored, inventory: Inventory, files: list[_File]) -> None:
    keys = {pack_key(pack.pack_id) for file in files for pack in file.packs}
    for name in found.placed:
        found.placed[name] += all(name in inventory.expected.get(key, ()) for key in keys)


def _check_tensors(what: str, version: VersionFiles, found: Restored) -> None:
    sizes = {entry.path: entry.size_bytes for entry in version.files}
    try:
        for path, tensors in version.tensors.items():
            for tensor in tensors:
                if path not in sizes or not 0 <= tensor.start <= tensor.end <= sizes[path]:
                    found.damage.append(f"{what}: tensor {tensor.name} is not in {path}")
                    return
    except SkyholdError as error:
        found.damage.append(f"{what}: the names of its tensors cannot be read: {error.message}")


def _restore_everywhere(
    restoring: _Restoring, what: str, version: VersionFiles, files: list[_File], found: Restored, able: set[str]
) -> None:
    """Restore a version from each bucket, and judge the differences: where one bucket restores a file correctly, the
    others have other bytes in some pack; where none does, what was stored is wrong. `able` are the buckets that
    have its document and layout."""
    whole = able - set(found.failed)
    stored_wrong: dict[str, list[str]] = {}  # what is wrong, by the buckets where it is
    for file in files:
        faults: dict[str, str | None] = {}
        for name in sorted(set(found.whole) - set(found.failed)):
            try:
                faults[name] = restoring.fault_of(name, version, file)
            except SkyholdError as error:
                found.failed[name] = error
        whole -= {name for name, fault in faults.items() if fault is not None} | set(found.failed)
        right = next((name for name, fault in faults.items() if fault is None), None)
        wrong = {name: fault for name, fault in faults.items() if fault}
        if right is not None:
            for name, fault in wrong.items():
                for key in restoring.differing(name, right, file):
                    detail = f"bucket `{right}` holds other bytes, of which {what} is made: {fault}"
                    found.findings[name, key] = Finding(name, key, "damaged", detail)
        for fault in sorted(set(wrong.values())) if right is None else ():
            stored_wrong.setdefault(", ".join(name for name in wrong if wrong[name] == fault), []).append(fault)
    for names, reasons in stored_wrong.items():
        more = f"; and {len(reasons) - FAULTS_NAMED_MAX} more" if len(reasons) > FAULTS_NAMED_MAX else ""
        found.damage.append(
            f"{what} is not restored as it was from {names}: {'; '.join(reasons[:FAULTS_NAMED_MAX])}{more}"
        )
    for name in whole:
        found.whole[name] += 1


class _Restoring:
    def __init__(self, connection: Connection, copies: PackCopies, progress: Progress, closing: ExitStack) -> None:
        self._connection = connection
        self._copies = copies
        self._progress = progress
        self._closing = closing
        self._spaces: dict[tuple[str, str], PackSpace] = {}
        self._faults: dict[bytes, str | None] = {}  # by the content of a file in a bucket

    def fault_of(self, bucket: str, version: VersionFiles, file: _File) -> str | None:
        """What is wrong with a file as one bucket holds it: None for nothing, and an empty text where it lacks an
        intact pack, which the survey has named."""
        for pack in file.packs:
            copy = self._copies.of(bucket, pack.pack_id)
            if copy is None:
                return ""
            if (copy.placement_class.hex(), copy.salt) != (version.head.placement_class, pack.salt):
                return f"pack {pack.pack_id.hex()} is of another class or session than in its layout"
        content = self._content(bucket, file)
        if content not in self._faults:
            reader = ChunkReader(self._space(bucket, version.head.placement_class))
            self._faults[content] = self._restore(reader, version, file)
        return self._faults[content]

    def differing(self, one: str, other: str, file: _File) -> list[str]:
        """The keys of the packs of a file that two buckets hold with different bytes."""
        return [
            pack_key(pack.pack_id)
            for pack in file.packs
            if self._copies.of(one, pack.pack_id) != self._copies.of(other, pack.pack_id)
        ]

    def _content(self, bucket: str, file: _File) -> bytes:
        """A digest of all that a file is restored from in a bucket."""
        hasher = blake3(file.places)
        for pack in sorted(file.packs, key=lambda pack: pack.pack_id):
            copy = self._copies.of(bucket, pack.pack_id)
            hasher.update(pack.pack_id + (copy.digest if copy is not None else b""))
        return hasher.digest()

    def _restore(self, reader: ChunkReader, version: VersionFiles, file: _File) -> str | None:
        """Restore one file in memory; what is wrong with it, if anything is."""
        entry = version.files[file.index]
        digest = hashlib.sha256()
        for load in _loads(version.chunks(file.index)):
            try:
                records = reader.fetch(
                    place for chunk in load for place in (chunk.place, chunk.base) if place is not None
                )
                for chunk in load:
                    base = None if chunk.base is None else reader.decode(chunk.base, records[chunk.base], None)
                    digest.update(reader.decode(chunk.place, records[chunk.place], base))
                    self._progress.advance(chunk.place.raw_length)
            except Corrupt as error:
                return f"{entry.path}: {error.message}"
        if digest.hexdigest() != entry.sha256:
            return f"{entry.path} does not have the SHA-256 that the version document gives it"
        return None

    def _space(self, bucket: str, placement_class: str) -> PackSpace:
        space = self._spaces.get((bucket, placement_class))
        if space is None:
            space = bucket_space(self._connection, bucket, placement_class, self._copies.kept(bucket))
            self._closing.callback(space.replicas.close)
            self._spaces[bucket, placement_class] = space
        return space


def _files(version: VersionFiles) -> Iterator[_File]:
    """The files of a version. Raises `Corrupt` where its layout does not cover them, which the inventory names."""
    for index, entry in enumerate(version.files):
        hasher = blake3(f"{entry.sha256} {entry.size_bytes} {version.head.placement_class}".encode())
        packs: set[PackRef] = set()
        for chunk in version.chunks(index):
            for place in (chunk.place, chunk.base):
                if place is not None:
                    packs.add(place.pack)
                    hasher.update(repr(place).encode())
        yield _File(index, hasher.digest(), frozenset(packs))


def _loads(chunks: Iterable[ChunkAt]) -> Iterator[list[ChunkAt]]:
    """Chunks in groups of about `LOAD_BYTES` with their bases, which are fetched at once."""
    load: list[ChunkAt] = []
    length = 0
    for chunk in chunks:
        load.append(chunk)
        length += chunk.place.raw_length * (1 if chunk.base is None else 2)
        if length >= LOAD_BYTES:
            yield load
            load, length = [], 0
    if load:
        yield load
