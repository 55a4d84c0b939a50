"""Files of a folder bucket that are being written: durable and compared before they become objects."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from skyhold import error_codes
from skyhold.buckets.folder_tree import share
from skyhold.errors import Corrupt
from skyhold.units import Buffer

INCOMING: Final = "incoming"
"""The folder of drafts, inside the bucket's own."""
COMPARE_BYTES: Final = 1 << 20
INCOMING_AGE_S_MAX: Final = 24 * 3600.0
"""A draft that is older than this, and that no process has locked, was left by a process that died."""


class Drafts:
    """The drafts of one opened bucket. Errors of the system leave as they are: the driver translates."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket
        self._cleaned = False

    @contextmanager
    def of(self, body: Buffer, folder: int, *, shared: bool) -> Iterator[str]:
        """The body as a durable, compared file of the open `folder` that is no object yet, by its name; removed when it
        did not become one."""
        self._clean(folder)
        draft = secrets.token_hex(16)
        file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=folder)
        try:
            if shared:
                share(file)
            fcntl.flock(file, fcntl.LOCK_EX)  # shows `_clean` that the writer is alive
            view, written = memoryview(body).cast("B"), 0
            while written < len(view):
                written += os.write(file, view[written:])
            os.fsync(file)
            self._compare(file, view)
            yield draft
        finally:
            os.close(file)
            with suppress(FileNotFoundError):
                os.unlink(draft, dir_fd=folder)

    def _compare(self, file: int, body: memoryview) -> None:
        """What `Bucket.write` promises: the bytes come back. Their pages are dropped first where the system can,
        so that the device answers and not the memory that we have just filled."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        returned = bytearray(min(COMPARE_BYTES, len(body)))
        for offset in range(0, len(body), COMPARE_BYTES):
            expected = body[offset : offset + COMPARE_BYTES]
            del returned[len(expected) :]
            count = os.preadv(file, [returned], offset)
            if count != len(expected) or returned != expected:  # a bytearray compares by memcmp, a view by element
                raise Corrupt(
                    f"Bucket `{self._bucket}` gave back other bytes than were written",
                    code=error_codes.CHECKSUM_REFUSED,
                    hint="The disk or file system is failing: check it before you trust it",
                    bucket=self._bucket,
                )

    def _clean(self, folder: int) -> None:
        """Once per opened bucket, remove what dead writers left. Age alone would not do (a slow writer), nor would the
        lock alone (a writer is without it for an instant after it made its file). What another user's writer left, and
        does not let us look at, is left to that user."""
        if self._cleaned:
            return
        self._cleaned = True
        oldest_s = time.time() - INCOMING_AGE_S_MAX
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError, PermissionError):
                    if entry.is_file(follow_symlinks=False) and entry.stat().st_mtime < oldest_s:
                        self._remove(entry.name, folder)

    def _remove(self, name: str, folder: int) -> None:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(name, dir_fd=folder)
        except BlockingIOError:
            return
        finally:
            os.close(file)


def sync(path: Path) -> None:
    """Make a file's bytes, or a folder's entries, durable."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
