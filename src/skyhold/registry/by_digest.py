"""Opening a version for reading: by the refs of a majority, or by its full digest without any.

A digest covers the version's document, and the layout is of that version or it is refused. So the names of the
two blobs need not be trusted: they may come from this machine's cache, from the last bucket, or with a decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from math import inf
from typing import Final, Literal, TypeVar

from skyhold import error_codes
from skyhold.errors import Corrupt, InvalidInput, NotFound, Unavailable
from skyhold.registry.names import check_digest, is_full_id, parse_reference
from skyhold.registry.pack_spaces import class_space, version_space
from skyhold.registry.reading import place_of, read_version, reading, repositories_of
from skyhold.registry.snapshot import Snapshot
from skyhold.registry.version import VersionDocument
from skyhold.storage.blob_cache import VersionNote, VersionPlace
from skyhold.storage.blobs import BucketBlobs
from skyhold.storage.chunks import PackSpace
from skyhold.storage.policy import Policy
from skyhold.storage.replicas import Replicas
from skyhold.storage.version_files import VersionFiles
from skyhold.store.connection import Connection
from skyhold.store.session import Session

T = TypeVar("T")
_NOT_IN_VERSION: Final = {error_codes.FILE_NOT_FOUND, error_codes.TENSOR_NOT_FOUND}
"""A file or tensor that a version lacks is in no other copy either."""
FoundBy = Literal["majority", "bucket", "cache"]
"""`majority`: the refs of a majority name the version now. `bucket`: the refs in some bucket do, which no majority has
confirmed. `cache`: this machine had the version before."""


@dataclass(frozen=True, slots=True)
class OpenVersion:
    """A version that can be read, and how it was found. `snapshot` and `session` are of its repository, None where its
    refs were not read. It can be read until `resources` end; a caller that takes them over (`pop_all`) closes them."""

    digest: str
    document: VersionDocument
    version: VersionFiles
    space: PackSpace
    found_by: FoundBy
    resources: ExitStack
    session: Session | None = None
    snapshot: Snapshot | None = None


def with_version(
    connection: Connection,
    name: str,
    repository_id: str | None,
    reference: str,
    use: Callable[[OpenVersion], T],
    *,
    cached_first: bool,
    keep: bool = True,
    place: VersionPlace | None = None,
) -> T:
    """What `use` returns for the version that a reference means, in the repository of this name and id (None: the id
    that the register of names contains).

    A full digest (or id of 40 characters) is looked for at `place`, in this machine's cache, and in what any voter has
    of the repository; `cached_first` is the order of the last two. With `keep` what is read of it goes into the cache.
    Raises `NotFound`, `Corrupt`, `Unavailable`, and what `use` raises.
    """
    parsed = parse_reference(f"{name}@{reference}")
    ref, ancestor = parsed.ref or "main", parsed.ancestor
    if not is_full_id(ref) or ancestor:
        if place is not None:
            raise InvalidInput(
                "Expected a full digest, as a place is given", code=error_codes.INVALID_REFERENCE, ref=ref
            )
        with ExitStack() as resources:
            return use(_by_refs(resources, connection, name, repository_id, ref, ancestor, keep=keep))
    if cached_first:
        with _elsewhere(), ExitStack() as resources:
            return use(_cached(resources, connection, name, repository_id, ref))
    if place is not None:
        with _elsewhere(), ExitStack() as resources:
            return use(_placed(resources, connection, ref, place, keep=keep))
    try:
        with connection.within(inf) as alone, ExitStack() as resources:
            return use(_by_refs(resources, alone, name, repository_id, ref, ancestor, keep=keep))
    except (Corrupt, Unavailable):
        if not cached_first:
            with _elsewhere(), ExitStack() as resources:
                return use(_cached(resources, connection, name, repository_id, ref))
        raise


@contextmanager
def _elsewhere() -> Iterator[None]:
    """Suppress the errors after which a version is looked for elsewhere."""
    try:
        yield
    except (Corrupt, Unavailable):
        pass
    except NotFound as error:
        if error.code in _NOT_IN_VERSION:
            raise


def _by_refs(
    resources: ExitStack,
    connection: Connection,
    name: str,
    repository_id: str | None,
    ref: str,
    ancestor: int,
    *,
    keep: bool,
) -> OpenVersion:
    if repository_id is None:
        with repositories_of(connection) as (repositories, _):
            repository_id = repositories.read().resolve(name)
    session, snapshot = resources.enter_context(reading(connection, repository_id, keep=keep))
    policy = Policy.from_json(snapshot.root.policy)
    digest = snapshot.resolve(ref, ancestor)
    place = place_of(snapshot, digest)
    document, version = read_version(session.blobs, digest, place)
    space = version_space(connection, version, policy, session)
    if keep:
        connection.blob_cache.note(VersionNote(digest, name, snapshot.root.repository_id, place))
    found_by: FoundBy = "bucket" if connection.was_stale else "majority"
    return OpenVersion(digest, document, version, space, found_by, resources, session, snapshot)


def _cached(
    resources: ExitStack, connection: Connection, name: str, repository_id: str | None, digest: str
) -> OpenVersion:
    note = connection.blob_cache.recall(digest, name)
    if note is None or repository_id not in {None, note.repository_id}:
        raise NotFound(f"Version {digest[:10]} is not recorded on this machine", code=error_codes.VERSION_NOT_FOUND)
    keys, name_key = connection.keys, connection.store_keys.name_key()
    replicas = resources.enter_context(closing(Replicas(connection.known_buckets(), bool)))
    blobs = BucketBlobs(replicas, keys, name_key, connection.blob_cache, cached_first=True)
    document, version = read_version(blobs, note.digest, note.place)
    space = class_space(connection, version.head.placement_class, replicas)
    return OpenVersion(note.digest, document, version, space, "cache", resources)


def _placed(
    resources: ExitStack, connection: Connection, digest: str, place: VersionPlace, *, keep: bool
) -> OpenVersion:
    """The version from any bucket that has the blobs; the register of the repository is not read."""
    keys, name_key = connection.keys, connection.store_keys.name_key()
    replicas = resources.enter_context(closing(Replicas(connection.known_buckets(), bool)))
    blobs = BucketBlobs(replicas, keys, name_key, connection.blob_cache if keep else None)
    document, version = read_version(blobs, check_digest(digest), place)
    space = class_space(connection, version.head.placement_class, replicas)
    return OpenVersion(digest, document, version, space, "bucket", resources)
