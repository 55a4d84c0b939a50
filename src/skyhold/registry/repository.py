"""`Repository`: one model's history in a store, as programs use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from skyhold.errors import AlreadyExists, InvalidInput, NotFound
from skyhold.registry import given
from skyhold.registry.catalogue import Catalogue
from skyhold.registry.change import ANY, Change, RefUpdate, attachments
from skyhold.registry.connection import Connection, new_operation_id, pause
from skyhold.registry.history import moves_reverse, ref_history
from skyhold.registry.log import log as walk_log
from skyhold.registry.names import Ref, parse_reference
from skyhold.registry.pulling import Pulling, PullRequest, pull_version, stored_in
from skyhold.registry.reading import (
    CatalogueSession,
    document_or_fault,
    find_ref,
    open_version,
    read_model_card,
    resolve_base,
)
from skyhold.registry.refs import RepositoryRegister
from skyhold.registry.session import Session, follow_moves
from skyhold.registry.snapshot import Snapshot
from skyhold.registry.time import now
from skyhold.registry.views import LogEntry, MoveView, PullResult, PushResult, RefView, Version, move_view
from skyhold.storage.chunks import ChunkReader
from skyhold.storage.policy import Policy, check_possible
from skyhold.storage.progress import Progress, Silence
from skyhold.storage.version_files import StoredFile

if TYPE_CHECKING:
    from skyhold.registry.diff import DiffSide, VersionDiff

T = TypeVar("T")


class Repository:
    """One repository. Get it from `Store.repository`; every method opens what it needs and closes it again.

    A `reference` is the name of a branch, tag or alias, or the beginning of a version's id (4 characters or more), with
    `~N` for its Nth ancestor. Methods that change something are atomic: all of it takes effect, or nothing.
    """

    def __init__(self, connection: Connection, repository_id: str, name: str, *, create: bool = False) -> None:
        self._connection = connection
        self._create = create
        self.id = repository_id
        self.name = name

    def __repr__(self) -> str:
        return f"Repository({self.name!r})"

    @property
    def policy(self) -> Policy:
        with self._reading() as (_, snapshot):
            return Policy.from_json(snapshot.root.policy)

    def set_policy(self, policy: Policy) -> None:
        """Change how many copies there are and where. Versions that exist follow with `Store.sync`."""
        operation_id = new_operation_id()

        def set_policy(register: RepositoryRegister, _: Snapshot) -> None:
            check_possible(policy, self._connection.configuration.locations)
            register.set_policy(policy.to_json(), operation_id, pause=pause)

        self._change(set_policy)

    def push(
        self,
        path: str | Path,
        *,
        message: str = "",
        author: str | None = None,
        branch: str = "main",
        tags: Sequence[str] = (),
        aliases: Sequence[str] = (),
        metrics: Mapping[str, float] | None = None,
        notes: Sequence[str] = (),
        parameters: Mapping[str, object] | None = None,
        metadata: Mapping[str, object] | None = None,
        data: Sequence[str] = (),
        code: Sequence[str] = (),
        base: str | None = None,
        expected_parent: str | None = None,
        dry_run: bool = False,
        without_optimizer: bool = False,
        allow_unsafe_names: bool = False,
        progress: Progress | None = None,
    ) -> PushResult:
        """Commit the files at `path` as a new version of `branch`; it is durable to the policy when this returns.

        `base` names a version of any repository (`team/name@ref`) from which this one was derived: it becomes part of
        the lineage, and the new weights are stored as differences to it where that helps. Run again after any failure:
        what had arrived is not sent again. Raises `Conflict` where another push moved the branch first.

        Files whose names steer other programs (`.git`, `.env`, `skyhold.toml` and the like) are left out, unless
        `allow_unsafe_names`; buckets of stores, key files and other things of Skyhold's own always. The result names
        them in `left_out`.
        """
        from skyhold.registry.pushing import PushRequest, push_version  # loads what cuts and encodes

        request = PushRequest(
            path=given.path(path, "the files to push"),
            message=given.text(message, "the message", long=True),
            author=self._author(author),
            branch=given.text(branch, "the branch"),
            tags=given.texts(tags, "tags"),
            aliases=given.texts(aliases, "aliases"),
            metrics=given.numbers(metrics, "metrics"),
            notes=given.texts(notes, "notes", long=True),
            parameters=given.values(parameters, "parameters"),
            metadata=given.values(metadata, "metadata"),
            data=given.texts(data, "data", long=True),
            code=given.texts(code, "code", long=True),
            expected_parent=None if expected_parent is None else given.text(expected_parent, "the expected parent"),
            dry_run=dry_run,
            without_optimizer=without_optimizer,
            allow_unsafe_names=allow_unsafe_names,
            create=self._create,
        )
        if base is not None:
            request = replace(request, bases=(resolve_base(self._connection, given.text(base, "the base")),))
        progress = progress or Silence()
        try:
            return push_version(self._connection, self.id, self.name, request, progress)
        except AlreadyExists as error:
            if error.code != "repository_exists" or not self._create:
                raise
        with CatalogueSession(self._connection) as (catalogue, _):  # another push has made it meanwhile
            self.id = catalogue.read().find(self.name) or self.id
        return push_version(self._connection, self.id, self.name, request, progress)

    def pull(
        self,
        reference: str = "main",
        destination: str | Path = ".",
        *,
        include: Sequence[str] = (),
        tensors: Sequence[str] = (),
        dry_run: bool = False,
        force: bool = False,
        allow_unsafe_names: bool = False,
        progress: Progress | None = None,
    ) -> PullResult:
        """Restore a version, or the files that match one of the globs in `include`, into a folder.

        With `tensors` (names or globs) only these are fetched, into `tensors.safetensors`, each as the library of its
        format returns it; the array of a `.npy` file has the name of the file. What safetensors cannot hold is left
        out, or refused where its name was given. Every byte is checked before a file appears under its name. A
        `dry_run` fetches and writes nothing, and says what would come from where.

        A file that is there with other content is replaced where some version of the repository has that content; else
        nothing is done and `Conflict`, code `target_edited`, names it, unless `force`. Files whose names steer other
        programs are not written, unless `allow_unsafe_names`; the result names them in `left_out`. Raises `NotFound`
        where a glob matches nothing, and `InvalidInput` where something is in the way of a file.
        """
        request = PullRequest(
            given.path(destination, "the destination"),
            given.texts(include, "include"),
            given.texts(tensors, "tensors"),
            dry_run,
            force,
            allow_unsafe_names,
        )
        with self._reading() as (session, snapshot):
            digest = self._resolve(snapshot, reference)
            _, version = open_version(session, snapshot, digest)
            space = self._connection.version_space(version, Policy.from_json(snapshot.root.policy), session)
            pulling = Pulling(self.name, digest, version, space, stored_in(session, snapshot, digest))
            return pull_version(pulling, request, progress or Silence())

    def show(self, reference: str = "main") -> Version:
        """A version with its files, parameters, lineage, metrics, notes, refs and model card."""
        with self._reading() as (session, snapshot):
            digest = self._resolve(snapshot, reference)
            document, version = open_version(session, snapshot, digest)
            space = self._connection.version_space(version, Policy.from_json(snapshot.root.policy), session)
            return Version(
                repository=self.name,
                digest=digest,
                document=document,
                attached=tuple(snapshot.attached(digest)),
                refs=tuple(str(state.ref) for state in snapshot.refs() if state.version == digest),
                model_card=read_model_card(version, space),
                size_bytes=sum(file.size_bytes for file in version.files),
                tensors=sum(len(tensors) for tensors in version.tensors.values()),
            )

    def log(self, reference: str = "main", *, first_parent: bool = False, limit: int | None = None) -> list[LogEntry]:
        """The versions that a version descends from, itself first, newest first."""
        limit = None if limit is None else given.count(limit, "limit", least=0)
        with self._reading() as (session, snapshot):
            digest = self._resolve(snapshot, reference)
            standing: dict[str, list[str]] = {}
            for state in snapshot.refs():
                standing.setdefault(str(state.version), []).append(str(state.ref))
            entries = []
            for entry in islice(walk_log(snapshot, digest, first_parent=first_parent), limit):
                document, fault = document_or_fault(session, snapshot, entry.digest)
                entries.append(
                    LogEntry(
                        entry.digest,
                        entry.parents,
                        document.author if document else "",
                        entry.time,
                        document.message if document else "",
                        tuple(standing.get(entry.digest, ())),
                        snapshot.metrics(entry.digest),
                        fault,
                    )
                )
            return entries

    def refs(self) -> list[RefView]:
        """All branches, tags and aliases, by kind and name."""
        with self._reading() as (session, snapshot):
            views = []
            for state in snapshot.refs():
                digest = str(state.version)
                document, fault = document_or_fault(session, snapshot, digest)
                message = document.message if document else ""
                views.append(RefView(str(state.ref), digest, snapshot.version(digest).time, message, fault))
            return views

    def ref_names(self) -> list[str]:
        """The names alone, such as `branch/main`, by kind and name: no version is read."""
        with self._reading() as (_, snapshot):
            return [str(state.ref) for state in snapshot.refs()]

    def set_refs(
        self,
        changes: Mapping[str, str | None],
        *,
        expected: Mapping[str, str | None] | None = None,
        author: str | None = None,
        reason: str = "",
        force: bool = False,
    ) -> list[MoveView]:
        """Move several refs as one. `changes` maps names such as `alias/champion` to references, or None to delete.

        `expected` says where a ref must stand now (a reference, or None: it must not exist), else `Conflict`. Branches
        move forward only, unless `force`; tags never move. Returns the moves that were made.
        """

        wanted = _targets(changes, "changes")
        musts = _targets(expected, "expected")
        for name in wanted.keys() | musts.keys():
            Ref.parse(name)
        said = Change(author=self._author(author), time=now(), reason=given.text(reason, "the reason", long=True))

        def move(register: RepositoryRegister, snapshot: Snapshot) -> list[MoveView]:
            updates = []
            for name, target in wanted.items():
                version = None if target is None else self._resolve(snapshot, target)
                must: str | None = ANY
                if name in musts:
                    must = None if (there := musts[name]) is None else self._resolve(snapshot, there)
                updates.append(RefUpdate(Ref.parse(name), version, expected=must, force=force))
            change = replace(said, time=now(), refs=tuple(updates))
            after = register.apply(change, new_operation_id(), pause=pause)
            made = after.root.moves - snapshot.root.moves
            own = {update.ref for update in updates}
            return [move_view(move) for move in islice(moves_reverse(after), max(made, 0)) if move.ref in own]

        return self._change(move)

    def history(self, ref: str | None = None, limit: int | None = None) -> list[MoveView]:
        """The moves of a ref, or of all of them, newest first."""
        limit = None if limit is None else given.count(limit, "limit", least=0)
        name = None if ref is None else given.text(ref, "a ref")
        with self._reading() as (_, snapshot):
            if name is None:
                return [move_view(move) for move in islice(moves_reverse(snapshot), limit)]
            found = [
                move_view(move) for move in islice(ref_history(snapshot, find_ref(snapshot, name, self.name)), limit)
            ]
            if not found:
                raise NotFound(f"There never was a ref `{ref}` in {self.name}", code="ref_not_found")
            return found

    def rollback(self, ref: str, *, to: str | None = None, author: str | None = None, reason: str = "") -> MoveView:
        """Move a branch or alias back: to the version where it stood before its last move, or to `to`."""
        with self._reading() as (_, snapshot):
            found = find_ref(snapshot, given.text(ref, "a ref"), self.name)
            last = next(ref_history(snapshot, found), None)
            if last is None or last.new is None:
                raise NotFound(f"There is no ref `{ref}` in {self.name}", code="ref_not_found")
            if to is None and last.old is None:
                raise InvalidInput(
                    f"`{ref}` of {self.name} never stood anywhere else; nothing was changed",
                    code="nothing_to_roll_back",
                    hint=f"Name a version: skyhold rollback {self.name}@{ref} --to REF",
                )
            target = str(last.old) if to is None else self._resolve(snapshot, to)
        moves = self.set_refs(
            {str(found): target},
            expected={str(found): last.new},
            author=author,
            reason=reason or "rollback",
            force=True,
        )
        if not moves:
            raise InvalidInput(f"`{ref}` of {self.name} stands there already", code="nothing_to_roll_back")
        return moves[0]

    def attach(
        self,
        reference: str,
        *,
        metrics: Mapping[str, float] | None = None,
        notes: Sequence[str] = (),
        author: str | None = None,
    ) -> None:
        """Attach metrics and notes to a version that exists; its id does not change."""

        measured, texts = given.numbers(metrics, "metrics"), given.texts(notes, "notes", long=True)

        def attach(register: RepositoryRegister, snapshot: Snapshot) -> None:
            found = tuple(attachments(self._resolve(snapshot, reference), measured, texts))
            change = Change(author=self._author(author), time=now(), attachments=found)
            register.apply(change, new_operation_id(), pause=pause)

        self._change(attach)

    def diff(
        self,
        a: str,
        b: str,
        *,
        other: Repository | None = None,
        tensors: bool = True,
        progress: Progress | None = None,
    ) -> VersionDiff:
        """What differs between version `a` of this repository and `b` of this one, or of `other`. Without `tensors` no
        weights are read, and only files, metrics and parameters are compared."""
        from skyhold.registry.diff import diff_versions  # loads NumPy, for which pull and push need not wait

        with self._reading() as (session_a, snapshot_a), (other or self)._reading() as (session_b, snapshot_b):
            side_a = self._side(session_a, snapshot_a, a)
            side_b = (other or self)._side(session_b, snapshot_b, b)
            watcher = progress or Silence()
            watcher.begin("diff", None)
            try:
                return diff_versions(side_a, side_b, tensors=tensors)
            finally:
                watcher.end()

    # ---- inside

    @contextmanager
    def _reading(self) -> Iterator[tuple[Session, Snapshot]]:
        with self._connection.session(self._connection.configuration.policy) as first:
            snapshot = self._register(first).read()
            policy = Policy.from_json(snapshot.root.policy)
            with self._connection.session(policy) as session:
                yield session, Snapshot(snapshot.root, snapshot.register_version, session.blobs)

    def _change(self, change: Callable[[RepositoryRegister, Snapshot], T]) -> T:
        def once() -> T:
            with self._reading() as (session, snapshot):
                return change(self._register(session), snapshot)

        return follow_moves(once)

    def _register(self, session: Session) -> RepositoryRegister:
        return Catalogue(session.registers, session.blobs).repository(self.id)

    def _resolve(self, snapshot: Snapshot, reference: str) -> str:
        parsed = parse_reference(f"{self.name}@{given.text(reference, 'a reference')}")
        return snapshot.resolve(parsed.ref or "main", parsed.ancestor)

    def _author(self, author: str | None) -> str:
        return given.text(author, "the author") if author is not None else self._connection.author

    def _side(self, session: Session, snapshot: Snapshot, reference: str) -> DiffSide:
        from skyhold.registry.diff import DiffSide

        digest = self._resolve(snapshot, reference)
        document, version = open_version(session, snapshot, digest)
        reader = ChunkReader(self._connection.version_space(version, Policy.from_json(snapshot.root.policy), session))
        files = [StoredFile(version, index, reader) for index in range(len(version.files))]
        return DiffSide(files, snapshot.metrics(digest), document.parameters)


def _targets(changes: object, what: str) -> dict[str, str | None]:
    """References by the names of refs, and None."""
    return {
        name: None if target is None else given.text(target, f"{what} of `{name}`")
        for name, target in given.pairs(changes, what)
    }
