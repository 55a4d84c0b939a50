"""One repository, to read it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from skyhold import error_codes
from skyhold.consensus.parallel import at_once
from skyhold.errors import NotFound
from skyhold.registry import validate
from skyhold.registry.log import log as walk_log
from skyhold.registry.pack_spaces import version_space
from skyhold.registry.reading import (
    document_or_fault,
    find_ref,
    open_version,
)
from skyhold.registry.root import register_key
from skyhold.registry.snapshot import RefState, Snapshot, VersionEntry
from skyhold.registry.version_reader import VersionReader
from skyhold.registry.views import EventView, LogEntry, MoveView, RefView, move_view
from skyhold.storage.cancel import Cancel, cancelled_by
from skyhold.storage.chunks import ChunkReader
from skyhold.storage.policy import Policy
from skyhold.storage.progress import Progress
from skyhold.storage.version_files import StoredFile
from skyhold.store.session import Session

if TYPE_CHECKING:
    from skyhold.registry.diff import DiffSide, VersionDiff
    from skyhold.registry.events import After
    from skyhold.store.watching import ResyncNeeded

T = TypeVar("T")


class RepositoryReader(VersionReader):
    """One repository, read. Every method opens what it needs and closes it again.

    With `max_age_s` a read may miss the moves of the last that many seconds, and costs less; with `math.inf` it also
    returns the newest known state where no majority of the voters answers. `Store.stale` lists these reads.

    A `reference` is the name of a branch, tag or alias, or the beginning of a version's id (4 characters or more), with
    `~N` for its Nth ancestor.
    """

    @property
    def policy(self) -> Policy:
        with self._reading() as (_, snapshot):
            return Policy.from_json(snapshot.root.policy)

    def log(
        self,
        reference: str = "main",
        *,
        first_parent: bool = False,
        limit: int | None = None,
        max_age_s: float | None = None,
    ) -> list[LogEntry]:
        """The versions that a version descends from, itself first, newest first."""
        limit = None if limit is None else validate.count(limit, "limit", least=0)
        with self._reading(max_age_s) as (session, snapshot):
            digest = self._resolve(snapshot, reference)
            refs_at: dict[str, list[str]] = {}
            for state in snapshot.refs():
                refs_at.setdefault(str(state.version), []).append(str(state.ref))

            def viewed(entry: VersionEntry) -> LogEntry:
                document, fault = document_or_fault(session, lambda: entry)
                if document is None:  # the version may have a new document since its child was pushed
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
            for entry in entries[:1]:  # this loads the nodes of the attachments for the others
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

        limit = None if limit is None else validate.count(limit, "limit", least=0)
        name = None if ref is None else validate.text(ref, "a ref")
        with self._reading(max_age_s) as (_, snapshot):
            if name is None:
                return [move_view(move) for move in islice(moves_reverse(snapshot), limit)]
            found = [
                move_view(move) for move in islice(ref_history(snapshot, find_ref(snapshot, name, self.name)), limit)
            ]
            if not found:
                raise NotFound(f"There has never been a ref `{ref}` in {self.name}", code=error_codes.REF_NOT_FOUND)
            return found

    def events(
        self, *, since: str | None = None, limit: int | None = None, max_age_s: float | None = None
    ) -> list[EventView]:
        """Every change of the repository, newest first. `since` is a time such as 2026-11-23T20:05:02Z."""
        from skyhold.registry.events import events_of_repository

        limit = None if limit is None else validate.count(limit, "limit", least=0)
        with self._reading(max_age_s) as (_, snapshot):
            return list(islice(events_of_repository(snapshot, self.name, validate.time(since, "since")), limit))

    def watch(self, after: After = None, *, stop: threading.Event | None = None) -> Iterator[EventView | ResyncNeeded]:
        """Every change of the repository after `after` (an event, its sequence and chain, or its sequence alone; None:
        from now on), each once and in order, until `stop` is set; also while the store moves to another engine.
        `ResyncNeeded` where the repository was recovered to a state without that event: start again from the present
        state. A change is seen within about six seconds."""
        from skyhold.registry.events import place_in_log, views_of
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
        cancel: Cancel | None = None,
    ) -> VersionDiff:
        """What differs between version `a` of this repository and `b` of this one, or of `other`. Without `tensors` no
        weights are read, and only files, metrics and parameters are compared."""
        from skyhold.registry.diff import diff_versions  # loads NumPy, for which pull and push need not wait

        with (
            cancelled_by(validate.cancel(cancel), progress) as watching,
            self._reading() as (session_a, snapshot_a),
            (other or self)._reading() as (session_b, snapshot_b),
        ):
            side_a = self._side(session_a, snapshot_a, a)
            side_b = (other or self)._side(session_b, snapshot_b, b)
            watching.begin("diff", None)
            try:
                return diff_versions(side_a, side_b, tensors=tensors)
            finally:
                watching.end()

    def _side(self, session: Session, snapshot: Snapshot, reference: str) -> DiffSide:
        from skyhold.registry.diff import DiffSide

        digest = self._resolve(snapshot, reference)
        document, version = open_version(session, snapshot, digest)
        reader = ChunkReader(version_space(self._connection, version, Policy.from_json(snapshot.root.policy), session))
        files = [StoredFile(version, index, reader) for index in range(len(version.files))]
        return DiffSide(files, snapshot.metrics(digest), document.parameters)
