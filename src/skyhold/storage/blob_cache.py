"""Blobs of versions in the shared local cache: what a machine needs to read a version again without a bucket.

Nothing in it is trusted: a blob's name is the keyed hash of its bytes, and a version's digest covers its document.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from dataclasses import dataclass
from typing import Final

from skyhold import error_codes
from skyhold.codec.frame import FRAME_BYTES_MAX
from skyhold.errors import InvalidInput
from skyhold.storage.cache import CacheFolder
from skyhold.storage.object_keys import PUBLIC_ID_CHARACTERS
from skyhold.storage.own_files import open_own, read_own
from skyhold.units import Buffer

KEPT_FOLDERS: Final = frozenset(("versions", "layouts", "pages", "tensors"))
_NAME: Final = re.compile(r"[0-9a-f]{64}")
_NOTE_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class VersionPlace:
    """The names of the blobs of a version: of its document and of its layout. Only a hint: it is checked against the
    digest when it is used."""

    document: str
    layout: str

    def __post_init__(self) -> None:
        if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in (self.document, self.layout)):
            raise InvalidInput(
                f"Expected the names of two blobs but got {self.document!r} and {self.layout!r}",
                code=error_codes.INVALID_NAME,
            )


@dataclass(frozen=True, slots=True)
class VersionNote:
    """A version that this machine had: its repository (the name then, and the id), and the place of its blobs."""

    digest: str
    repository: str
    repository_id: str
    place: VersionPlace


class BlobCache:
    """The cached blobs of one store."""

    def __init__(self, folder: CacheFolder) -> None:
        self._folder = folder

    def get(self, name: str) -> bytes | None:
        """The bytes that are cached under a blob's name; they may not be those of the blob."""
        return self._read(name, FRAME_BYTES_MAX + 1) if _NAME.fullmatch(name) else None

    def put(self, name: str, stored: Buffer) -> None:
        """Keep the stored bytes of a blob. A cache that cannot be written is no error: it is only a cache."""
        if _NAME.fullmatch(name) and not os.path.exists(self._folder.path / name):  # noqa: PTH110 - which never raises
            self._write(name, bytes(stored))

    def recall(self, digest: str, repository: str) -> VersionNote | None:
        """The note of the version with this digest, or with these first 40 characters of one, in the repository of this
        name."""
        noted = self._read(_note_name(digest, repository), _NOTE_BYTES_MAX)
        if noted is None:
            return None
        try:
            fields = json.loads(noted)
            place = VersionPlace(fields["document"], fields["layout"])
            note = VersionNote(str(fields["digest"]), repository, str(fields["repository"]), place)
        except (ValueError, KeyError, TypeError, RecursionError, InvalidInput):
            return None
        return note if _NAME.fullmatch(note.digest) and note.digest.startswith(digest) else None

    def note(self, note: VersionNote) -> None:
        """Note a version. It replaces an earlier note of it in this repository."""
        body = {
            "digest": note.digest,
            "document": note.place.document,
            "layout": note.place.layout,
            "repository": note.repository_id,
        }
        self._write(_note_name(note.digest, note.repository), json.dumps(body).encode())

    def _read(self, name: str, limit_bytes: int) -> bytes | None:
        if not self._folder.limit_bytes:
            return None
        try:
            return read_own(self._folder.path / name, limit_bytes)
        except OSError:
            return None

    def _write(self, name: str, body: bytes) -> None:
        if len(body) > self._folder.limit_bytes:
            return
        written = self._folder.path / f".{name}-{secrets.token_hex(4)}"
        with contextlib.suppress(OSError):
            try:
                with os.fdopen(open_own(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
                    file.write(body)
                written.replace(self._folder.path / name)
            except BaseException:
                with contextlib.suppress(OSError):
                    written.unlink()
                raise
            self._folder.has_grown(len(body))


def _note_name(digest: str, repository: str) -> str:
    of = hashlib.sha256(repository.encode()).hexdigest()[:16]
    return f"version-{digest[:PUBLIC_ID_CHARACTERS]}-{of}"
