"""What is recognized as Skyhold's own in a folder of a person: buckets of stores, key files, and what pulls have under
way. None of it is part of a model: a push leaves it out, and a pull does not write into it.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from skyhold.buckets.folder_making import MARKER, OWN_FOLDER
from skyhold.security.keys import is_key_text
from skyhold.storage.names import STORE_DOCUMENT
from skyhold.storage.own_files import read_own
from skyhold.storage.store_document import DOCUMENT_BYTES_MAX

_KEY_FILE_BYTES_MAX: Final = 256


class OwnPlaces:
    """What of a folder that is pushed is Skyhold's own: buckets and key files, whosever they are, and the files and
    folders at `paths`."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files: set[tuple[int, int]] = set()
        for path in paths:
            with contextlib.suppress(OSError):
                status = path.stat()
                self._files.add((status.st_dev, status.st_ino))

    def folder_reason(self, folder: Path) -> str | None:
        if is_bucket(folder):
            return "a bucket of a store"
        with contextlib.suppress(OSError):
            status = folder.stat()
            if (status.st_dev, status.st_ino) in self._files:
                return "a folder of Skyhold's own"
        return None

    def reason(self, file: Path, status: os.stat_result) -> str | None:
        if (status.st_dev, status.st_ino) in self._files:
            return "a file of Skyhold's own"
        if stat.S_ISREG(status.st_mode) and is_key_file(file, status.st_size):
            return "a key file"
        return None


def is_bucket(folder: Path) -> bool:
    """Whether a folder is a bucket of a store: it has a bucket's marker, or a `store.json`."""
    if (folder / OWN_FOLDER / MARKER).exists():
        return True
    try:
        document = json.loads(read_own(folder / STORE_DOCUMENT, DOCUMENT_BYTES_MAX))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and {"skyhold", "store", "bucket"} <= document.keys()


def is_key_file(path: Path, size_bytes: int) -> bool:
    """Whether a file holds a key of Skyhold."""
    try:
        return size_bytes <= _KEY_FILE_BYTES_MAX and is_key_text(read_own(path, _KEY_FILE_BYTES_MAX))
    except OSError:
        return False
