"""A file of a version."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file as its version document lists it."""

    path: str
    size_bytes: int
    sha256: str
    executable: bool = False
