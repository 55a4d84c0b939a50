"""Small files that a user or a folder names: settings, credentials, certificates."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_small_file(path: Path, limit_bytes: int) -> tuple[bytes, os.stat_result]:
    """A file's bytes and status. Raises `OSError`, also for what is no regular file or has more than `limit_bytes`: a
    pipe would have us wait for ever, and a device has no end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        body = file.read(limit_bytes + 1)
        if len(body) > limit_bytes:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        return body, status
