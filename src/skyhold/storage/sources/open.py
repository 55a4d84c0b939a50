"""From what a caller gives to a source."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from skyhold.storage.own_places import OwnPlaces
from skyhold.storage.sources.archive import ArchiveRules, archive_at, archive_in, is_archive
from skyhold.storage.sources.folder import find_source
from skyhold.storage.sources.mapping import Content, mapping_source
from skyhold.storage.sources.port import Source
from skyhold.storage.sources.stream import Stream

SourceInput: TypeAlias = str | os.PathLike[str] | Mapping[str, Content] | Stream
"""A folder, a file or an archive by its path; contents by name; or an open binary file that contains an archive."""


def open_source(
    given: SourceInput, *, without_optimizer: bool = False, allow_unsafe_names: bool = False, own: Sequence[Path] = ()
) -> Source:
    """The source that is given, a context manager. Raises as `find_source`, `mapping_source` and `archive_at` do."""
    rules = ArchiveRules(without_optimizer, allow_unsafe_names)
    if isinstance(given, Mapping):
        return mapping_source(given, allow_unsafe_names=allow_unsafe_names, own=OwnPlaces(own))
    if not isinstance(given, str | os.PathLike):
        name = getattr(given, "name", None)
        return archive_in(given, name if isinstance(name, str) else "of the open file", rules)
    path = Path(given)
    if is_archive(path) and path.is_file():
        return archive_at(path, rules)
    return find_source(path, without_optimizer=without_optimizer, allow_unsafe_names=allow_unsafe_names, own=own)
