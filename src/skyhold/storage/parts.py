"""The part files of a pull: what is being restored, in a private folder, until it becomes the file.

They are in `.skyhold-part/` at the top of the target folder. No path of a version may have a part that ends so, and a
push leaves them out: no file of a version can be taken for one. A part is known by its descriptor; its name is used
only where it points to that same file, before the rename and after it. So what gets the file's name is what was hashed.

Each pull holds a shared lock on `lock` in that folder. A pull that succeeds takes the exclusive lock, if no other pull
is alive, and then deletes the folder with the parts that killed pulls have left.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from skyhold import error_codes
from skyhold.errors import Corrupt, PermissionDenied, Unavailable
from skyhold.storage.paths import PART_SUFFIX, on_disk

if TYPE_CHECKING:
    from skyhold.storage.file_entry import FileEntry

PARTS: Final = PART_SUFFIX
"""The name of the folder, which has the reserved ending itself."""

_LOCK: Final = "lock"
_TRIES: Final = 20
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def part_name(entry: FileEntry) -> str:
    """The name of a file's part: the same in each try of the same content, so that a killed pull goes on."""
    return hashlib.sha256(f"{entry.sha256} {entry.path}".encode()).hexdigest()


def part_path(root: Path, entry: FileEntry) -> Path:
    """The path of a file's part, only for checking whether it exists. It is on the file system of the file's folder."""
    top = folder = root
    with contextlib.suppress(OSError):
        device = root.stat().st_dev
        for part in entry.path.split("/")[:-1]:
            folder /= on_disk(part)
            status = folder.lstat()
            if status.st_dev != device:
                top, device = folder, status.st_dev
    return top / PARTS / part_name(entry)


class Part:
    """One part file, open and locked. `resumed`: an earlier try has left something in it."""

    def __init__(self, folder: int, name: str, descriptor: int, *, resumed: bool) -> None:
        self.folder, self.name, self.descriptor, self.resumed = folder, name, descriptor, resumed

    def move(self, folder: int, name: str) -> None:
        """Make it the file `name` of another folder, atomically. Raises `Corrupt` where another file than ours has
        come under either name."""
        self._check(self.folder, self.name)
        os.rename(self.name, name, src_dir_fd=self.folder, dst_dir_fd=folder)
        self._check(folder, name)

    def discard(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=self.folder)

    def close(self) -> None:
        os.close(self.descriptor)

    def is_at(self, folder: int, name: str) -> bool:
        """Whether this is the file of that name."""
        with contextlib.suppress(FileNotFoundError):
            there = os.stat(name, dir_fd=folder, follow_symlinks=False)
            return os.path.samestat(there, os.fstat(self.descriptor))
        return False

    def _check(self, folder: int, name: str) -> None:
        if not self.is_at(folder, name):
            raise Corrupt(
                f"File {name} was replaced by another program while it was being pulled",
                code=error_codes.PART_REPLACED,
                hint="Find out what else writes into the folder, then pull again",
            )


class Parts:
    """The folder of parts in the folder that `above` is a descriptor of. Made when it is missing."""

    def __init__(self, above: int, shown: Path) -> None:
        self._above = os.dup(above)
        self._shown = shown / PARTS
        self._folder = self._lock = -1
        try:
            self._enter()
        except BaseException:
            self.close()
            raise

    def open(self, name: str) -> Part:
        """The part of that name, as an earlier try left it, or a new one. Raises `Unavailable` code `target_busy`
        where another pull writes it."""
        for _ in range(_TRIES):
            part = self._opened(name)
            if part is None:
                continue
            try:
                fcntl.flock(part.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                part.close()
                break
            status = os.fstat(part.descriptor)
            if part.is_at(self._folder, name) and stat.S_ISREG(status.st_mode):
                if status.st_nlink == 1:
                    return part
                part.discard()  # with a second hard link a write would change that file, too
            part.close()  # or it was renamed to its file since it was opened
        raise Unavailable(
            f"Another pull is writing {self._shown / name}", code=error_codes.TARGET_BUSY, hint="Wait for it to end"
        )

    def create(self) -> Part:
        """A new part under an unused name."""
        return self.open(secrets.token_hex(32))

    def sweep(self) -> None:
        """Delete the folder with all that it holds, unless another pull is alive."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        for name in sorted(self._names(), key=lambda name: name == _LOCK):
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._folder)
        with contextlib.suppress(OSError):
            os.rmdir(PARTS, dir_fd=self._above)

    def sweep_if_empty(self) -> None:
        """Delete the folder where it holds no part."""
        if self._names() == [_LOCK]:
            self.sweep()

    def close(self) -> None:
        for descriptor in (self._lock, self._folder, self._above):
            if descriptor >= 0:
                os.close(descriptor)
        self._lock = self._folder = self._above = -1

    def _names(self) -> list[str]:
        with os.scandir(self._folder) as entries:
            return [entry.name for entry in entries]

    def _opened(self, name: str) -> Part | None:
        """The part of that name, old or new, not locked yet; None where another process has just created or deleted
        it."""
        with contextlib.suppress(FileNotFoundError):
            return Part(self._folder, name, os.open(name, _FILE, dir_fd=self._folder), resumed=True)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(name, _FILE | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=self._folder)
            return Part(self._folder, name, descriptor, resumed=False)
        return None

    def _enter(self) -> None:
        for _ in range(_TRIES):
            with contextlib.suppress(FileExistsError):
                os.mkdir(PARTS, 0o700, dir_fd=self._above)
            try:
                self._folder = os.open(PARTS, _FOLDER, dir_fd=self._above)
                status = os.fstat(self._folder)
                self._make_private(status)
                self._lock = os.open(_LOCK, _FILE | os.O_CREAT, 0o600, dir_fd=self._folder)
                fcntl.flock(self._lock, fcntl.LOCK_SH)
                there = os.stat(PARTS, dir_fd=self._above, follow_symlinks=False)
                lock = os.stat(_LOCK, dir_fd=self._folder, follow_symlinks=False)
                if os.path.samestat(there, status) and os.path.samestat(lock, os.fstat(self._lock)):
                    return
            except FileNotFoundError:  # a pull that ended has just deleted it
                pass
            for descriptor in (self._lock, self._folder):
                if descriptor >= 0:
                    os.close(descriptor)
            self._lock = self._folder = -1
        raise Unavailable(f"Folder {self._shown} is deleted again and again by others", code=error_codes.TARGET_BUSY)

    def _make_private(self, status: os.stat_result) -> None:
        """Raise `PermissionDenied` where the folder is another user's. (A file that was just made shows which user this
        process is: servers and containers map users.)"""
        name = secrets.token_hex(32)
        descriptor = os.open(name, _FILE | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._folder)
        try:
            ours = os.fstat(descriptor).st_uid == status.st_uid
        finally:
            os.close(descriptor)
            os.unlink(name, dir_fd=self._folder)
        if not ours:
            raise PermissionDenied(
                f"Folder {self._shown}, for files under way, belongs to another user",
                code=error_codes.TARGET_UNWRITABLE,
                hint=f"Once no pull runs there, delete it: rm -r {self._shown}",
            )
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            with contextlib.suppress(OSError):  # a file system without modes
                os.fchmod(self._folder, 0o700)
