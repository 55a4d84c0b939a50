"""A mapping of names to contents as a source: open files, bytes, paths of files, or arrays."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

from pathspec import GitIgnoreSpec

from skyhold import error_codes
from skyhold.errors import InvalidInput, PermissionDenied
from skyhold.storage.own_places import OwnPlaces
from skyhold.storage.sources.disk import DiskFile
from skyhold.storage.sources.folder import find_file
from skyhold.storage.sources.gathering import Gathering
from skyhold.storage.sources.port import Source, SourceFile
from skyhold.storage.sources.spool import Spool
from skyhold.storage.sources.stream import BytesFile, Stream, stream_file
from skyhold.units import Buffer

Content: TypeAlias = Buffer | str | os.PathLike[str] | Stream | Mapping[str, Any]
"""Of one file: bytes, the path of a file, an open binary file, or arrays by name."""


def mapping_source(given: Mapping[str, Content], *, allow_unsafe_names: bool, own: OwnPlaces) -> Source:
    """The files of a mapping, each under its name. No ignore rule is applied: each of them was named.

    Raises `InvalidInput`: `invalid_source`, `invalid_tensor`, `source_refused`, `source_empty`, `too_many_files`; and
    what opening the files of paths raises.
    """
    gathering = Gathering("The mapping", GitIgnoreSpec([]), allow_unsafe_names=allow_unsafe_names)
    with ExitStack() as resources:
        spool = Spool()
        resources.callback(spool.close)
        for name, content in given.items():
            if not isinstance(name, str):
                raise _refused(f"Expected the names of files as text but got {name!r}")
            reason = gathering.unsafe(name)
            if reason is None and isinstance(content, str | os.PathLike):
                reason = own.reason(*find_file(Path(content)))
            if reason is not None:
                gathering.leave_out(name, reason)
            else:
                gathering.add_checked(_file(name, content, spool))
        return gathering.finish(resources.pop_all())


def _file(name: str, content: Content, spool: Spool) -> SourceFile:
    if isinstance(content, bytes | bytearray | memoryview):
        return BytesFile.of(name, content)
    if isinstance(content, str | os.PathLike):
        return _file_at(name, Path(content))
    if isinstance(content, Mapping):
        from skyhold.storage.sources.arrays import ArraysFile  # loads NumPy

        if not name.endswith(".safetensors"):
            raise _refused(f"Arrays become a safetensors file, and {name} is not named so", "Name it *.safetensors")
        return ArraysFile(name, content)
    if callable(getattr(content, "read", None)):
        return stream_file(name, content, spool)
    raise _refused(
        f"Expected {name} as bytes, an open binary file, a path, or arrays by name but got a {type(content).__name__}",
        'Give arrays by name: {"model.safetensors": {"weights": array}}',
    )


def _file_at(name: str, path: Path) -> DiskFile:
    real, status = find_file(path)
    if not stat.S_ISREG(status.st_mode):
        raise _refused(f"Expected {path}, for {name}, to be a regular file", "Push a folder by its path alone")
    if not os.access(real, os.R_OK):
        raise PermissionDenied(f"{path} cannot be read", code=error_codes.SOURCE_UNREADABLE)
    return DiskFile.of(name, real, status)


def _refused(message: str, hint: str | None = None) -> InvalidInput:
    return InvalidInput(message, code=error_codes.INVALID_SOURCE, hint=hint)
