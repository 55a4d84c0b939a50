"""Files of this machine's own folders, its cache and its state, into which other programs may have written."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def open_own(path: Path, flags: int) -> int:
    """The descriptor of a file of ours, made for its owner only. Raises `OSError`, and never blocks: a link, a pipe or
    a device is not a file of ours."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "Not a regular file", str(path))


def read_own(path: Path, limit_bytes: int) -> bytes:
    """A file of ours, as far as `limit_bytes`. Raises `OSError` as `open_own`."""
    with os.fdopen(open_own(path, os.O_RDONLY), "rb") as file:
        return file.read(limit_bytes)
