"""From pushed files to a version: its packs are durable, its blobs are written, and the refs move as one."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import lru_cache

from skyhold.errors import Corrupt, NotFound
from skyhold.registry.push_request import Parent, PushRequest
from skyhold.registry.reading import open_document, open_version
from skyhold.registry.repositories import Repositories
from skyhold.registry.snapshot import NewVersion, Snapshot
from skyhold.registry.version import VersionDocument, VersionFile
from skyhold.storage.canonical import Json
from skyhold.storage.chunk_record import PackRef, Place
from skyhold.storage.chunks import PackSpace
from skyhold.storage.index_segments import write_segments
from skyhold.storage.object_keys import blob_key, pack_id_of, pack_key
from skyhold.storage.progress import Progress
from skyhold.storage.push import Push, Pushed
from skyhold.storage.reuse import Reused, ensure_durable, mend_blobs
from skyhold.storage.version_files import VersionFiles
from skyhold.store.connection import Connection, new_operation_id, pause
from skyhold.store.event import event_key
from skyhold.store.record import blobs_of
from skyhold.store.session import Session


class PacksLost(Exception):
    """Packs that a push intended to reuse are not available (`packs`; `vanished` are those that no bucket holds), or
    contain other chunks than this machine's chunk index listed, which has been corrected."""

    def __init__(self, reused: Reused) -> None:
        super().__init__()
        self.vanished = _pack_ids(reused.vanished)
        self.packs = self.vanished | _pack_ids(reused.unusable)


