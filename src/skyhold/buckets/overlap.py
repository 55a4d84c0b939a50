"""Whether two buckets are one place, or one contains the other: then a copy in each is not two copies, and what one
keeps is foreign to the other. Two names that a name server has for one service are not found out."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from skyhold import error_codes
from skyhold.buckets.consent import is_vendors_host
from skyhold.buckets.endpoint import LOOPBACK
from skyhold.buckets.location import BucketLocation
from skyhold.errors import InvalidInput

_GOOGLES_S3: Final = re.compile(r"https://storage\.googleapis\.com")


def refuse_overlap(locations: Sequence[BucketLocation]) -> None:
    """Raise `InvalidInput` code `buckets_overlap` where two of the locations are one place, or nested. Folders are
    compared as the file system has them, through links and mounts."""
    steps = [(location, _steps(location)) for location in locations]
    for (one, of_one), (other, of_other) in combinations(steps, 2):
        if of_one[-1] == of_other[-1]:
            how = "are the same place"
        elif of_other[-1] in of_one or of_one[-1] in of_other:
            how = "are one inside the other"
        else:
            continue
        raise InvalidInput(
            f"Buckets `{one.name}` and `{other.name}` {how} ({one.place} and {other.place}): what is in both would be "
            "lost with one",
            code=error_codes.BUCKETS_OVERLAP,
            hint="Give each bucket a place of its own",
            buckets=[one.name, other.name],
        )


def _steps(location: BucketLocation) -> list[object]:
    """The place with all those that contain it, from the outermost to itself."""
    if location.scheme == "file":
        real = Path(os.path.realpath(location.path))
        return [_identity(folder) for folder in (*reversed(real.parents), real)]
    parts = location.prefix.split("/") if location.prefix else []
    return [(_service(location), location.container, *parts[:count]) for count in range(len(parts) + 1)]


def _identity(folder: Path) -> object:
    """What a folder is, however it is spelled; by its path where it is not made yet."""
    try:
        status = folder.stat()
    except OSError:
        return str(folder)
    return status.st_dev, status.st_ino


def _service(location: BucketLocation) -> object:
    """One value for all spellings of a service."""
    endpoint = location.endpoint
    if location.scheme == "s3" and endpoint and _GOOGLES_S3.fullmatch(endpoint):
        return "gs", ""
    account = location.account if location.scheme == "az" else ""
    if endpoint is None or is_vendors_host(location.scheme, endpoint):
        return location.scheme, account
    parts = urlsplit(endpoint)
    host = "localhost" if parts.hostname in LOOPBACK else parts.hostname
    return location.scheme, account, host, parts.port, parts.path
