"""What is to be pushed: the regular files under a folder, or one file. Nothing of them is read here.

Symbolic links. A link is followed where it resolves to a regular file *under the folder that was given*: the person
has named that folder, so its bytes are meant. Everywhere else a link could carry bytes into the store that nobody
meant (`model.bin -> /etc/passwd` in an archive of a stranger), and is refused. One place beyond is known to hold a
snapshot's bytes: the cache of Hugging Face keeps `models--org--name/snapshots/<revision>/file` as links into
`models--org--name/blobs/<hash>`. So where the folder that was given lies in such a snapshot, links that resolve to a
file directly in that same `blobs` folder, under the name of a hash, are followed too; those of another model's cache
are not. A single file that was given by name is followed wherever it leads. Links to folders are refused always: they
can form cycles, and would store files twice.

All offenders are refused at once, before anything is sent.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pathspec import GitIgnoreSpec

from skyhold import error_codes
from skyhold.buckets.user_file import read_small_file
from skyhold.buckets.user_path import absolute
from skyhold.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from skyhold.storage.own_places import OwnPlaces, is_bucket, is_state
from skyhold.storage.paths import as_stored, colliding_paths, is_reserved, path_fault, printable
from skyhold.storage.unsafe_names import unsafe_name

FILES_MAX: Final = 100_000
IGNORE_FILE: Final = ".skyholdignore"
IGNORE_FILE_BYTES_MAX: Final = 1 << 20
DEFAULT_IGNORED: Final = (
    ".git", "__pycache__/", ".DS_Store", f"/{IGNORE_FILE}", "*.part", "/.cache/huggingface/",
)  # fmt: skip
OPTIMIZER_IGNORED: Final = (
    "optimizer.pt", "optimizer.bin", "optimizer_[0-9]*/", "*.optim", "*.optim.*", "*_optim_states.pt",
    "rng_state*.pth", "random_states_*.pkl", "scheduler.pt", "scheduler.bin", "global_step*/",
)  # fmt: skip

_SHOWN: Final = 10
_CACHE_FOLDER: Final = re.compile(r"(models|datasets|spaces)--.+")
_BLOB_NAME: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to push. `path` is its name in the version, `absolute` where its bytes lie (links resolved)."""

    path: str
    absolute: Path
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    executable: bool


@dataclass(frozen=True, slots=True)
class Source:
    """The files in order of the UTF-8 bytes of their paths, the paths that rules left out (folders end in `/`), and
    those that are no part of a model, each with the reason."""

    files: tuple[SourceFile, ...]
    ignored: tuple[str, ...]
    left_out: Mapping[str, str]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def find_source(
    root: Path, *, without_optimizer: bool = False, allow_unsafe_names: bool = False, own: Sequence[Path] = ()
) -> Source:
    """The source at `root`, a folder or a file.

    Left out and named are: names that steer other programs, unless `allow_unsafe_names` (`unsafe_name`); and always
    what is Skyhold's own: buckets of stores, key files, what pulls have under way, and the files and folders `own`.

    `.skyholdignore` in the folder has the syntax of `.gitignore` and comes after the defaults, so that `!pattern` takes
    one back. `without_optimizer` leaves out what training needs to go on and serving does not.

    Raises `NotFound` (nothing there), `PermissionDenied` code `source_unreadable`, and `InvalidInput`: `source_refused`
    (its message shows the first ten offenders, its field `offenders` all), `source_empty`, `source_is_bucket`,
    `source_is_state`, `too_many_files`.
    """
    given = absolute(root)
    try:
        real = given.resolve(strict=True)
        status = real.stat()
    except FileNotFoundError:
        raise NotFound(f"There is no file or folder {root}", code=error_codes.SOURCE_MISSING) from None
    except (OSError, RuntimeError) as error:
        raise PermissionDenied(f"{root} cannot be read: {error}", code=error_codes.SOURCE_UNREADABLE) from error
    is_folder = stat.S_ISDIR(status.st_mode)
    rules = _rules(real, without_optimizer) if is_folder else GitIgnoreSpec([])
    walk = _Walk(real, rules, OwnPlaces(own), allow_unsafe_names=allow_unsafe_names)
    if is_folder:
        _refuse_own(root, real)
        walk.folder()
    else:
        walk.add(as_stored(given.name), real, status)
    return walk.finish(root)


