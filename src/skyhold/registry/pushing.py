"""Pushing a version: packs, a document, a layout, and the refs that move to it as one (format.md, 2 and 12)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from skyhold import error_codes
from skyhold.errors import AlreadyExists, Conflict, Corrupt, NotFound, Unavailable
from skyhold.registry.change import check
from skyhold.registry.committing import Commit, PacksLost, same_content
from skyhold.registry.names import Ref, RefKind, check_new_ref
from skyhold.registry.pack_spaces import pack_space
from skyhold.registry.push_request import PENDING, Parent, PushRequest
from skyhold.registry.reading import open_document, open_version, repositories_of
from skyhold.registry.repositories import Repositories
from skyhold.registry.repository_names import RepositoryNames
from skyhold.registry.repository_register import read_root
from skyhold.registry.root import Root
from skyhold.registry.snapshot import NewVersion, Snapshot
from skyhold.registry.version import VersionDocument, VersionFile
from skyhold.registry.views import PushPlan, PushResult
from skyhold.storage.bases import DeltaBases
from skyhold.storage.canonical import Json, decode
from skyhold.storage.chunks import ChunkReader, PackSpace
from skyhold.storage.index_segments import learn_segments
from skyhold.storage.policy import Policy, allowed, placement_class
from skyhold.storage.progress import Progress
from skyhold.storage.push import Push, PushOptions
from skyhold.storage.resume import resume
from skyhold.storage.sources.open import SourceInput, open_source
from skyhold.storage.sources.port import Source, sha256_of
from skyhold.storage.version_files import VersionFiles
from skyhold.store.connection import Connection
from skyhold.store.session import Session
from skyhold.store.state import cache_folder

MAIN: Final = "main"
ATTEMPTS_MAX: Final = 3
"""How often a push reads its source."""
POLICIES_TRIED_MAX: Final = 3
"""Under how many policies, or memberships of the store, one attempt commits what it has sent."""
INTERPRETER_BYTES: Final = 100 << 20
"""The share of a push's memory limit for the interpreter, its libraries and their buffers."""


def source_of(connection: Connection, given: SourceInput, request: PushRequest) -> Source:
    """What is pushed, as a context manager. Raises as `open_source` does."""
    return open_source(
        given,
        without_optimizer=request.without_optimizer,
        allow_unsafe_names=request.allow_unsafe_names,
        own=_own_places(connection),
    )


def push_version(
    connection: Connection, repository_id: str, name: str, request: PushRequest, source: Source, progress: Progress
) -> PushResult | PushPlan:
    """Push, and move the refs once the version is durable to the repository's policy.

    The outer loop of a push: what was sent is not what is needed, so the source is read again.
    Restarts, a few times, where garbage collection ran meanwhile, where the policy now requires other buckets, or
    where objects that it intended to reuse are no longer available; what was sent is reused. Raises what
    storage raises, and `Conflict` where the branch moved.
    """
    lost: set[bytes] = set()
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            return _Attempt(connection, repository_id, name, request, source, progress, frozenset(lost)).run()
        except Conflict as error:
            if (
                error.code
                not in {error_codes.GC_EPOCH_RISEN, error_codes.POLICY_CHANGED, error_codes.MEMBERSHIP_CHANGED}
                or attempt == ATTEMPTS_MAX
            ):
                raise
        except PacksLost as error:
            connection.chunk_index.forget(error.vanished)
            if error.packs:
                progress.note(f"No bucket has {len(error.packs)} of the packs intact; their content is sent again")
            lost.update(error.packs)  # delta bases are found by layouts, and may still open from the cache
    raise Unavailable(
        f"Objects that this push reuses were gone or damaged in each of {ATTEMPTS_MAX} attempts; no ref was moved",
        code=error_codes.OBJECTS_VANISH,
        hint="Run `skyhold verify --deep`: another process deletes or changes objects in the buckets",
    )


def _own_places(connection: Connection) -> list[Path]:
    """What Skyhold keeps on this machine, for any store: settings, key, state and cache."""
    settings = connection.settings
    state = connection.state.folder.parent.parent
    places = [settings.file, settings.key_file, state, settings.cache_folder or cache_folder()]
    return [Path(place) for place in places if place is not None]


