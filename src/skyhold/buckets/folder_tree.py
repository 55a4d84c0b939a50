"""The folders of a folder bucket, opened one below the other, so that no symbolic link leads out of the bucket.

The bucket's own folder may be a link: its user named it. Any user who may write into it may put links there, too, and a
path that is followed as a whole would make us read and write elsewhere, with our rights.

A bucket whose folder its group may write is shared: what is made in it is writable by the group, whatever our umask.
"""

from __future__ import annotations

import errno
import os
import pwd
import shlex
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from skyhold.buckets.folder_errors import link_in_bucket
from skyhold.errors import PermissionDenied

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FOLDER_MODE: Final = stat.S_ISGID | stat.S_IRWXG
_FILE_MODE: Final = stat.S_IRGRP | stat.S_IWGRP


class Tree:
    """The folders below `root` of the bucket of this name. Errors of the system leave as they are."""

    def __init__(self, root: Path, bucket: str) -> None:
        self._root, self._bucket = root, bucket

    @contextmanager
    def folder(self, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
        """The descriptor of the folder below the root that these names lead to. With `make`, those that are missing are
        made, durably; the root never is: a disk that is not mounted must not look like an empty bucket.

        Raises `PermissionDenied` code `link_in_bucket` where one is a symbolic link.
        """
        folder = os.open(self._root, _FOLDER)
        try:
            shared = is_shared(folder)
            for part in parts:
                inner = self._inner(folder, part, make=make, shared=shared)
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)

    def _inner(self, folder: int, name: str, *, make: bool, shared: bool) -> int:
        made = False
        if make:
            try:
                os.mkdir(name, dir_fd=folder)
                made = True
            except FileExistsError:
                pass
        inner = self.open(name, _FOLDER, folder)
        if made:
            if shared:
                share(inner)
            os.fsync(folder)
        return inner

    def open(self, name: str, flags: int, folder: int) -> int:
        """The descriptor of what has this name in an open folder, never waited for."""
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            return os.open(name, flags, 0o666, dir_fd=folder)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENOTDIR, errno.EMLINK} and _is_link(name, folder):
                raise link_in_bucket(self._bucket, name) from error
            raise

    def explain(self, parts: Sequence[str], error: PermissionDenied) -> PermissionDenied:
        """The error with the folder that denies access, and what its owner can do, where that can be seen."""
        folders = [self._root.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
        for path in folders:
            try:
                status = path.lstat() if path != self._root else path.stat()
            except OSError:
                continue
            if stat.S_ISDIR(status.st_mode) and not os.access(path, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
                root = shlex.quote(str(self._root))
                return PermissionDenied(
                    f"Folder {path} of bucket `{self._bucket}` belongs to {_user(status.st_uid)} "
                    f"(mode {stat.S_IMODE(status.st_mode):04o}) and does not let {_user(os.geteuid())} write",
                    code=error.code,
                    hint=f"To share the bucket with a group, its owner runs: chgrp -R GROUP {root} && "
                    f"chmod -R g+rwX {root} && find {root} -type d -exec chmod g+s {{}} +",
                    **error.fields,
                )
        return error


def is_shared(root: int) -> bool:
    """Whether a bucket's group may write it."""
    return bool(os.fstat(root).st_mode & stat.S_IWGRP)


def share(descriptor: int) -> None:
    """Let the group use what we have made in a shared bucket, and what will be made in it, if it is a folder."""
    status = os.fstat(descriptor)
    wanted = stat.S_IMODE(status.st_mode) | (_FOLDER_MODE if stat.S_ISDIR(status.st_mode) else _FILE_MODE)
    if status.st_uid == os.geteuid() and wanted != stat.S_IMODE(status.st_mode):
        os.fchmod(descriptor, wanted)


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _user(number: int) -> str:
    try:
        return f"user `{pwd.getpwuid(number).pw_name}`"
    except KeyError:
        return f"user {number}"
