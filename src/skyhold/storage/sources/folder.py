"""A folder or one file of this machine as a source: the regular files under it. Nothing of them is read here.

Symbolic links. A link is followed where it resolves to a regular file *under the folder that was given*: the user has
named that folder, so its bytes are meant. Any other link could carry bytes into the store that the user did not mean
(`model.bin -> /etc/passwd` in an untrusted archive), and is refused. One place beyond is known to hold a snapshot's
bytes: the cache of Hugging Face keeps `models--org--name/snapshots/<revision>/file` as links into
`models--org--name/blobs/<hash>`. So where the folder that was given is in such a snapshot, links that resolve to a file
directly in that same `blobs` folder, under the name of a hash, are followed too; those of another model's cache are
not. A single file that was given by name is followed wherever it leads. Links to folders are refused always: they can
form cycles, and would store files twice.

All offenders are refused at once, before anything is sent.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from pathspec import GitIgnoreSpec

from skyhold import error_codes
from skyhold.buckets.user_file import read_small_file
from skyhold.buckets.user_path import absolute
from skyhold.errors import InvalidInput, NotFound, PermissionDenied
from skyhold.storage.own_places import OwnPlaces, is_bucket, is_state
from skyhold.storage.paths import as_stored
from skyhold.storage.sources.disk import DiskFile
from skyhold.storage.sources.gathering import Gathering
from skyhold.storage.sources.ignore import IGNORE_FILE, IGNORE_FILE_BYTES_MAX, ignore_rules
from skyhold.storage.sources.port import Source

_CACHE_FOLDER: Final = re.compile(r"(models|datasets|spaces)--.+")
_BLOB_NAME: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def find_source(
    root: Path, *, without_optimizer: bool = False, allow_unsafe_names: bool = False, own: Sequence[Path] = ()
) -> Source:
    """The source at `root`, a folder or a file.

    Left out and named are: names that steer other programs, unless `allow_unsafe_names` (`unsafe_name`); and always
    what is Skyhold's own: buckets of stores, key files, what pulls have under way, and the files and folders `own`.

    `.skyholdignore` in the folder has the syntax of `.gitignore` and comes after the defaults, so that `!pattern`
    cancels one. `without_optimizer` leaves out files that only training needs.

    Raises `NotFound` (nothing there), `PermissionDenied` code `source_unreadable`, and `InvalidInput`: `source_refused`
    (its message shows the first ten offenders, its field `offenders` all), `source_empty`, `source_is_bucket`,
    `source_is_state`, `too_many_files`.
    """
    real, status = find_file(root)
    is_folder = stat.S_ISDIR(status.st_mode)
    rules = _rules(real, without_optimizer) if is_folder else GitIgnoreSpec([])
    name = f"Folder {root}" if is_folder else f"File {root}"
    gathering = Gathering(name, rules, allow_unsafe_names=allow_unsafe_names)
    walk = _Walk(real, gathering, OwnPlaces(own))
    if is_folder:
        _refuse_own(root, real)
        walk.folder()
    else:
        walk.one(as_stored(absolute(root).name), real, status)
    return gathering.finish()


def find_file(path: Path) -> tuple[Path, os.stat_result]:
    """Where a file or folder really is, and its status. Raises `NotFound` code `source_missing` and
    `PermissionDenied`."""
    try:
        real = absolute(path).resolve(strict=True)
        return real, real.stat()
    except FileNotFoundError:
        raise NotFound(f"There is no file or folder {path}", code=error_codes.SOURCE_MISSING) from None
    except (OSError, RuntimeError, ValueError) as error:
        raise PermissionDenied(f"{path} cannot be read: {error}", code=error_codes.SOURCE_UNREADABLE) from error


class _Walk:
    """One walk over a folder."""

    def __init__(self, root: Path, gathering: Gathering, own: OwnPlaces) -> None:
        self._root, self._gathering, self._own = root, gathering, own
        self._blobs = _blobs_of_snapshot(root)

    def folder(self) -> None:
        pending = [("", self._root)]
        while pending:
            prefix, folder = pending.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                self._gathering.refuse(prefix or ".", f"a folder that cannot be read ({error.strerror})")
                continue
            for entry in entries:
                path, place = prefix + as_stored(entry.name), folder / entry.name
                if not entry.is_dir(follow_symlinks=False):
                    if not self._gathering.excludes(path):
                        self._entry(path, place, entry.is_symlink())
                elif not self._gathering.excludes(path + "/", partial(self._own.folder_reason, place)):
                    pending.append((path + "/", place))

    def one(self, path: str, absolute: Path, status: os.stat_result) -> None:
        """The file that was given by its name."""
        reason = self._gathering.unsafe(path)
        if reason is not None:
            self._gathering.leave_out(path, reason)
        else:
            self._add(path, absolute, status)

    def _add(self, path: str, absolute: Path, status: os.stat_result) -> None:
        """Take a file that is no link, or leave it out, or refuse it."""
        reason = self._own.reason(absolute, status)
        if reason is not None:
            self._gathering.leave_out(path, reason)
            return
        fault = _kind_fault(status.st_mode)
        if fault is None and not os.access(absolute, os.R_OK):
            fault = "it cannot be read (permissions)"
        if fault is not None:
            self._gathering.refuse(path, fault)
        else:
            self._gathering.add(DiskFile.of(path, absolute, status))

    def _entry(self, path: str, place: Path, is_link: bool) -> None:
        try:
            absolute = place.resolve(strict=True) if is_link else place
            status = absolute.stat(follow_symlinks=False)
        except (OSError, RuntimeError):
            self._gathering.refuse(path, "a link that leads nowhere" if is_link else "it cannot be read")
            return
        fault = self._link_fault(absolute, status) if is_link else None
        if fault is not None:
            self._gathering.refuse(path, fault)
        else:
            self._add(path, absolute, status)

    def _link_fault(self, target: Path, status: os.stat_result) -> str | None:
        if stat.S_ISDIR(status.st_mode):
            return "a link to a folder"
        if target.is_relative_to(self._root):
            return None
        if self._blobs is not None and target.parent == self._blobs and _BLOB_NAME.fullmatch(target.name):
            return None
        return f"a link to {target}, outside the folder"


def _refuse_own(given: Path, real: Path) -> None:
    """Raise where the folder is Skyhold's own."""
    if is_state(real):
        raise InvalidInput(
            f"{given} cannot be pushed: it is a state folder of Skyhold",
            code=error_codes.SOURCE_IS_STATE,
            hint="Name a folder that holds a model",
        )
    bucket = next((folder for folder in (real, *real.parents) if is_bucket(folder)), None)
    if bucket is not None:
        raise InvalidInput(
            f"{given} cannot be pushed: {bucket} is a bucket of a store",
            code=error_codes.SOURCE_IS_BUCKET,
            hint="Name a folder that is outside of it",
        )


