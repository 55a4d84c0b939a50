"""A member of an archive, and the errors that all archives share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from skyhold import error_codes
from skyhold.errors import InvalidInput
from skyhold.storage.sources.gathering import FILES_MAX

MEMBERS_MAX: Final = 2 * FILES_MAX
"""Folders, and what is ignored, are members that become no file."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an archive. A regular file is the range `[start, start + size_bytes)` of what is read; a link leads
    to the member `link`; anything else, and what cannot be read, has a `fault`."""

    path: str
    size_bytes: int = 0
    start: int = 0
    executable: bool = False
    link: str | None = None
    fault: str | None = None


def plain_path(path: str) -> str:
    """The path of a member without what means nothing: `./` before it."""
    while path.startswith("./"):
        path = path[2:].lstrip("/")
    return path


def damaged(name: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"{name} cannot be read as an archive; nothing was sent ({why})",
        code=error_codes.ARCHIVE_DAMAGED,
        hint="Make it again; a tar, tar.gz, tar.zst or zip is expected",
    )


def too_many_members(name: str) -> InvalidInput:
    return InvalidInput(
        f"{name} has more than {MEMBERS_MAX} members; nothing was sent",
        code=error_codes.TOO_MANY_FILES,
        hint="Push them as several repositories",
    )


def too_large(name: str, limit_bytes: int) -> InvalidInput:
    return InvalidInput(
        f"{name} expands to more than {limit_bytes} bytes, which is more than weights do; nothing was sent",
        code=error_codes.ARCHIVE_TOO_LARGE,
        hint="If that is meant, expand it yourself and push the folder",
    )
