"""From pushed files to a version: what they rest on is durable, its blobs are written, and the refs move as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from skyhold.errors import Corrupt, NotFound
from skyhold.registry.catalogue import Catalogue
from skyhold.registry.change import Change, RefUpdate, attachments
from skyhold.registry.connection import Connection, new_operation_id, pause
from skyhold.registry.names import Ref, RefKind
from skyhold.registry.reading import open_version
from skyhold.registry.session import Session
from skyhold.registry.snapshot import Snapshot, VersionEntry
from skyhold.registry.time import now
from skyhold.registry.version import FileEntry, Lineage, VersionDocument
from skyhold.storage.canonical import Json
from skyhold.storage.chunks import PackSpace
from skyhold.storage.index import write_segments
from skyhold.storage.names import pack_id_of, pack_key
from skyhold.storage.push import Push, Pushed
from skyhold.storage.reuse import Reused, ensure_durable


@dataclass(frozen=True, slots=True)
class PushRequest:
    """What a caller wants to push, and how the version is described. `bases` are digests with their repositories."""

    path: Path
    message: str = ""
    author: str = ""
    branch: str = "main"
    tags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    parameters: Json = field(default_factory=dict)
    metadata: Json = field(default_factory=dict)
    data: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    bases: tuple[tuple[str, str], ...] = ()
    expected_parent: str | None = None
    dry_run: bool = False
    without_optimizer: bool = False


class PacksLost(Exception):
    """Packs that a push meant to reuse are not to be had; `vanished` are those of them that no bucket holds."""

    def __init__(self, reused: Reused) -> None:
        super().__init__()
        self.vanished = _pack_ids(reused.vanished)
        self.packs = self.vanished | _pack_ids(reused.unusable)


@dataclass(slots=True)
class Commit:
    """What a push wants to commit. `behind` counts by bucket the reused packs that it still lacks."""

    connection: Connection
    repository_id: str
    request: PushRequest
    push: Push
    pushed: Pushed
    snapshot: Snapshot
    parent: str | None
    gc_epoch: int
    behind: Counter[str] = field(default_factory=Counter)

    def under(self, policy: Json, session: Session, space: PackSpace, packs: Collection[bytes]) -> str:
        """Commit under a policy, to which `packs` are made durable first (those just sent are, to the policy under
        which that was); returns the version's digest.

        Raises `PacksLost`, and `Conflict` code `policy_changed` where the repository has another policy by then.
        """
        connection, request, pushed = self.connection, self.request, self.pushed
        self.behind.clear()
        reused = self._reuse(packs, space)
        if not reused.complete:
            raise PacksLost(reused)
        durable = pushed.packs_sent.keys() | pushed.packs_reused
        write_segments(connection.catalogue, session.blobs, space.placement_class.hex(), durable)
        document = self._document()
        versions: tuple[VersionEntry, ...] = ()
        if self.parent is not None and self._stands(document, self.parent, session, space):
            digest = self.parent
        else:
            digest = document.digest
            layout = self.push.write_layout(session.blobs, digest)
            stored = session.blobs.write("versions", document.encode())
            versions = (VersionEntry(digest, stored, layout, document.parents, document.time),)
        change = Change(
            author=request.author,
            time=now(),
            reason=f"push {request.message}"[:200] if request.message else "push",
            refs=tuple(self._ref_updates(digest)),
            versions=versions,
            attachments=tuple(attachments(digest, request.metrics, request.notes)),
            gc_epoch=self.gc_epoch,
            policy=policy,
        )
        register = Catalogue(session.registers, session.blobs).repository(self.repository_id)
        register.apply(change, new_operation_id(), pause=pause)
        return digest

    def _reuse(self, packs: Collection[bytes], space: PackSpace) -> Reused:
        sizes = {pack_key(pack): self.connection.catalogue.size_bytes(pack) for pack in packs}
        reused = ensure_durable(space.replicas, self.connection.checker, sizes)
        self.behind.update(reused.behind)
        return reused

    def _stands(self, document: VersionDocument, parent: str, session: Session, space: PackSpace) -> bool:
        """Whether the branch's version says all of `document` and lies, durably, where the policy wants it now: its
        own layout may name other packs than those in which this push has found or laid the same chunks."""
        try:
            stored, files = open_version(session, self.snapshot, parent)
        except (Corrupt, NotFound):
            return False
        if not _same_content(document, stored) or files.head.placement_class != space.placement_class.hex():
            return False
        return self._reuse(files.pack_ids() - self.pushed.packs_reused, space).complete

    def _document(self) -> VersionDocument:
        request = self.request
        files = tuple(
            FileEntry(file.path, file.size_bytes, {"sha256": file.sha256}, file.executable)
            for file in self.pushed.files
        )
        lineage = Lineage(tuple(digest for _, digest in request.bases), request.data, request.code)
        return VersionDocument(
            files=files,
            time=now(),
            author=request.author,
            message=request.message,
            parents=() if self.parent is None else (self.parent,),
            parameters=dict(request.parameters),
            metadata=dict(request.metadata),
            lineage=lineage,
        )

    def _ref_updates(self, digest: str) -> list[RefUpdate]:
        request = self.request
        updates = [RefUpdate(Ref(RefKind.BRANCH, request.branch), digest, expected=self.parent)]
        for kind, given in ((RefKind.TAG, request.tags), (RefKind.ALIAS, request.aliases)):
            updates += [RefUpdate(Ref(kind, name), digest) for name in given]
        return [update for update in updates if _stands_at(self.snapshot, update.ref) != digest]


def _same_content(new: VersionDocument, old: VersionDocument) -> bool:
    """Whether a push would only say again what the branch says already, as a command that is run twice does."""
    fields = ("files", "message", "author", "parameters", "metadata", "lineage")
    return all(getattr(new, name) == getattr(old, name) for name in fields)


def _stands_at(snapshot: Snapshot, ref: Ref) -> str | None:
    state = snapshot.ref_state(ref)
    return None if state is None else state.version


def _pack_ids(keys: Collection[str]) -> frozenset[bytes]:
    return frozenset(pack for key in keys if (pack := pack_id_of(key)) is not None)
