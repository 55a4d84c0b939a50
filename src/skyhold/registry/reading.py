"""Opening what a repository names: the document and the files of a version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from skyhold import error_codes
from skyhold.errors import Corrupt, NotFound
from skyhold.registry.names import Ref, parse_reference, refs_called
from skyhold.registry.repositories import Repositories
from skyhold.registry.repository_register import read_root
from skyhold.registry.snapshot import Snapshot, VersionEntry
from skyhold.registry.version import VersionDocument
from skyhold.storage.blob_cache import VersionPlace
from skyhold.storage.blobs import Blobs
from skyhold.storage.chunks import ChunkReader, PackSpace
from skyhold.storage.file_entry import FileEntry
from skyhold.storage.policy import Policy
from skyhold.storage.version_files import StoredFile, VersionFiles
from skyhold.store.connection import Connection
from skyhold.store.session import Session

MODEL_CARD: Final = "README.md"
MODEL_CARD_BYTES_MAX: Final = 1 << 20


def find_ref(snapshot: Snapshot, name: str, repository: str) -> Ref:
    """A ref, also one that was deleted, by its full name or by its last part: that of a branch, else a tag, else an
    alias. Raises `NotFound`."""
    states = [state for ref in refs_called(name) if (state := snapshot.ref_state(ref)) is not None]
    for state in sorted(states, key=lambda state: state.version is None):
        return state.ref
    raise NotFound(
        f"There is no ref `{name}` in {repository}",
        code=error_codes.REF_NOT_FOUND,
        hint=f"skyhold ref list {repository}",
    )


def open_document(session: Session, snapshot: Snapshot, digest: str) -> VersionDocument:
    """The document of a version. Raises `NotFound`, `Corrupt`."""
    return document_of(session, snapshot.version(digest))


def document_of(session: Session, entry: VersionEntry) -> VersionDocument:
    """The document of a version. Raises `Corrupt`."""
    return VersionDocument.decode(session.blobs.read("versions", entry.document), entry.digest)


def document_or_fault(session: Session, find: Callable[[], VersionEntry]) -> tuple[VersionDocument | None, str]:
    """The document of a version, or why no bucket returns it: a loss in one version must not hide others."""
    try:
        return document_of(session, find()), ""
    except Corrupt as error:
        return None, error.message


def open_version(session: Session, snapshot: Snapshot, digest: str) -> tuple[VersionDocument, VersionFiles]:
    """The document and the files of a version. Raises `NotFound`, `Corrupt`."""
    return read_version(session.blobs, digest, place_of(snapshot, digest))


def place_of(snapshot: Snapshot, digest: str) -> VersionPlace:
    """Raises `NotFound` code `version_not_found`."""
    entry = snapshot.version(digest)
    return VersionPlace(entry.document, entry.layout)


def read_version(blobs: Blobs, digest: str, place: VersionPlace) -> tuple[VersionDocument, VersionFiles]:
    """The document and the files of a version by the names of its blobs. Raises `NotFound`, `Corrupt`."""
    document = VersionDocument.decode(blobs.read("versions", place.document), digest)
    files = [FileEntry(file.path, file.size_bytes, file.sha256, file.executable) for file in document.files]
    return document, VersionFiles(blobs, place.layout, digest, files)


def read_model_card(version: VersionFiles, space: PackSpace) -> str | None:
    """The text of the version's README.md, the first MiB of it, or None where it has none."""
    for index, file in enumerate(version.files):
        if file.path == MODEL_CARD:
            stored = StoredFile(version, index, ChunkReader(space))
            return stored.read(0, min(stored.size_bytes, MODEL_CARD_BYTES_MAX)).decode("utf-8", "replace")
    return None


def resolve_base(connection: Connection, reference: str) -> tuple[str, str]:
    """Repository id and version's digest of `team/name@ref`. Raises `NotFound`."""
    parsed = parse_reference(reference)
    with repositories_of(connection) as (repositories, _):
        register = repositories.open(parsed.repository)
        return register.repository_id, register.read().resolve(parsed.ref or "main", parsed.ancestor)


@contextmanager
def repositories_of(connection: Connection) -> Iterator[tuple[Repositories, Session]]:
    """The repositories of a store, and the session in which they are read or changed."""
    with connection.session() as session:
        yield Repositories(session.registers, session.blobs), session


@contextmanager
def reading(connection: Connection, repository_id: str, *, keep: bool = False) -> Iterator[tuple[Session, Snapshot]]:
    """A session under the policy of a repository, and the newest state of it. `keep` is as in `Connection.session`.
    Raises as `RepositoryRegister.read`."""
    registers = connection.pinned()
    try:
        version, root = read_root(registers, repository_id)
    except NotFound:
        with repositories_of(connection) as (repositories, _):
            raise repositories.absent(repository_id) from None
    with connection.session(Policy.from_json(root.policy), registers=registers, keep=keep) as session:
        yield session, Snapshot(root, version, session.blobs)
