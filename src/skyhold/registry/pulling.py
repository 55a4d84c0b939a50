"""Pulling a version: whole files or single tensors, for real or as a plan. The usual way waits for no import of the
others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skyhold.registry.views import PullResult
from skyhold.storage.chunks import ChunkReader, PackSpace
from skyhold.storage.progress import Progress
from skyhold.storage.pull import pull_files
from skyhold.storage.version_files import VersionFiles


@dataclass(frozen=True, slots=True)
class PullRequest:
    """What shall be restored below `root`: tensors by these names or globs, else the files that match one of `include`,
    else all files."""

    root: Path
    include: tuple[str, ...]
    tensors: tuple[str, ...]
    dry_run: bool


def pull_version(
    name: str, digest: str, version: VersionFiles, space: PackSpace, request: PullRequest, progress: Progress
) -> PullResult:
    """Restore what is wanted of a version of repository `name`, or plan it. Raises what storage raises."""
    root = request.root
    if request.dry_run:
        return _planned(name, digest, version, space, request)
    if request.tensors:
        from skyhold.storage.tensor_pull import pull_tensors

        taken = pull_tensors(version, request.tensors, root, ChunkReader(space), progress)
        return PullResult(name, digest, str(root), 1, taken.size_bytes, 0, taken.size_bytes, taken.names)
    pulled = pull_files(version, request.include, root, space, progress)
    return PullResult(
        name, digest, str(root), pulled.files, pulled.total_bytes, pulled.kept_bytes, pulled.fetched_bytes
    )


def _planned(name: str, digest: str, version: VersionFiles, space: PackSpace, request: PullRequest) -> PullResult:
    from skyhold.storage.pull_plan import plan_files, plan_tensors

    if request.tensors:
        plan = plan_tensors(version, request.tensors, request.root, space)
    else:
        plan = plan_files(version, request.include, request.root, space)
    return PullResult(
        repository=name,
        version=digest,
        destination=str(request.root),
        files=plan.files,
        total_bytes=plan.total_bytes,
        kept_bytes=plan.kept_bytes,
        fetched_bytes=plan.sources.total_bytes,
        tensors=plan.tensors,
        dry_run=True,
        sources=plan.sources,
    )
