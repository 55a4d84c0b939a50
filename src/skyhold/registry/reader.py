"""One repository, to read it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, Unpack, overload

from skyhold import error_codes
from skyhold.consensus.parallel import at_once
from skyhold.errors import Corrupt, NotFound, SkyholdError, Unavailable
from skyhold.registry import given
from skyhold.registry.arguments import PullArguments
from skyhold.registry.by_digest import OpenVersion, place_of, with_version
from skyhold.registry.log import log as walk_log
from skyhold.registry.names import parse_reference
from skyhold.registry.reading import (
    document_or_fault,
    find_ref,
    open_version,
    read_model_card,
    reading,
)
from skyhold.registry.refs import RepositoryRegister
from skyhold.registry.repositories import Repositories
from skyhold.registry.root import register_key
from skyhold.registry.snapshot import RefState, Snapshot, VersionEntry
from skyhold.registry.spaces import version_space
from skyhold.registry.views import (
    AttachedView,
    EventView,
    LogEntry,
    MoveView,
    PullPlan,
    PullResult,
    RefView,
    Version,
    move_view,
)
from skyhold.storage.blob_cache import VersionPlace
from skyhold.storage.chunks import ChunkReader
from skyhold.storage.policy import Policy
from skyhold.storage.progress import Progress, Silence
from skyhold.storage.version_files import StoredFile
from skyhold.store.connection import Connection
from skyhold.store.session import Session

if TYPE_CHECKING:
    from skyhold.registry.diff import DiffSide, VersionDiff
    from skyhold.registry.reporting import After
    from skyhold.store.watching import ResyncNeeded

T = TypeVar("T")


class RepositoryReader:
    """One repository, read. Every method opens what it needs and closes it again.

    With `max_age_s` a read may miss the moves of the last that many seconds, and costs less; with `math.inf` it also
    returns where no majority of the voters answers, by what is known. `Store.stale` lists these reads.

    A `reference` is the name of a branch, tag or alias, or the beginning of a version's id (4 characters or more), with
    `~N` for its Nth ancestor.
    """

    def __init__(
        self,
        connection: Connection,
        repository_id: str,
        name: str,
        *,
        create: bool = False,
        unresolved: SkyholdError | None = None,
    ) -> None:
        """`unresolved` is why it cannot be found out which repository has this name now; its id is then unknown. Every
        method raises it, except for versions by their full digest."""
        self._connection = connection
        self._create = create
        self._unresolved = unresolved
        self.id = repository_id
        self.name = name

    def __repr__(self) -> str:
        return f"Repository({self.name!r})"

    @property
    def policy(self) -> Policy:
        with self._reading() as (_, snapshot):
            return Policy.from_json(snapshot.root.policy)

    @overload
    def pull(
        self, reference: str = ..., destination: str | Path = ..., *,
        dry_run: Literal[False] = ..., **options: Unpack[PullArguments],
    ) -> PullResult: ...  # fmt: skip
    @overload
    def pull(
        self, reference: str = ..., destination: str | Path = ..., *,
        dry_run: Literal[True], **options: Unpack[PullArguments],
    ) -> PullPlan: ...  # fmt: skip
    @overload
    def pull(
        self, reference: str = ..., destination: str | Path = ..., *,
        dry_run: bool, **options: Unpack[PullArguments],
    ) -> PullResult | PullPlan: ...  # fmt: skip
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
        place: VersionPlace | None = None,
        max_age_s: float | None = None,
        progress: Progress | None = None,
    ) -> PullResult | PullPlan:
        """Restore a version, or the files that match one of the globs in `include`, into a folder.

        With `tensors` (names or globs) only these are fetched, into `tensors.safetensors`, each as the library of its
        format returns it; the array of a `.npy` file has the name of the file. What safetensors cannot hold is left
        out, or refused where its name was given. Every byte is checked before a file appears under its name. A
        `dry_run` fetches and writes nothing, and reports what would come from where.

        A file that is there with other content is replaced where some version of the repository has that content; else
        nothing is done and `Conflict`, code `target_edited`, names it, unless `force`. Files whose names steer other
        programs are not written, unless `allow_unsafe_names`; the result names them in `left_out`. Raises `NotFound`
        where a glob matches nothing, and `InvalidInput` where something is in the way of a file.

        A version that is named by its full digest is read from the cache of this machine, or from any bucket that has
        it, without a majority: with a `place` (see `place`) also where no voter answers.
        """
        from skyhold.registry.pulling import Pulling, PullRequest, pull_version, stored_with  # loads what decodes

        request = PullRequest(
            given.path(destination, "the destination"),
            given.texts(include, "include"),
            given.texts(tensors, "tensors"),
            dry_run,
            force,
            allow_unsafe_names,
        )

        def pull(opened: OpenVersion) -> PullResult | PullPlan:
            pulling = Pulling(self.name, opened.digest, opened.version, opened.space, stored_with(opened))
            return replace(pull_version(pulling, request, progress or Silence()), found_by=opened.found_by)

        return self._with_version(reference, pull, cached_first=True, keep=not dry_run, at=place, max_age_s=max_age_s)

    def place(self, reference: str = "main") -> VersionPlace:
        """Where the blobs of a version are, for a later pull of its digest that needs no majority."""
        with self._reading() as (_, snapshot):
            return place_of(snapshot, self._resolve(snapshot, reference))

    def show(self, reference: str = "main", *, max_age_s: float | None = None) -> Version:
        """A version with its files, parameters, lineage, metrics, notes, refs and model card. For one that was found in
        this machine's cache, what was attached to it and which refs point to it are not read."""

        def show(opened: OpenVersion) -> Version:
            snapshot, digest, version, document = opened.snapshot, opened.digest, opened.version, opened.document
            refs = () if snapshot is None else snapshot.refs()
            tensors, model_card = None, None
            # A pull of whole files reads no names of tensors, so they may not be in the cache.
            with suppress(*((Corrupt, NotFound, Unavailable) if opened.found_by == "cache" else ())):
                tensors = sum(len(tensors) for tensors in version.tensors.values())
                model_card = read_model_card(version, opened.space)
            return Version(
                repository=self.name,
                digest=digest,
                found_by=opened.found_by,
                message=document.message,
                author=document.author,
                time=document.time,
                parents=document.parents,
                files=document.files,
                size_bytes=sum(file.size_bytes for file in version.files),
                tensors=tensors,
                parameters=document.parameters,
                metadata=document.metadata,
                lineage=document.lineage,
                attached=tuple(map(AttachedView.of, () if snapshot is None else snapshot.attached(digest))),
                refs=tuple(str(state.ref) for state in refs if state.version == digest),
                model_card=model_card,
            )

        return self._with_version(reference, show, cached_first=False, max_age_s=max_age_s)

    def log(
        self,
        reference: str = "main",
        *,
        first_parent: bool = False,
        limit: int | None = None,
        max_age_s: float | None = None,
    ) -> list[LogEntry]:
        """The versions that a version descends from, itself first, newest first."""
        limit = None if limit is None else given.count(limit, "limit", least=0)
        with self._reading(max_age_s) as (session, snapshot):
            digest = self._resolve(snapshot, reference)
            refs_at: dict[str, list[str]] = {}
            for state in snapshot.refs():
                refs_at.setdefault(str(state.version), []).append(str(state.ref))

            def viewed(entry: VersionEntry) -> LogEntry:
                document, fault = document_or_fault(session, lambda: entry)
                if document is None:  # the version may have been laid anew since its child was pushed
                    document, fault = document_or_fault(session, partial(snapshot.version, entry.digest))
                return LogEntry(
                    entry.digest,
                    entry.parents,
                    document.author if document else "",
                    entry.time,
                    document.message if document else "",
                    tuple(refs_at.get(entry.digest, ())),
                    snapshot.metrics(entry.digest),
                    fault,
                )

            entries = list(islice(walk_log(snapshot, digest, first_parent=first_parent), limit))
            for entry in entries[:1]:  # then the nodes of what is attached are there for the others
                snapshot.metrics(entry.digest)
            return at_once(viewed, entries, "log")

    def refs(self, *, max_age_s: float | None = None) -> list[RefView]:
        """All branches, tags and aliases, by kind and name."""
        with self._reading(max_age_s) as (session, snapshot):

            def viewed(state: RefState) -> RefView:
                digest = str(state.version)
                document, fault = document_or_fault(session, partial(snapshot.version, digest))
                message = document.message if document else ""
                return RefView(str(state.ref), digest, snapshot.version(digest).time, message, fault)

            return at_once(viewed, snapshot.refs(), "refs")

    def ref_names(self, *, max_age_s: float | None = None) -> list[str]:
        """The names alone, such as `branch/main`, by kind and name: no version is read."""
        with self._reading(max_age_s) as (_, snapshot):
            return [str(state.ref) for state in snapshot.refs()]

    def history(
        self, ref: str | None = None, limit: int | None = None, *, max_age_s: float | None = None
    ) -> list[MoveView]:
        """The moves of a ref, or of all of them, newest first."""
        from skyhold.registry.history import moves_reverse, ref_history

        limit = None if limit is None else given.count(limit, "limit", least=0)
        name = None if ref is None else given.text(ref, "a ref")
        with self._reading(max_age_s) as (_, snapshot):
            if name is None:
                return [move_view(move) for move in islice(moves_reverse(snapshot), limit)]
            found = [
                move_view(move) for move in islice(ref_history(snapshot, find_ref(snapshot, name, self.name)), limit)
            ]
            if not found:
                raise NotFound(f"There never was a ref `{ref}` in {self.name}", code=error_codes.REF_NOT_FOUND)
            return found

    def events(
        self, *, since: str | None = None, limit: int | None = None, max_age_s: float | None = None
    ) -> list[EventView]:
        """Every change of the repository, newest first. `since` is a time such as 2026-11-23T20:05:02Z."""
        from skyhold.registry.reporting import events_of_repository

        limit = None if limit is None else given.count(limit, "limit", least=0)
        with self._reading(max_age_s) as (_, snapshot):
            return list(islice(events_of_repository(snapshot, self.name, given.time(since, "since")), limit))

    def watch(self, after: After = None, *, stop: threading.Event | None = None) -> Iterator[EventView | ResyncNeeded]:
        """Every change of the repository after `after` (an event, its sequence and chain, or its sequence alone; None:
        from now on), each once and in order, as it comes, until `stop` is set; also while the store moves.
        `ResyncNeeded` where the repository was recovered to a state without that event: begin anew from what it is now.
        A change is seen within about six seconds."""
        from skyhold.registry.reporting import place_in_log, views_of
        from skyhold.store.watching import watch_events

        if self._unresolved is not None:
            raise self._unresolved
        place = place_in_log(after)

        @contextmanager
        def read() -> Iterator[Snapshot]:
            with self._reading() as (_, snapshot):
                yield snapshot

        key = register_key(self.id)
        events = watch_events(self._connection.waiter, key, self.name, read, place, stop)
        return views_of((key, self.name, event) for event in events)

    def diff(
        self,
        a: str,
        b: str,
        *,
        other: RepositoryReader | None = None,
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

    @contextmanager
    def _reading(self, max_age_s: float | None = None) -> Iterator[tuple[Session, Snapshot]]:
        if self._unresolved is not None:
            raise self._unresolved
        with self._connection.within(given.age_s(max_age_s)) as connection, reading(connection, self.id) as found:
            yield found

    def _register(self, session: Session) -> RepositoryRegister:
        return Repositories(session.registers, session.blobs).repository(self.id)

    def _with_version(
        self,
        reference: str,
        use: Callable[[OpenVersion], T],
        *,
        cached_first: bool,
        keep: bool = True,
        at: VersionPlace | None = None,
        max_age_s: float | None = None,
    ) -> T:
        id_ = None if self._unresolved else self.id
        text = given.text(reference, "a reference")
        with self._connection.within(given.age_s(max_age_s)) as connection:
            return with_version(connection, self.name, id_, text, use, cached_first=cached_first, keep=keep, place=at)

    def _resolve(self, snapshot: Snapshot, reference: str) -> str:
        parsed = parse_reference(f"{self.name}@{given.text(reference, 'a reference')}")
        return snapshot.resolve(parsed.ref or "main", parsed.ancestor)

    def _side(self, session: Session, snapshot: Snapshot, reference: str) -> DiffSide:
        from skyhold.registry.diff import DiffSide

        digest = self._resolve(snapshot, reference)
        document, version = open_version(session, snapshot, digest)
        reader = ChunkReader(version_space(self._connection, version, Policy.from_json(snapshot.root.policy), session))
        files = [StoredFile(version, index, reader) for index in range(len(version.files))]
        return DiffSide(files, snapshot.metrics(digest), document.parameters)