def open_source(file: SourceFile) -> int:
    """A descriptor of the file for reading, which the caller closes.

    Raises `Conflict` code `source_changed` where it is no longer the file that was found, and `PermissionDenied`.
    """
    try:
        descriptor = os.open(file.absolute, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except PermissionError as error:
        raise PermissionDenied(f"File {file.absolute} cannot be read", code=error_codes.SOURCE_UNREADABLE) from error
    except OSError as error:
        raise _changed(file) from error
    if changed_since(file, descriptor):
        os.close(descriptor)
        raise _changed(file)
    return descriptor


def changed_since(file: SourceFile, descriptor: int) -> bool:
    """Whether the open file differs in size, times or inode from what was found. Ask after the last byte was read."""
    status = os.fstat(descriptor)
    now = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return now != (file.size_bytes, file.mtime_ns, file.ctime_ns, file.inode)


def check_unchanged(file: SourceFile, descriptor: int) -> None:
    """Raises `Conflict` code `source_changed` where `changed_since` says so."""
    if changed_since(file, descriptor):
        raise _changed(file)


def sha256_of(file: SourceFile) -> str:
    """The SHA-256 of a file's bytes, in hex. Raises as `open_source` does, also where it changed meanwhile."""
    descriptor = open_source(file)
    with os.fdopen(descriptor, "rb", closefd=True) as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        check_unchanged(file, opened.fileno())
    return digest


class _Walk:
    """One walk over a folder, which gathers files and offenders alike."""

    def __init__(self, root: Path, rules: GitIgnoreSpec, own: OwnPlaces, *, allow_unsafe_names: bool) -> None:
        self._root, self._rules, self._own = root, rules, own
        self._allow_unsafe_names = allow_unsafe_names
        self._blobs = _blobs_of_snapshot(root)
        self._files: list[SourceFile] = []
        self._ignored: list[str] = []
        self._left_out: dict[str, str] = {}
        self._offenders: list[tuple[str, str]] = []

    def folder(self) -> None:
        pending = [("", self._root)]
        while pending:
            prefix, folder = pending.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                self._offenders.append((prefix or ".", f"a folder that cannot be read ({error.strerror})"))
                continue
            for entry in entries:
                path = prefix + as_stored(entry.name)
                place = folder / entry.name
                is_folder = entry.is_dir(follow_symlinks=False)
                if self._is_ignored(path, is_folder):
                    self._ignored.append(path + "/" * is_folder)
                elif reason := self._no_part_of_a_model(path, place, is_folder):
                    self._left_out[path + "/" * is_folder] = reason
                elif is_folder:
                    pending.append((path + "/", place))
                else:
                    self._entry(path, place, entry.is_symlink())

    def add(self, path: str, absolute: Path, status: os.stat_result) -> None:
        """Take a file that is no link, or leave it out, or refuse it."""
        reason = self._own.reason(absolute, status) or self._unsafe(path)
        if reason is not None:
            self._left_out[path] = reason
            return
        fault = _kind_fault(status.st_mode) or path_fault(path)
        if fault is None and not os.access(absolute, os.R_OK):
            fault = "it cannot be read (permissions)"
        if fault is not None:
            self._offenders.append((path, fault))
            return
        if len(self._files) == FILES_MAX:
            raise InvalidInput(
                f"There are more than {FILES_MAX} files, which is the most that a version holds",
                code=error_codes.TOO_MANY_FILES,
                hint=f"Leave some out with {IGNORE_FILE}, or push them as several repositories or one archive",
            )
        self._files.append(
            SourceFile(
                path=path,
                absolute=absolute,
                size_bytes=status.st_size,
                mtime_ns=status.st_mtime_ns,
                ctime_ns=status.st_ctime_ns,
                inode=status.st_ino,
                executable=bool(status.st_mode & stat.S_IXUSR),
            )
        )

    def finish(self, given: Path) -> Source:
        offenders = self._offenders + colliding_paths(file.path for file in self._files)
        if offenders:
            raise _refused(given, sorted(offenders))
        if not self._files:
            left_out = f" (rules leave out {len(self._ignored)} entries)" if self._ignored else ""
            if self._left_out:
                shown = [f"{printable(path)}: {why}" for path, why in sorted(self._left_out.items())[:_SHOWN]]
                left_out += f" (left out, as no part of a model: {'; '.join(shown)})"
            raise InvalidInput(
                f"Folder {given} holds no file to push{left_out}",
                code=error_codes.SOURCE_EMPTY,
                hint=f"Check the path and {IGNORE_FILE}",
            )
        files = sorted(self._files, key=lambda file: file.path.encode())
        return Source(tuple(files), tuple(sorted(self._ignored)), dict(sorted(self._left_out.items())))

    def _no_part_of_a_model(self, path: str, place: Path, is_folder: bool) -> str | None:
        """Why a folder, or what has this name, is left out."""
        if is_reserved(path.rpartition("/")[2]):
            return "what a pull has under way, or has left"
        if is_folder and (reason := self._own.folder_reason(place)):
            return reason
        return self._unsafe(path + "/" * is_folder)

    def _unsafe(self, path: str) -> str | None:
        return None if self._allow_unsafe_names else unsafe_name(path)

    def _is_ignored(self, path: str, is_folder: bool) -> bool:
        return self._rules.match_file(path + "/" * is_folder)

    def _entry(self, path: str, place: Path, is_link: bool) -> None:
        try:
            absolute = place.resolve(strict=True) if is_link else place
            status = absolute.stat(follow_symlinks=False)
        except (OSError, RuntimeError):
            self._offenders.append((path, "a link that leads nowhere" if is_link else "it cannot be read"))
            return
        fault = self._link_fault(absolute, status) if is_link else None
        if fault is not None:
            self._offenders.append((path, fault))
        else:
            self.add(path, absolute, status)

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
    """The `blobs` folder that belongs to `root` where that is, or lies in, a snapshot of a Hugging Face cache."""
    for folder in (root, *root.parents):
        cache = folder.parent.parent
        if folder.parent.name == "snapshots" and _CACHE_FOLDER.fullmatch(cache.name):
            return cache / "blobs"
    return None


def _rules(root: Path, without_optimizer: bool) -> GitIgnoreSpec:
    lines = [*DEFAULT_IGNORED, *(OPTIMIZER_IGNORED if without_optimizer else ())]
    path = root / IGNORE_FILE
    try:
        body, _ = read_small_file(path, IGNORE_FILE_BYTES_MAX)
        lines += body.decode("utf-8-sig").splitlines()
        return GitIgnoreSpec.from_lines(lines)
    except FileNotFoundError:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise InvalidInput(f"{path} is not an ignore file: {error}", code=error_codes.INVALID_IGNORE_FILE) from error
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


_KINDS: Final[tuple[tuple[Callable[[int], bool], str], ...]] = (
    (stat.S_ISREG, ""),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _kind_fault(mode: int) -> str | None:
    """What stands where a regular file is expected; None for a regular file."""
    return next((fault or None for is_kind, fault in _KINDS if is_kind(mode)), "no regular file")


def _refused(given: Path, offenders: list[tuple[str, str]]) -> InvalidInput:
    lines = [f"  {printable(path)}: {why}" for path, why in offenders[:_SHOWN]]
    if len(offenders) > _SHOWN:
        lines.append(f"  … and {len(offenders) - _SHOWN} more")
    count = "1 entry" if len(offenders) == 1 else f"{len(offenders)} entries"
    return InvalidInput(
        f"{given} cannot be pushed as it is; nothing was sent. {count} refused:\n" + "\n".join(lines),
        code=error_codes.SOURCE_REFUSED,
        hint=f"Remove or rename them, or leave them out with {IGNORE_FILE}",
        offenders=[{"path": printable(path), "reason": why} for path, why in offenders],
    )


def _changed(file: SourceFile) -> Conflict:
    return Conflict(
        f"File {file.absolute} changed while it was being pushed; no ref was moved",
        code=error_codes.SOURCE_CHANGED,
        hint="Wait until it is written, then push again: what had arrived is not sent again",
        path=file.path,
    )
