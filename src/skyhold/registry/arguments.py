"""The arguments of `push` and `pull` beside the first, as types: whether they return a result or a plan depends on
`dry_run` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from skyhold.storage.blob_cache import VersionPlace
from skyhold.storage.progress import Progress


class PushArguments(TypedDict, total=False):
    message: str
    author: str | None
    branch: str
    tags: Sequence[str]
    aliases: Sequence[str]
    metrics: Mapping[str, float] | None
    notes: Sequence[str]
    parameters: Mapping[str, object] | None
    metadata: Mapping[str, object] | None
    data: Sequence[str]
    code: Sequence[str]
    base: str | None
    relation: str | None
    expected_parent: str | None
    without_optimizer: bool
    allow_unsafe_names: bool
    progress: Progress | None


class PullArguments(TypedDict, total=False):
    include: Sequence[str]
    tensors: Sequence[str]
    force: bool
    allow_unsafe_names: bool
    place: VersionPlace | None
    progress: Progress | None
