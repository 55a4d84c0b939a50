"""The state of the target folder before a pull, determined before any fetch: which files exist already, which differ
and may be replaced, and what is in the way.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from skyhold import error_codes
from skyhold.buckets.user_path import absolute
from skyhold.errors import Conflict, InvalidInput
from skyhold.storage.file_entry import FileEntry
from skyhold.storage.own_places import is_bucket
from skyhold.storage.paths import on_disk, printable
from skyhold.storage.target_folder import Identity, identity, named, no_folder

_SHOWN: Final = 10

Stored = Callable[[Collection[str]], Collection[str]]
"""Which of these SHA-256 are those of files that the repository can give back."""


@dataclass(frozen=True, slots=True)
class TargetState:
    """The state of a file's path: `before` (None: nothing is there), and the SHA-256 of the content, computed only
    where the size makes it useful."""

    entry: FileEntry
    before: Identity | None = None
    digest: str | None = None
    executable: bool = False

    @property
    def current(self) -> bool:
        """Whether it is the file already, byte for byte, with the right executable bit."""
        return self.digest == self.entry.sha256 and self.executable == self.entry.executable

    @property
    def differs(self) -> bool:
        """Whether it has other content."""
        return self.before is not None and self.digest != self.entry.sha256


def examine(root: Path, entries: Sequence[FileEntry], stored: Stored | None) -> list[TargetState]:
    """The state of the paths of these files below `root`.

    A file of other content may be replaced where `stored` has that content; with None, always. Raises `InvalidInput`
    where something is in the way (codes `target_is_link`, `target_special`) or the folder is a bucket of a store, code
    `target_is_bucket`; and `Conflict` code `target_edited`, naming the files that hold what is stored nowhere.
    """
    with named(root):
        _check_root(root)
        _check_folders(root, entries)
        states = [_state_of(root, entry) for entry in entries]
        if stored is not None:
            _refuse_edited(root, [found for found in states if found.differs], stored)
    return states


def _check_root(root: Path) -> None:
    there = next(folder for folder in (root, *absolute(root).parents) if os.path.lexists(folder))
    if not there.is_dir():
        raise no_folder(there)
    for folder in (there.resolve(), *there.resolve().parents):
        if is_bucket(folder):
            raise _in_bucket(root, folder)


def _check_folders(root: Path, entries: Iterable[FileEntry]) -> None:
    seen: set[str] = set()
    for entry in entries:
        parts = entry.path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            if path in seen:
                continue
            seen.add(path)
            folder = root / on_disk(path)
            try:
                status = folder.lstat()
            except FileNotFoundError:
                break
            if not stat.S_ISDIR(status.st_mode):
                raise no_folder(folder)
            if is_bucket(folder):
                raise _in_bucket(root, folder)


def _state_of(root: Path, entry: FileEntry) -> TargetState:
    path = root / on_disk(entry.path)
    try:
        status = path.lstat()
    except FileNotFoundError:
        return TargetState(entry)
    if stat.S_ISLNK(status.st_mode):
        raise no_folder(path)
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise InvalidInput(
            f"{path} is {what}, where a file has to be written",
            code=error_codes.TARGET_SPECIAL,
            hint="Remove it, or pull elsewhere",
        )
    digest = digest_of(path) if status.st_size == entry.size_bytes else None
    return TargetState(entry, identity(status), digest, bool(status.st_mode & stat.S_IXUSR))


def digest_of(path: Path) -> str | None:
    """The SHA-256 of a file's bytes, or None where it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _refuse_edited(root: Path, differing: Sequence[TargetState], stored: Stored) -> None:
    digests = {found.entry.path: found.digest or digest_of(root / on_disk(found.entry.path)) for found in differing}
    known = set(stored({digest for digest in digests.values() if digest is not None})) if digests else set()
    edited = [path for path, digest in digests.items() if digest not in known]
    if edited:
        raise edited_files(root, edited)


def edited_files(root: Path, paths: Sequence[str]) -> Conflict:
    """The error for files that a pull would replace, and whose content would be lost."""
    lines = [f"  {printable(path)}" for path in paths[:_SHOWN]]
    if len(paths) > _SHOWN:
        lines.append(f"  … and {len(paths) - _SHOWN} more")
    count = "1 file" if len(paths) == 1 else f"{len(paths)} files"
    return Conflict(
        f"The pull would replace {count} in {root} whose content is in no version that was looked at; nothing was "
        "changed:\n" + "\n".join(lines),
        code=error_codes.TARGET_EDITED,
        hint="Push or move them, pull elsewhere, or replace them with --force",
        paths=[printable(path) for path in paths],
    )


def _in_bucket(root: Path, bucket: Path) -> InvalidInput:
    return InvalidInput(
        f"{root} cannot be pulled into: {bucket} is a bucket of a store",
        code=error_codes.TARGET_IS_BUCKET,
        hint="Name a folder that is outside of it",
    )
