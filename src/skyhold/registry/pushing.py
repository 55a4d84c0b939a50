"""Pushing a version: packs, a document, a layout, and the refs that move to it as one (format.md, 2 and 12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from skyhold.errors import Conflict, Corrupt, NotFound, Unavailable
from skyhold.registry.catalogue import Catalogue, Names
from skyhold.registry.change import Change, RefUpdate, attachments
from skyhold.registry.connection import Connection, Session, new_operation_id, now, pause
from skyhold.registry.names import Ref, RefKind
from skyhold.registry.reading import open_version
from skyhold.registry.root import Root
from skyhold.registry.snapshot import Snapshot, VersionEntry
from skyhold.registry.version import FileEntry, Lineage, VersionDocument
from skyhold.registry.views import PushResult
from skyhold.storage.bases import DeltaBases
from skyhold.storage.canonical import Json, decode
from skyhold.storage.chunks import ChunkReader, PackSpace
from skyhold.storage.index import learn_segments, write_segments
from skyhold.storage.names import pack_key
from skyhold.storage.objects import ensure_durable
from skyhold.storage.policy import Policy, allowed
from skyhold.storage.progress import Progress
from skyhold.storage.push import Push, Pushed, PushOptions
from skyhold.storage.resume import resume
from skyhold.storage.source import Source, find_source
from skyhold.storage.version_files import VersionFiles

ATTEMPTS_MAX: Final = 3
INTERPRETER_BYTES: Final = 100 << 20
"""Of the memory that a push may take, what the interpreter, its libraries and their buffers take."""


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


def push_version(
    connection: Connection, repository_id: str, name: str, request: PushRequest, progress: Progress
) -> PushResult:
    """Push, and move the refs once the version is durable to the repository's policy.

    Begins again, a few times, where garbage collection ran meanwhile, or where objects that it meant to reuse turn out
    to be gone; what was sent is found again. Raises what storage raises, and `Conflict` where the branch moved.
    """
    source = find_source(request.path, without_optimizer=request.without_optimizer)
    vanished: set[bytes] = set()
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            return _Attempt(connection, repository_id, name, request, source, progress, frozenset(vanished)).run()
        except Conflict as error:
            if error.code != "gc_epoch_risen" or attempt == ATTEMPTS_MAX:
                raise
        except _Vanished as error:
            connection.catalogue.forget(error.packs)
            vanished.update(error.packs)  # delta bases are found by layouts, and may still open from the cache
    raise Unavailable(
        f"Objects that this push reuses vanished during each of {ATTEMPTS_MAX} attempts; no ref was moved",
        code="objects_vanish",
        hint="Run `skyhold verify`: somebody deletes objects from the buckets",
    )


class _Vanished(Exception):
    """Packs that the catalogue knows and no bucket holds any more."""

    def __init__(self, packs: Sequence[bytes]) -> None:
        super().__init__()
        self.packs = packs


class _Attempt:
    def __init__(
        self,
        connection: Connection,
        repository_id: str,
        name: str,
        request: PushRequest,
        source: Source,
        progress: Progress,
        vanished: frozenset[bytes],
    ) -> None:
        self._connection, self._id, self._name = connection, repository_id, name
        self._request, self._source, self._progress = request, source, progress
        self._vanished = vanished

    def run(self) -> PushResult:
        connection, request = self._connection, self._request
        policy = self._policy()
        with connection.session(policy) as session:
            catalogue = Catalogue(connection.registers, session.blobs)
            names = catalogue.read()
            snapshot = self._snapshot(session)
            parent = self._parent(snapshot)
            space = connection.pack_space(policy, session)
            if not request.dry_run:
                resume(space, connection.catalogue)
                learn_segments(connection.catalogue, session.blobs, space.replicas, space.placement_class.hex())
            bases = DeltaBases(
                list(self._base_versions(session, snapshot, parent)), space.placement_class.hex(), ChunkReader(space)
            )
            self._progress.begin("push", self._source.size_bytes)
            try:
                with Push(
                    space,
                    connection.catalogue,
                    bases,
                    self._options(policy),
                    self._progress,
                    self._dead(session, names),
                ) as push:
                    pushed = push.run(self._source.files)
                    if request.dry_run:
                        return self._result(pushed, policy, session, "0" * 64, parent)
                    digest = self._commit(push, pushed, session, space, catalogue, names, snapshot, parent)
            finally:
                self._progress.end()
            return self._result(pushed, policy, session, digest, parent)

    def _policy(self) -> Policy:
        with self._connection.session(Policy()) as session:
            return Policy.from_json(self._snapshot(session).root.policy)

    def _snapshot(self, session: Session) -> Snapshot:
        """The repository as it is; for a dry run into one that does not exist, as it would begin."""
        try:
            return Catalogue(self._connection.registers, session.blobs).repository(self._id).read()
        except NotFound:
            if not self._request.dry_run:
                raise
            policy = self._connection.configuration.policy.to_json()
            return Snapshot(Root.first(self._id, gc_epoch=0, policy=policy), 0, session.blobs)

    def _parent(self, snapshot: Snapshot) -> str | None:
        state = snapshot.ref_state(Ref(RefKind.BRANCH, self._request.branch))
        parent = None if state is None else state.version
        expected = self._request.expected_parent
        if expected is not None and parent != expected:
            raise Conflict(
                f"Branch `{self._request.branch}` of {self._name} does not stand at {expected[:10]} any more; "
                "nothing was changed",
                code="ref_moved",
                hint=f"Look at `skyhold log {self._name}@{self._request.branch}`, then push again",
            )
        return parent

    def _options(self, policy: Policy) -> PushOptions:
        settings = self._connection.settings
        memory_bytes = max(48 << 20, settings.push_memory_bytes - INTERPRETER_BYTES)
        options = PushOptions(memory_bytes=memory_bytes, delta=policy.delta, dry_run=self._request.dry_run)
        if settings.push_threads is None:
            return options
        return PushOptions(memory_bytes, settings.push_threads, policy.delta, self._request.dry_run)

    def _dead(self, session: Session, names: Names) -> frozenset[bytes]:
        """Packs that a gc may delete, or that have vanished: never to be reused, whoever still knows of them."""
        dead = set(self._vanished)
        for name in names.tombstones:
            document = decode(session.blobs.read("tombstones", name), "tombstones")
            packs = document.get("packs")
            if not isinstance(packs, list):
                raise Corrupt(f"Tombstones {name} are malformed", code="tombstones_damaged")
            dead.update(bytes.fromhex(str(pack)) for pack in packs)
        return frozenset(dead)

    def _base_versions(self, session: Session, snapshot: Snapshot, parent: str | None) -> list[VersionFiles]:
        found = []
        if parent is not None:
            try:
                version = open_version(session, snapshot, parent)[1]
                version.tensors  # noqa: B018  read here, where losing them only costs savings
            except (Corrupt, NotFound) as error:  # a branch must not be stuck behind a version that was lost
                self._progress.note(f"Nothing is stored as a difference to version {parent[:10]}: {error.message}")
            else:
                found.append(version)
        catalogue = Catalogue(self._connection.registers, session.blobs)
        for repository_id, digest in self._request.bases:
            found.append(open_version(session, catalogue.repository(repository_id).read(), digest)[1])
        return found

    def _commit(
        self,
        push: Push,
        pushed: Pushed,
        session: Session,
        space: PackSpace,
        catalogue: Catalogue,
        names: Names,
        snapshot: Snapshot,
        parent: str | None,
    ) -> str:
        connection, request = self._connection, self._request
        write_segments(connection.catalogue, session.blobs, space.placement_class.hex())
        sizes = {pack_key(pack): connection.catalogue.size_bytes(pack) for pack in pushed.packs_reused}
        vanished = ensure_durable(space.replicas, connection.checker, sizes)
        if vanished:
            raise _Vanished([bytes.fromhex(key.rsplit("/", 1)[1]) for key in vanished])
        document = self._document(pushed, parent)
        versions: tuple[VersionEntry, ...] = ()
        if parent is not None and self._stands(document, parent, pushed, session, space, snapshot):
            digest = parent
        else:
            digest = document.digest
            layout = push.write_layout(session.blobs, digest)
            stored = session.blobs.write("versions", document.encode())
            versions = (VersionEntry(digest, stored, layout, document.parents, document.time),)
        change = Change(
            author=request.author,
            time=now(),
            reason=f"push {request.message}"[:200] if request.message else "push",
            refs=tuple(self._ref_updates(snapshot, digest, parent)),
            versions=versions,
            attachments=tuple(attachments(digest, request.metrics, request.notes)),
            gc_epoch=names.gc_epoch,
        )
        catalogue.repository(self._id).apply(change, new_operation_id(), pause=pause)
        return digest

    def _stands(
        self,
        document: VersionDocument,
        parent: str,
        pushed: Pushed,
        session: Session,
        space: PackSpace,
        snapshot: Snapshot,
    ) -> bool:
        """Whether the branch's version says all of `document` and lies, durably, where the policy wants it now: its
        own layout may name other packs than those in which this push has found or laid the same chunks."""
        try:
            stored, files = open_version(session, snapshot, parent)
        except (Corrupt, NotFound):
            return False
        if not _same_content(document, stored) or files.head.placement_class != space.placement_class.hex():
            return False
        unchecked = files.pack_ids() - pushed.packs_reused
        sizes = {pack_key(pack): self._connection.catalogue.size_bytes(pack) for pack in unchecked}
        return not ensure_durable(space.replicas, self._connection.checker, sizes)

    def _document(self, pushed: Pushed, parent: str | None) -> VersionDocument:
        request = self._request
        files = tuple(
            FileEntry(file.path, file.size_bytes, {"sha256": file.sha256}, file.executable) for file in pushed.files
        )
        lineage = Lineage(tuple(digest for _, digest in request.bases), request.data, request.code)
        return VersionDocument(
            files=files,
            time=now(),
            author=request.author,
            message=request.message,
            parents=() if parent is None else (parent,),
            parameters=dict(request.parameters),
            metadata=dict(request.metadata),
            lineage=lineage,
        )

    def _ref_updates(self, snapshot: Snapshot, digest: str, parent: str | None) -> list[RefUpdate]:
        request = self._request
        updates = [RefUpdate(Ref(RefKind.BRANCH, request.branch), digest, expected=parent)]
        for kind, given in ((RefKind.TAG, request.tags), (RefKind.ALIAS, request.aliases)):
            updates += [RefUpdate(Ref(kind, name), digest) for name in given]
        return [update for update in updates if _stands_at(snapshot, update.ref) != digest]

    def _result(self, pushed: Pushed, policy: Policy, session: Session, digest: str, parent: str | None) -> PushResult:
        locations = allowed(policy, self._connection.configuration.locations)
        return PushResult(
            repository=self._name,
            version=digest,
            branch=self._request.branch,
            files=len(pushed.files),
            total_bytes=pushed.read_bytes,
            stored_bytes=pushed.stored_bytes,
            reused_bytes=pushed.reused_bytes,
            delta_bytes=pushed.delta_bytes,
            sent_bytes={
                location.name: 0 if location.name in session.lagging else pushed.stored_bytes for location in locations
            },
            lagging={name: error.message for name, error in sorted(session.lagging.items())},
            unchanged=digest == parent,
            dry_run=self._request.dry_run,
            ignored=self._source.ignored,
        )


def _same_content(new: VersionDocument, old: VersionDocument) -> bool:
    """Whether a push would only say again what the branch says already, as a command that is run twice does."""
    fields = ("files", "message", "author", "parameters", "metadata", "lineage")
    return all(getattr(new, name) == getattr(old, name) for name in fields)


def _stands_at(snapshot: Snapshot, ref: Ref) -> str | None:
    state = snapshot.ref_state(ref)
    return None if state is None else state.version