@dataclass(slots=True)
class Commit:
    """What a push commits. `segments` are those of the index that a bucket lists; `lagging` counts by bucket
    the reused packs that it still lacks."""

    connection: Connection
    repository_id: str
    name: str
    request: PushRequest
    push: Push
    pushed: Pushed
    snapshot: Snapshot
    parent: Parent
    gc_epoch: int
    segments: frozenset[str]
    progress: Progress
    lagging: Counter[str] = field(default_factory=Counter)

    def under(self, policy: Json, session: Session, space: PackSpace, packs: Collection[bytes]) -> str:
        """Commit under a policy, to which `packs` are made durable first (those just sent are durable to the
        policy under which they were sent); returns the version's digest.

        Raises `PacksLost`, and `Conflict` code `policy_changed` where the policy of the repository has changed.
        """
        connection, request, pushed = self.connection, self.request, self.pushed
        self.lagging.clear()
        reused = self._reuse(packs, space)
        if not reused.complete:
            raise PacksLost(reused)
        durable = pushed.packs_sent.keys() | pushed.packs_reused
        of_class = space.placement_class.hex()
        write_segments(connection.chunk_index, session.blobs, of_class, durable, self.segments)
        document = self._document()
        versions: list[NewVersion] = []
        digest = document.digest
        found = self._same_files(document, session, space)
        if found is not None:
            same, files = found
            if files is None or not self._is_durable(files, session, space):
                versions.append(self._with_new_layout(same, session))
            if same_content(document, same):
                digest = same.digest
        relaid = frozenset(version.digest for version in versions)
        if digest == document.digest:
            layout = self.push.write_layout(session.blobs, digest)
            stored = session.blobs.write("versions", document.encode())
            versions.append(NewVersion(digest, stored, layout, document.parents, document.time))
        change = request.change(self.parent, digest, tuple(versions), self.gc_epoch, policy)
        repositories = Repositories(session.registers, session.blobs)
        if not self.snapshot.register_version:
            change = replace(change, origin=replace(change.origin, group=secrets.token_hex(16)))
            repositories.create(
                self.name,
                self.repository_id,
                policy=policy,
                origin=change.origin,
                operation_id=new_operation_id(),
                pause=pause,
            )
        register = repositories.repository(self.repository_id)
        register.apply(replace(change, relaid=relaid), new_operation_id(), pause=pause)
        return digest

    def _reuse(self, packs: Collection[bytes], space: PackSpace) -> Reused:
        sizes = {pack_key(pack): self.connection.chunk_index.size_bytes(pack) for pack in packs}
        connection = self.connection
        reused = ensure_durable(space.replicas, connection.checker, connection.chunk_index, sizes, self.progress)
        self.lagging.update(reused.lagging)
        for bucket, count in sorted(reused.mended.items()):
            self.progress.note(f"Damaged packs in bucket `{bucket}`, written anew: {count}")
        return reused

    def _same_files(
        self, document: VersionDocument, session: Session, space: PackSpace
    ) -> tuple[VersionDocument, VersionFiles | None] | None:
        """The branch's version, where it has the files of `document`, in the placement class that the policy wants
        now; without its files where its layout is lost."""
        parent = self.parent.version
        if parent is None:
            return None
        try:
            stored = open_document(session, self.snapshot, parent)
        except (Corrupt, NotFound):
            return None
        if stored.files != document.files:
            return None
        try:
            files = open_version(session, self.snapshot, parent)[1]
        except (Corrupt, NotFound):
            return stored, None
        return (stored, files) if files.head.placement_class == space.placement_class.hex() else None

    def _with_new_layout(self, same: VersionDocument, session: Session) -> NewVersion:
        """The entry of the branch's version, whose stored bytes are lost, with the layout of this push: it keeps its
        id."""
        layout = self.push.write_layout(session.blobs, same.digest)
        stored = session.blobs.write("versions", same.encode())
        return replace(self.snapshot.version(same.digest), document=stored, layout=layout)

    def _is_durable(self, files: VersionFiles, session: Session, space: PackSpace) -> bool:
        """Whether a version is intact and durable by its own layout: that may name other packs than those in which this
        push has found or written the same chunks, and other offsets."""
        try:
            packs = files.pack_ids()
        except (Corrupt, NotFound):
            return False
        if not self._reuse(packs - self.pushed.packs_reused - self.pushed.packs_sent.keys(), space).complete:
            return False
        if not self._places_agree(files):
            return False
        entry = self.snapshot.version(files.head.version)
        keys = [blob_key("versions", entry.document), *(blob_key(folder, name) for folder, name in files.blobs())]
        entered = event_key(self.snapshot.version_event(entry.digest) or 0)
        keys += [blob_key("records", name) for name in blobs_of(entered, self.snapshot.map.get(entered))]
        keys += [blob_key("nodes", name) for name in self.snapshot.map.way_to(entered)]
        keys += [blob_key("nodes", name) for name in self.snapshot.map.way_to(entry.key)]
        keys += [blob_key("nodes", name) for name in self.snapshot.map.way_to(f"ref/branch/{self.request.branch}")]
        return mend_blobs(session.store_replicas, self.connection.checker, set(keys))

    def _places_agree(self, files: VersionFiles) -> bool:
        """Whether the places of a layout are those that its packs contain, which are in the chunk index now."""

        @lru_cache(maxsize=8)
        def contained(pack: PackRef) -> frozenset[Place]:
            return frozenset(self.connection.chunk_index.places(pack))

        chunks = (chunk for file in range(len(files.files)) for chunk in files.chunks(file))
        return all(
            place is None or place in contained(place.pack) for chunk in chunks for place in (chunk.place, chunk.base)
        )

    def _document(self) -> VersionDocument:
        files = (
            VersionFile(file.path, file.size_bytes, {"sha256": file.sha256}, file.executable)
            for file in self.pushed.files
        )
        return self.request.describe(files, self.parent.version)


def same_content(new: VersionDocument, old: VersionDocument) -> bool:
    """Whether a push would only repeat the version of the branch, as a command that is run twice does."""
    fields = ("files", "message", "author", "parameters", "metadata", "lineage")
    return all(getattr(new, name) == getattr(old, name) for name in fields)


def _pack_ids(keys: Collection[str]) -> frozenset[bytes]:
    return frozenset(pack for key in keys if (pack := pack_id_of(key)) is not None)