class _Attempt:
    def __init__(
        self,
        connection: Connection,
        repository_id: str,
        name: str,
        request: PushRequest,
        source: Source,
        progress: Progress,
        lost: frozenset[bytes],
    ) -> None:
        self._connection, self._id, self._name = connection, repository_id, name
        self._request, self._source, self._progress = request, source, progress
        self._lost = lost

    def run(self) -> PushResult | PushPlan:
        connection, request = self._connection, self._request
        version, root = self._root()
        policy = Policy.from_json(root.policy)
        with connection.session(policy) as session:
            names = Repositories(session.registers, session.blobs).read()
            connection.check_writable()
            snapshot = Snapshot(root, version, session.blobs)
            if not version:
                snapshot = Snapshot(replace(root, gc_epoch=names.gc_epoch), version, session.blobs)
            parent = self._parent(snapshot)
            self._check(session, snapshot, parent, names.gc_epoch)
            space = pack_space(connection, policy, session)
            segments: frozenset[str] = frozenset()
            if not request.dry_run:
                resume(space, connection.chunk_index)
                of_class = space.placement_class.hex()
                segments = learn_segments(connection.chunk_index, session.blobs, space.replicas, of_class)
            bases = DeltaBases(
                list(self._base_versions(session, snapshot, parent.version)),
                space.placement_class.hex(),
                ChunkReader(space),
            )
            self._progress.begin("push", self._source.size_bytes)
            try:
                with Push(
                    space,
                    connection.chunk_index,
                    bases,
                    self._options(policy),
                    self._progress,
                    self._dead(session, names),
                ) as push:
                    pushed = push.run(self._source.files)
                    commit = Commit(
                        connection, self._id, self._name, request, push, pushed, snapshot, parent, names.gc_epoch,
                        segments, self._progress,
                    )  # fmt: skip
                    if request.dry_run:
                        return PushPlan(**self._figures(commit, policy, session))
                    digest = self._commit(commit, root.policy, session, space, pushed.packs_reused)
            finally:
                self._progress.end()
            unchanged = commit.parent == (digest, digest)
            return PushResult(**self._figures(commit, policy, session), version=digest, unchanged=unchanged)

    def _root(self) -> tuple[int, Root]:
        """The repository's root as it is, and its register's version; for one that the push will create (version 0),
        as before its first event."""
        try:
            return read_root(self._connection.registers, self._id)
        except NotFound:
            with repositories_of(self._connection) as (repositories, _):
                absent = repositories.absent(self._id)
            if not (self._request.create and isinstance(absent, NotFound)):
                raise absent from None
            policy = self._connection.configuration.policy.to_json()
            return 0, Root.first(self._id, gc_epoch=0, policy=policy)

    def _parent(self, snapshot: Snapshot) -> Parent:
        """What the branch points to; a new branch begins at `main`. Raises `Conflict` where another was expected."""
        request = self._request
        at = snapshot.version_of(Ref(RefKind.BRANCH, request.branch))
        if at is None:
            check_new_ref(Ref(RefKind.BRANCH, request.branch))
        parent = Parent(at or snapshot.version_of(Ref(RefKind.BRANCH, MAIN)), at)
        expected = request.expected_parent
        if expected is not None and not (parent.version or "").startswith(expected):
            raise Conflict(
                f"Branch `{request.branch}` of {self._name} does not point to {expected[:10]} any more; "
                "nothing was changed",
                code=error_codes.REF_MOVED,
                hint=f"Look at `skyhold log {self._name}@{request.branch}`, then push again",
            )
        return parent

    def _check(self, session: Session, snapshot: Snapshot, parent: Parent, gc_epoch: int) -> None:
        """Refuse early, before anything is sent, what the repository would refuse at the end."""
        request = self._request
        files = [
            VersionFile(file.path, file.size_bytes, {"sha256": PENDING}, file.executable) for file in self._source.files
        ]
        document = request.describe(files, parent.version)
        document.encode()  # which bounds its size
        entry = NewVersion(PENDING, PENDING, PENDING, document.parents, document.time)
        try:
            check(snapshot, request.change(parent, PENDING, (entry,), gc_epoch, snapshot.root.policy))
        except AlreadyExists:
            # A tag may be at the branch's version, and the same files be pushed once more.
            if parent.version is None or not self._is_at(session, snapshot, parent.version, document):
                raise
            check(snapshot, request.change(parent, parent.version, (), gc_epoch, snapshot.root.policy))

    def _is_at(self, session: Session, snapshot: Snapshot, digest: str, described: VersionDocument) -> bool:
        """Whether the version has the same description and the same files. Reads files to the first difference."""
        stored = open_document(session, snapshot, digest)
        unhashed = tuple(replace(file, digests={"sha256": PENDING}) for file in stored.files)
        if not same_content(described, replace(stored, files=unhashed)):
            return False
        hashes = {file.path: file.sha256 for file in stored.files}
        return all(sha256_of(file) == hashes[file.path] for file in self._source.files)

    def _options(self, policy: Policy) -> PushOptions:
        settings = self._connection.settings
        memory_bytes = max(48 << 20, settings.push_memory_bytes - INTERPRETER_BYTES)
        options = PushOptions(memory_bytes=memory_bytes, delta=policy.delta, dry_run=self._request.dry_run)
        if settings.push_threads is None:
            return options
        return PushOptions(memory_bytes, settings.push_threads, policy.delta, self._request.dry_run)

    def _dead(self, session: Session, names: RepositoryNames) -> frozenset[bytes]:
        """Packs that a gc may delete, or that are lost: never to be reused, even if an index still lists them."""
        dead = set(self._lost)
        for name in names.tombstones:
            document = decode(session.blobs.read("tombstones", name), "tombstones")
            packs = document.get("packs")
            if not isinstance(packs, list):
                raise Corrupt(f"Tombstones {name} are malformed", code=error_codes.TOMBSTONES_DAMAGED)
            dead.update(bytes.fromhex(str(pack)) for pack in packs)
        return frozenset(dead)

    def _base_versions(self, session: Session, snapshot: Snapshot, parent: str | None) -> list[VersionFiles]:
        found = []
        if parent is not None:
            try:
                version = open_version(session, snapshot, parent)[1]
                version.tensors  # noqa: B018  read here, where their loss only costs savings
            except (Corrupt, NotFound) as error:  # a lost version must not block its branch
                self._progress.note(f"Nothing is stored as a difference to version {parent[:10]}: {error.message}")
            else:
                found.append(version)
        repositories = Repositories(session.registers, session.blobs)
        for repository_id, digest in self._request.bases:
            found.append(open_version(session, repositories.repository(repository_id).read(), digest)[1])
        return found

    def _commit(
        self,
        commit: Commit,
        policy: Json,
        session: Session,
        space: PackSpace,
        packs: Collection[bytes],
        attempt: int = 1,
    ) -> str:
        """Commit, under the policy and to the buckets that the repository has at that time. A policy with the same
        placement class needs at most more copies of the packs; any other one needs a restart of the push.

        The middle loop of a push: what was sent is right, and has to be durable to another policy or in other buckets;
        the source is not read again."""
        try:
            return commit.under(policy, session, space, packs)
        except Conflict as error:
            if (
                error.code not in {error_codes.POLICY_CHANGED, error_codes.MEMBERSHIP_CHANGED}
                or attempt == POLICIES_TRIED_MAX
            ):
                raise
            what = (
                "buckets of the store were"
                if error.code == error_codes.MEMBERSHIP_CHANGED
                else f"policy of {self._name} was"
            )
            changed = self._root()[1].policy
            parsed = Policy.from_json(changed)
            if placement_class(parsed) != space.placement_class.hex():
                raise
        self._progress.note(f"The {what} changed meanwhile; this push follows")
        with self._connection.session(parsed) as stricter:
            everything = commit.pushed.packs_sent.keys() | commit.pushed.packs_reused
            again = pack_space(self._connection, parsed, stricter)
            digest = self._commit(commit, changed, stricter, again, everything, attempt + 1)
            for name, reason in stricter.lagging.items():
                session.lagging.setdefault(name, reason)
            return digest

    def _figures(self, commit: Commit, policy: Policy, session: Session) -> dict[str, Any]:
        """The fields that a push and its plan share."""
        locations, pushed = allowed(policy, self._connection.configuration.locations), commit.pushed
        lagging = {name: f"it lacks {count} of the reused packs" for name, count in commit.lagging.items()}
        lagging |= {name: error.message for name, error in session.lagging.items()}
        return {
            "repository": self._name,
            "branch": self._request.branch,
            "files": len(pushed.files),
            "total_bytes": pushed.read_bytes,
            "stored_bytes": pushed.stored_bytes,
            "reused_bytes": pushed.reused_bytes,
            "delta_bytes": pushed.delta_bytes,
            "sent_bytes": {
                location.name: 0 if location.name in session.lagging else pushed.stored_bytes for location in locations
            },
            "lagging": dict(sorted(lagging.items())),
            "ignored": self._source.ignored,
            "left_out": dict(self._source.left_out),
        }
