"""The keywords of `pull`, as a type: whether it returns a result or a plan depends on `dry_run` alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from skyhold.storage.blob_cache import VersionPlace
from skyhold.storage.cancel import Cancel
from skyhold.storage.progress import Progress


class PullArguments(TypedDict, total=False):
    include: Sequence[str]
    tensors: Sequence[str]
    force: bool
    allow_unsafe_names: bool
    place: VersionPlace | None
    max_age_s: float | None
    progress: Progress | None
    cancel: Cancel | None
