"""Opening what a repository names: the document and the files of a version."""

from __future__ import annotations

from skyhold.registry.connection import Session
from skyhold.registry.snapshot import Snapshot
from skyhold.registry.version import VersionDocument
from skyhold.storage.version_files import FileEntry, VersionFiles


def open_document(session: Session, snapshot: Snapshot, digest: str) -> VersionDocument:
    """The document of a version. Raises `NotFound`, `Corrupt`."""
    return VersionDocument.decode(session.blobs.read("versions", snapshot.version(digest).document), digest)


def open_version(session: Session, snapshot: Snapshot, digest: str) -> tuple[VersionDocument, VersionFiles]:
    """The document and the files of a version. Raises `NotFound`, `Corrupt`."""
    document = open_document(session, snapshot, digest)
    files = [FileEntry(file.path, file.size_bytes, file.sha256, file.executable) for file in document.files]
    return document, VersionFiles(session.blobs, snapshot.version(digest).layout, digest, files)
