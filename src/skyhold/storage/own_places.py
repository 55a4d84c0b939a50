"""Skyhold's own files in a user's folder: buckets of stores, key files, the state of this machine, and the part files
of pulls. None of them is part of a model: a push leaves them out, and a pull does not write into a bucket.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from skyhold.buckets.folder_making import MARKER, OWN_FOLDER
from skyhold.security.keys import is_key_text
from skyhold.storage.object_keys import STORE_DOCUMENT, STORE_DOCUMENT_BYTES_MAX
from skyhold.storage.own_files import read_own
from skyhold.storage.paths import as_stored, plainest
from skyhold.units import MIB

_ID: Final = re.compile(r"[0-9a-f]{32}")
_KEY_FILE_BYTES_MAX: Final = 256
_NOTE_BYTES_MAX: Final = 16 * MIB
STORE_DOCUMENT_REASON: Final = "the store.json of a bucket: it would make the folder look like one"


class OwnPlaces:
    """Skyhold's own files in a folder that is pushed: buckets, key files and state folders, of any user, and the files
    and folders at `paths`."""

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
        return "a state folder of Skyhold" if is_state(folder) else None

    def reason(self, file: Path, status: os.stat_result) -> str | None:
        if (status.st_dev, status.st_ino) in self._files:
            return "a file of Skyhold's own"
        if stat.S_ISREG(status.st_mode):
            with contextlib.suppress(OSError):
                return content_reason(as_stored(file.name), status.st_size, lambda limit: read_own(file, limit))
        return None


def content_reason(path: str, size_bytes: int, read: Callable[[int], bytes]) -> str | None:
    """Why a file of this path and size is Skyhold's own by its content; `read(limit)` returns its first bytes."""
    if size_bytes <= _KEY_FILE_BYTES_MAX and is_key_text(read(_KEY_FILE_BYTES_MAX)):
        return "a key file"
    if is_store_json(path) and is_store_document(read(STORE_DOCUMENT_BYTES_MAX)):
        return STORE_DOCUMENT_REASON
    return None


def is_bucket(folder: Path) -> bool:
    """Whether a folder is a bucket of a store: it has a bucket's marker, or a `store.json`."""
    if os.path.exists(folder / OWN_FOLDER / MARKER):  # noqa: PTH110 - False where access is denied
        return True
    return _is_store_document_file(folder / STORE_DOCUMENT)


def is_store_document(body: bytes) -> bool:
    """Whether a `store.json` with these bytes makes the folder in which it is look like a bucket, whether it can be
    trusted or not. Only the first `STORE_DOCUMENT_BYTES_MAX` bytes are looked at."""
    try:
        document = json.loads(body[:STORE_DOCUMENT_BYTES_MAX])
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and {"skyhold", "store", "bucket"} <= document.keys()


def is_state(folder: Path) -> bool:
    """Whether a folder is a state folder, this machine's or another one's, or that of one store in it."""
    try:
        if (folder / "stores").is_dir() and _ID.fullmatch(read_own(folder / "machine", 64).decode("ascii").strip()):
            return True
    except (OSError, ValueError):
        pass
    try:
        note = json.loads(read_own(folder / "store.json", _NOTE_BYTES_MAX))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(note, dict) and {"locations", "sealed", "key_check"} == note.keys()


def is_store_json(path: str) -> bool:
    """Whether a file of a version, by its path, is one that `is_bucket` would look at."""
    return plainest(path.rpartition("/")[2]) == STORE_DOCUMENT


def _is_store_document_file(path: Path) -> bool:
    try:
        return is_store_document(read_own(path, STORE_DOCUMENT_BYTES_MAX))
    except OSError:
        return False
