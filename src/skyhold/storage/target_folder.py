"""The folder that a pull writes into. Folders below it are reached by descriptors, one part of a path after the other,
and none through a symbolic link: a folder that is replaced by a link meanwhile cannot redirect a write.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from skyhold import error_codes
from skyhold.errors import Conflict, InvalidInput, PermissionDenied, QuotaExceeded, SkyholdError
from skyhold.storage.parts import PARTS, Part, Parts
from skyhold.storage.paths import on_disk

Identity = tuple[int, int, int, int]
"""Device, inode, size in bytes and time of modification in ns of a file."""

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OLD: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class TargetFolder:
    """One pull's use of a folder, which is made where it is missing. A context manager: a pull that ends well deletes
    the parts that it and those before it have left."""

    def __init__(self, root: Path) -> None:
        self.path = root
        self._parts: dict[tuple[str, ...], Parts] = {}
        with named(root):
            root.mkdir(parents=True, exist_ok=True)
            self._root = os.open(root, _FOLDER)

    def __enter__(self) -> TargetFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        try:
            with named(self.path):
                if kind is None and () not in self._parts and self._has_parts():
                    self._parts[()] = Parts(self._root, self.path)
                for parts in self._parts.values():
                    (parts.sweep if kind is None else parts.sweep_if_empty)()
        finally:
            for parts in self._parts.values():
                parts.close()
            os.close(self._root)

    def open_old(self, path: str) -> int:
        """A descriptor of the file that is there, for reading, or -1 where there is none."""
        *folders, name = _on_disk(path)
        with self.folder(folders) as (folder, _), contextlib.suppress(FileNotFoundError):
            return os.open(name, _OLD, dir_fd=folder)
        return -1

    def open_part(self, path: str, part: str | None = None) -> Part:
        """The part of a file, of this name or of one that none has, on the file system of the file."""
        *folders, _ = _on_disk(path)
        with self.folder(folders) as (_, top):
            if top not in self._parts:
                with self.folder(top) as (above, _):
                    self._parts[top] = Parts(above, self.path.joinpath(*top))
        parts = self._parts[top]
        return parts.create() if part is None else parts.open(part)

    def publish(self, part: Part, path: str, before: Identity | None) -> None:
        """Make a part the file at `path`, where `before` was when the pull began (None: nothing).

        Raises `Conflict` code `target_changed` where another file is there now.
        """
        *folders, name = _on_disk(path)
        with self.folder(folders) as (folder, _):
            now = None
            with contextlib.suppress(FileNotFoundError):
                now = identity(os.stat(name, dir_fd=folder, follow_symlinks=False))
            if now != before:
                raise Conflict(
                    f"{self.path / on_disk(path)} was changed while the version was being pulled; it was left as it is",
                    code=error_codes.TARGET_CHANGED,
                    hint="Pull again: what has arrived is not fetched again",
                )
            part.move(folder, name)

    @contextmanager
    def folder(self, parts: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
        """A descriptor of a folder below, made where it is missing, and the path of the topmost one from which a file
        can be renamed into it: that of its mount."""
        current, top = os.dup(self._root), 0
        try:
            mount = _mount(current)
            for depth, part in enumerate(parts, 1):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=current)
                try:
                    below = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=current)
                except OSError as error:
                    if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
                        raise
                    raise no_folder(self.path.joinpath(*parts[:depth])) from error
                os.close(current)
                current = below
                if (own := _mount(current)) != mount:
                    mount, top = own, depth
            yield current, tuple(parts[:top])
        finally:
            os.close(current)

    def _has_parts(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            os.stat(PARTS, dir_fd=self._root, follow_symlinks=False)
            return True
        return False


def identity(status: os.stat_result) -> Identity:
    """What a file is known by."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def no_folder(path: Path) -> InvalidInput:
    """The error for what is in the way of a folder."""
    if path.is_symlink():
        return InvalidInput(
            f"{path} is a symbolic link, which a pull does not follow",
            code=error_codes.TARGET_IS_LINK,
            hint="Remove it, or pull elsewhere",
        )
    return InvalidInput(
        f"{path} is a file, where a folder has to be",
        code=error_codes.TARGET_SPECIAL,
        hint="Remove it, or pull elsewhere",
    )


def _mount(descriptor: int) -> str:
    """A value that differs between two folders if no rename is possible from one to the other. On Linux it is the
    mount, which distinguishes two mounts of one file system; elsewhere it is the device."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text("ascii").splitlines():
            if line.startswith("mnt_id:"):
                return line
    return str(os.fstat(descriptor).st_dev)


def _on_disk(path: str) -> list[str]:
    return on_disk(path).split("/")


class named:  # noqa: N801  reads as a verb at its place of use
    """Errors of the operating system become ours, naming the path."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            kind_of, code = _ERRORS.get(error.errno or 0, (InvalidInput, error_codes.TARGET_UNWRITABLE))
            raise kind_of(f"{self._path} cannot be written: {error.strerror}", code=code) from error


_ERRORS: Final[dict[int, tuple[type[SkyholdError], str]]] = {
    errno.ENOSPC: (QuotaExceeded, error_codes.DISK_FULL),
    errno.EDQUOT: (QuotaExceeded, error_codes.DISK_FULL),
    errno.EACCES: (PermissionDenied, error_codes.TARGET_UNWRITABLE),
    errno.EPERM: (PermissionDenied, error_codes.TARGET_UNWRITABLE),
    errno.EROFS: (PermissionDenied, error_codes.TARGET_UNWRITABLE),
}
