"""The file of a `file:PATH` credentials reference, under one rule for every driver."""

from __future__ import annotations

import os
import shlex
import stat

from skyhold.buckets.user_path import expand_user
from skyhold.errors import PermissionDenied


def read_credentials_file(path: str, bucket: str) -> str:
    """The text of the file. Raises `PermissionDenied` code `credentials_exposed` where every user of the machine can
    reach it (its group may: that is how a cluster mounts secrets), or code `credentials_missing`;
    `InvalidInput` code `unknown_home` for a `~somebody` who is nobody here."""
    file_path = expand_user(path, f"Credentials file of bucket `{bucket}`")
    try:
        with file_path.open(encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IRWXO:
                raise PermissionDenied(
                    f"The credentials file of bucket `{bucket}` is accessible to every user: {file_path}",
                    code="credentials_exposed",
                    hint=f"chmod 600 {shlex.quote(str(file_path))}",
                    bucket=bucket,
                )
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise PermissionDenied(
            f"No credentials for bucket `{bucket}`: the file {file_path} cannot be read",
            code="credentials_missing",
            hint="Write the file that its credentials reference names, or give this machine another reference",
            bucket=bucket,
        ) from error
