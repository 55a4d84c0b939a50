"""One table from the operating system's errors to ours, for folders."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from skyhold import error_codes
from skyhold.errors import InvalidInput, NotFound, PermissionDenied, QuotaExceeded, SkyholdError, Unavailable

_TABLE: Final[dict[int, tuple[type[SkyholdError], str, str, str]]] = {
    errno.ENOSPC: (QuotaExceeded, error_codes.NO_SPACE, "has no space left", "Free some space, or move the bucket"),
    errno.EDQUOT: (
        QuotaExceeded,
        error_codes.NO_SPACE,
        "is at the quota of its file system",
        "Free some space, or raise it",
    ),
    errno.EFBIG: (QuotaExceeded, error_codes.OBJECT_TOO_LARGE, "takes no file of this size", "Use another file system"),
    errno.EMFILE: (QuotaExceeded, error_codes.TOO_MANY_FILES, "met the limit of open files", "Raise it: ulimit -n"),
    errno.ENFILE: (
        QuotaExceeded,
        error_codes.TOO_MANY_FILES,
        "met the system's limit of open files",
        "Raise fs.file-max",
    ),
    errno.EROFS: (PermissionDenied, error_codes.READ_ONLY, "is on a read-only file system", "Mount it for writing"),
    errno.EACCES: (
        PermissionDenied,
        error_codes.PERMISSION_DENIED,
        "denies access",
        "Check owner and mode of its folders",
    ),
    errno.EPERM: (
        PermissionDenied,
        error_codes.PERMISSION_DENIED,
        "denies access",
        "Check owner and mode of its folders",
    ),
    errno.ENOENT: (NotFound, error_codes.BUCKET_NOT_FOUND, "is gone", "Mount or restore its folder"),
    errno.ENOTDIR: (
        InvalidInput,
        error_codes.KEY_IS_FOLDER,
        "holds a file where a folder is needed",
        "Use another key",
    ),
    errno.EISDIR: (InvalidInput, error_codes.KEY_IS_FOLDER, "holds a folder where a file is needed", "Use another key"),
    errno.ENAMETOOLONG: (
        InvalidInput,
        error_codes.PATH_TOO_LONG,
        "has a path that is too long for this key",
        "Use a shorter folder path",
    ),
}


@contextmanager
def translated(bucket: str, name: str) -> Iterator[None]:
    """Turn an `OSError` into ours; what is not in the table is a device or network that fails: `Unavailable`."""
    try:
        yield
    except OSError as error:
        kind, code, what, hint = _TABLE.get(
            error.errno or 0,
            (Unavailable, error_codes.FOLDER_FAILED, f"failed: {error.strerror}", "Check the disk or mount"),
        )
        raise kind(f"Bucket `{bucket}` {what} (at `{name}`)", code=code, hint=hint, bucket=bucket, key=name) from error


def bucket_gone(bucket: str, root: Path) -> NotFound:
    return NotFound(
        f"Bucket `{bucket}` is gone: {root} is not there, or is not the folder that was made a bucket",
        code=error_codes.BUCKET_NOT_FOUND,
        hint="Mount or restore the folder; an empty one takes part again after it was added again",
        bucket=bucket,
    )


def not_a_folder(path: Path) -> InvalidInput:
    return InvalidInput(
        f"{path} is no folder, so it cannot be a bucket nor hold one",
        code=error_codes.NOT_A_FOLDER,
        hint="Name an empty or new folder",
    )


def folder_not_made(path: Path, why: str) -> PermissionDenied:
    return PermissionDenied(
        f"Folder {path} cannot be made: {why}",
        code=error_codes.FOLDER_NOT_MADE,
        hint="Name a folder on a disk that you may write",
    )


def object_missing(bucket: str, key: str) -> NotFound:
    return NotFound(
        f"Bucket `{bucket}` has no object `{key}`", code=error_codes.OBJECT_NOT_FOUND, bucket=bucket, key=key
    )


def link_in_bucket(bucket: str, name: str) -> PermissionDenied:
    return PermissionDenied(
        f"Bucket `{bucket}` holds a symbolic link, `{name}`: nothing is read or written through it",
        code=error_codes.LINK_IN_BUCKET,
        hint="Replace the link by what it points to; a bucket on another disk is linked or mounted as a whole",
        bucket=bucket,
    )


def key_is_folder(bucket: str, key: str) -> InvalidInput:
    return InvalidInput(
        f"Bucket `{bucket}` keeps objects as files: `{key}` cannot be an object and a folder of other objects",
        code=error_codes.KEY_IS_FOLDER,
        bucket=bucket,
        key=key,
    )
