"""Pulling a version: whole files or single tensors, executed or planned. The usual case imports nothing that only
the others need."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from skyhold.errors import Corrupt, NotFound
from skyhold.registry.by_digest import OpenVersion
from skyhold.registry.graph import first_parents
from skyhold.registry.reading import open_document
from skyhold.registry.snapshot import Snapshot
from skyhold.registry.views import PullPlan, PullResult
from skyhold.storage.chunks import ChunkReader, PackSpace
from skyhold.storage.object_keys import STORE_DOCUMENT_BYTES_MAX
from skyhold.storage.own_places import STORE_DOCUMENT_REASON, is_store_document, is_store_json
from skyhold.storage.progress import Progress
from skyhold.storage.pull import pull_files
from skyhold.storage.target_state import Stored
from skyhold.storage.unsafe_names import unsafe_name
from skyhold.storage.version_files import StoredFile, VersionFiles
from skyhold.store.session import Session

VERSIONS_MAX: Final = 1000
ANCESTORS_FIRST: Final = 100


@dataclass(frozen=True, slots=True)
class PullRequest:
    """What to restore below `root`: tensors by these names or globs, or else files; of the files that match one of
    `include`, or of all. `force` replaces files of any content; `allow_unsafe_names` writes names that
    control other programs (`unsafe_name`), which are left out otherwise."""

    root: Path
    include: tuple[str, ...]
    tensors: tuple[str, ...]
    dry_run: bool
    force: bool = False
    allow_unsafe_names: bool = False


@dataclass(frozen=True, slots=True)
class Pulling:
    """A version that is pulled, of the repository of this name. `stored` finds which contents of files the
    repository can restore."""

    name: str
    digest: str
    version: VersionFiles
    space: PackSpace
    stored: Stored


def pull_version(pulling: Pulling, request: PullRequest, progress: Progress) -> PullResult | PullPlan:
    """Restore what is wanted of a version, or plan it. Raises what storage raises."""
    root, version = request.root, pulling.version
    if request.dry_run:
        return _planned(pulling, request)
    if request.tensors:
        from skyhold.storage.tensor_pull import WantedTensors, pull_tensors

        wanted = WantedTensors(request.tensors, request.include)
        taken = pull_tensors(version, wanted, root, ChunkReader(pulling.space), progress, force=request.force)
        size = taken.size_bytes
        return PullResult(pulling.name, pulling.digest, str(root), 1, size, 0, size, taken.names, taken.left_out)
    indices, left_out = _chosen(pulling, request)
    pulled = pull_files(version, indices, root, pulling.space, _replaceable(pulling, request), progress)
    return PullResult(
        repository=pulling.name,
        version=pulling.digest,
        destination=str(root),
        files=pulled.files,
        total_bytes=pulled.total_bytes,
        kept_bytes=pulled.kept_bytes,
        fetched_bytes=pulled.fetched_bytes,
        left_out=left_out,
    )


def stored_in(session: Session, snapshot: Snapshot, digest: str) -> Stored:
    """Which contents are those of files of the repository's versions: that of `digest`, those before it, those that
    refs point to, then all others, `VERSIONS_MAX` in all. A version that cannot be read is skipped."""

    def stored(wanted: Collection[str]) -> Collection[str]:
        missing = set(wanted)
        for version in islice(_each_once(_nearest_first(snapshot, digest)), VERSIONS_MAX):
            if not missing:
                break
            with suppress(Corrupt, NotFound):
                missing.difference_update(file.sha256 for file in open_document(session, snapshot, version).files)
        return set(wanted) - missing

    return stored


def stored_with(opened: OpenVersion) -> Stored:
    """As `stored_in`; of a version whose repository was not read, the files of that version."""
    if opened.session is None or opened.snapshot is None:
        own = {file.sha256 for file in opened.document.files}
        return lambda wanted: set(wanted) & own
    return stored_in(opened.session, opened.snapshot, opened.digest)


def _nearest_first(snapshot: Snapshot, digest: str) -> Iterator[str]:
    ways = (
        (found for found, _ in islice(first_parents(digest, snapshot.walk()), ANCESTORS_FIRST)),
        (str(state.version) for state in snapshot.refs()),
        (entry.digest for entry in snapshot.versions()),
    )
    for digests in ways:
        with suppress(Corrupt, NotFound):
            yield from digests


def _each_once(digests: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for digest in digests:
        if digest not in seen:
            seen.add(digest)
            yield digest


def _chosen(pulling: Pulling, request: PullRequest) -> tuple[list[int], dict[str, str]]:
    """The indices of the files that are restored, and the paths of those that are left out, with the reason."""
    version = pulling.version
    indices = version.matching(request.include)
    if request.allow_unsafe_names:
        return indices, {}
    reasons = {index: unsafe_name(version.files[index].path) or _own_document(pulling, index) for index in indices}
    left_out = {version.files[index].path: reason for index, reason in reasons.items() if reason is not None}
    return [index for index, reason in reasons.items() if reason is None], left_out


def _own_document(pulling: Pulling, index: int) -> str | None:
    """Why a file is left out that would make the target folder look like a bucket of a store: nothing could then be
    pushed from it or pulled into it."""
    entry = pulling.version.files[index]
    if not is_store_json(entry.path):
        return None
    stored = StoredFile(pulling.version, index, ChunkReader(pulling.space))
    begun = stored.read(0, min(entry.size_bytes, STORE_DOCUMENT_BYTES_MAX))
    return STORE_DOCUMENT_REASON if is_store_document(bytes(begun)) else None


def _replaceable(pulling: Pulling, request: PullRequest) -> Stored | None:
    return None if request.force else pulling.stored


def _planned(pulling: Pulling, request: PullRequest) -> PullPlan:
    from skyhold.storage.pull_plan import plan_files, plan_tensors

    if request.tensors:
        from skyhold.storage.tensor_pull import WantedTensors

        wanted = WantedTensors(request.tensors, request.include)
        plan = plan_tensors(pulling.version, wanted, request.root, pulling.space, force=request.force)
        left_out = plan.left_out
    else:
        indices, left_out = _chosen(pulling, request)
        stored = _replaceable(pulling, request)
        plan = plan_files(pulling.version, indices, request.root, pulling.space, stored)
    return PullPlan(
        repository=pulling.name,
        version=pulling.digest,
        destination=str(request.root),
        files=plan.files,
        total_bytes=plan.total_bytes,
        kept_bytes=plan.kept_bytes,
        sources=plan.sources,
        tensors=plan.tensors,
        left_out=left_out,
    )
