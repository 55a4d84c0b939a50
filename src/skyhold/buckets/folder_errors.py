"""One table from the operating system's errors to ours, for folders."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from skyhold.errors import InvalidInput, NotFound, PermissionDenied, QuotaExceeded, SkyholdError, Unavailable

_TABLE: Final[dict[int, tuple[type[SkyholdError], str, str, str]]] = {
    errno.ENOSPC: (QuotaExceeded, "no_space", "has no space left", "Free some space, or move the bucket"),
    errno.EDQUOT: (QuotaExceeded, "no_space", "is at the quota of its file system", "Free some space, or raise it"),
    errno.EFBIG: (QuotaExceeded, "object_too_large", "takes no file of this size", "Use another file system"),
    errno.EMFILE: (QuotaExceeded, "too_many_files", "met the limit of open files", "Raise it: ulimit -n"),
    errno.ENFILE: (QuotaExceeded, "too_many_files", "met the system's limit of open files", "Raise fs.file-max"),
    errno.EROFS: (PermissionDenied, "read_only", "is on a read-only file system", "Mount it for writing"),
    errno.EACCES: (PermissionDenied, "permission_denied", "does not let us in", "Check owner and mode of its folders"),
    errno.EPERM: (PermissionDenied, "permission_denied", "does not let us in", "Check owner and mode of its folders"),
    errno.ENOENT: (NotFound, "bucket_not_found", "is gone", "Mount or restore its folder"),
    errno.ENOTDIR: (InvalidInput, "key_is_folder", "holds a file where a folder is needed", "Use another key"),
    errno.EISDIR: (InvalidInput, "key_is_folder", "holds a folder where a file is needed", "Use another key"),
    errno.ENAMETOOLONG: (InvalidInput, "path_too_long", "lies too deep for this key", "Use a shorter folder path"),
}


@contextmanager
def translated(bucket: str, name: str) -> Iterator[None]:
    """Turn an `OSError` into ours; what is not in the table is a device or network that fails: `Unavailable`."""
    try:
        yield
    except OSError as error:
        kind, code, what, hint = _TABLE.get(
            error.errno or 0, (Unavailable, "folder_failed", f"failed: {error.strerror}", "Check the disk or mount")
        )
        raise kind(f"Bucket `{bucket}` {what} (at `{name}`)", code=code, hint=hint, bucket=bucket, key=name) from error


def bucket_gone(bucket: str, root: Path) -> NotFound:
    return NotFound(
        f"Bucket `{bucket}` is gone: {root} is not there, or is not the folder that was made a bucket",
        code="bucket_not_found",
        hint="Mount or restore the folder; an empty one takes part again after it was added again",
        bucket=bucket,
    )


def not_a_folder(path: Path) -> InvalidInput:
    return InvalidInput(
        f"{path} is no folder, so it cannot be a bucket nor hold one",
        code="not_a_folder",
        hint="Name an empty or new folder",
    )


def folder_not_made(path: Path, why: str) -> PermissionDenied:
    return PermissionDenied(
        f"Folder {path} cannot be made: {why}",
        code="folder_not_made",
        hint="Name a folder on a disk that you may write",
    )


def object_missing(bucket: str, key: str) -> NotFound:
    return NotFound(f"Bucket `{bucket}` has no object `{key}`", code="object_not_found", bucket=bucket, key=key)


def link_in_bucket(bucket: str, name: str) -> PermissionDenied:
    return PermissionDenied(
        f"Bucket `{bucket}` holds a symbolic link, `{name}`: nothing is read or written through it",
        code="link_in_bucket",
        hint="Replace the link by what it points to; a bucket on another disk is linked or mounted as a whole",
        bucket=bucket,
    )


def key_is_folder(bucket: str, key: str) -> InvalidInput:
    return InvalidInput(
        f"Bucket `{bucket}` keeps objects as files: `{key}` cannot be an object and a folder of other objects",
        code="key_is_folder",
        bucket=bucket,
        key=key,
    )