def _blobs_of_snapshot(root: Path) -> Path | None:
    """The `blobs` folder that belongs to `root` where that is, or is inside, a snapshot of a Hugging Face cache."""
    for folder in (root, *root.parents):
        cache = folder.parent.parent
        if folder.parent.name == "snapshots" and _CACHE_FOLDER.fullmatch(cache.name):
            return cache / "blobs"
    return None


def _rules(root: Path, without_optimizer: bool) -> GitIgnoreSpec:
    path = root / IGNORE_FILE
    try:
        body, _ = read_small_file(path, IGNORE_FILE_BYTES_MAX)
    except FileNotFoundError:
        body = b""
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise InvalidInput(
                f"Expected {path} to be of at most 1 MiB", code=error_codes.INVALID_IGNORE_FILE
            ) from error
        if error.errno == errno.EINVAL:
            raise InvalidInput(f"Expected {path} to be a regular file", code=error_codes.INVALID_IGNORE_FILE) from error
        raise PermissionDenied(
            f"{path} cannot be read: {error.strerror}", code=error_codes.SOURCE_UNREADABLE
        ) from error
    return ignore_rules(body, str(path), without_optimizer=without_optimizer)


_KINDS: Final[tuple[tuple[Callable[[int], bool], str], ...]] = (
    (stat.S_ISREG, ""),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _kind_fault(mode: int) -> str | None:
    """What is where a regular file is expected; None for a regular file."""
    return next((fault or None for is_kind, fault in _KINDS if is_kind(mode)), "no regular file")
