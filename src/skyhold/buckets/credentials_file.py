"""The file of a `file:PATH` credentials reference, under one rule for every driver."""

from __future__ import annotations

import shlex
import stat
from typing import Final

from skyhold import error_codes
from skyhold.buckets.user_file import read_small_file
from skyhold.buckets.user_path import expand_user
from skyhold.errors import PermissionDenied

FILE_BYTES_MAX: Final = 1 << 20


def read_credentials_file(path: str, owner: str, **fields: object) -> str:
    """The text of the file; errors name its `owner` (as in "bucket `lab`") and carry the `fields`.

    Raises `PermissionDenied` code `credentials_exposed` where every user of the machine can reach it (its group may:
    that is how a cluster mounts secrets), or code `credentials_missing`; `InvalidInput` code `unknown_home` for a
    `~name` without such a user on this machine.
    """
    file_path = expand_user(path, f"Credentials file of {owner}")
    try:
        body, status = read_small_file(file_path, FILE_BYTES_MAX)
        if status.st_mode & stat.S_IRWXO:
            raise PermissionDenied(
                f"The credentials file of {owner} is accessible to every user: {file_path}",
                code=error_codes.CREDENTIALS_EXPOSED,
                hint=f"chmod 600 {shlex.quote(str(file_path))}",
                **fields,
            )
        return body.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PermissionDenied(
            f"No credentials for {owner}: the file {file_path} cannot be read",
            code=error_codes.CREDENTIALS_MISSING,
            hint="Write the file that its credentials reference names, or give this machine another reference",
            **fields,
        ) from error
