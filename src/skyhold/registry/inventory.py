"""What the registers reach: every object that must be in the buckets, and in which of them.

A register, a version or a history that cannot be read is named, and the walk continues with the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from skyhold.buckets.bucket import Bucket
from skyhold.consensus.migration import CONFIG, NAMES
from skyhold.consensus.no_majority import register_lost
from skyhold.consensus.parallel import at_once
from skyhold.errors import SkyholdError
from skyhold.registry.following import left_behind
from skyhold.registry.graph import generation_after
from skyhold.registry.history import verify_document, verify_history, verify_names
from skyhold.registry.reached_file import Reached, ReachedFile
from skyhold.registry.reading import open_version
from skyhold.registry.repositories import Repositories
from skyhold.registry.root import register_key
from skyhold.registry.snapshot import Snapshot, VersionEntry, attachment_blob
from skyhold.registry.version import VersionDocument
from skyhold.storage.index_segments import learn_segments
from skyhold.storage.object_keys import INDEXES, blob_key, blob_name_of, pack_key
from skyhold.storage.policy import Policy, allowed
from skyhold.store.checkpoints import newest_checkpoints
from skyhold.store.configuration_log import ConfigurationLog
from skyhold.store.connection import Connection
from skyhold.store.document import document_key, read_document
from skyhold.store.map import Map
from skyhold.store.node import Entry
from skyhold.store.record import blobs_of
from skyhold.store.session import Session
from skyhold.store.unreadable_repositories import UnreadableRepository, read_each


@dataclass(frozen=True, slots=True)
class RepositoryInventory:
    """The objects of one repository: keys of `blobs`, which belong into every bucket, and of `packs`, which belong
    into those that the policy allows. `damage` names what could not be read to find out more, or contradicts itself.
    `snapshot` is the state that was read. `complete`: all objects that it needs are known."""

    name: str
    id: str
    policy: Policy
    versions: int
    blobs: frozenset[str]
    packs: frozenset[str]
    damage: tuple[str, ...]
    snapshot: Snapshot
    complete: bool


@dataclass(frozen=True, slots=True)
class DocumentInventory:
    """The objects of one document: keys of `blobs`, which belong in every bucket. `damage` and `complete` are as of
    a repository."""

    kind: str
    name: str
    id: str
    blobs: frozenset[str]
    damage: tuple[str, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class Inventory:
    """The objects of a store. `expected` maps each key to the names of the buckets that should hold it; `registers` are
    the keys of its registers; `lost_registers` have no checkpoint of their newest change in any bucket; `checkpoints`
    are those of the others, each with its register, from which this machine can rewrite it; `unread` are the
    repositories that could not be read at all; `unreadable` is why the names of the repositories could not be read, if
    so, and `way_out` what to do; what they reach is then unknown; `own_damage` names where the history of the names or
    of the configuration contradicts itself or cannot be read, and `own_complete` is whether everything that these
    histories need is known."""

    repositories: tuple[RepositoryInventory, ...]
    expected: dict[str, frozenset[str]]
    registers: frozenset[str]
    lost_registers: tuple[str, ...]
    checkpoints: dict[str, str] = field(default_factory=dict)
    unread: tuple[UnreadableRepository, ...] = ()
    unreadable: str | None = None
    way_out: str | None = None
    documents: tuple[DocumentInventory, ...] = ()
    own_damage: tuple[str, ...] = ()
    own_complete: bool = True

    @property
    def complete(self) -> bool:
        """Whether everything that the registers reach is known. Otherwise an unreached object may still be needed."""
        unread = self.unread or self.unreadable is not None
        complete = [item.complete for item in self.repositories] + [item.complete for item in self.documents]
        return not unread and self.own_complete and all(complete)

    @property
    def damage(self) -> tuple[str, ...]:
        found = [] if self.unreadable is None else [self.unreadable]
        found += [repository.sentence for repository in self.unread]
        found += self.own_damage
        found += [sentence for repository in self.repositories for sentence in repository.damage]
        found += [sentence for document in self.documents for sentence in document.damage]
        names = {register_key(repository.id): repository.name for repository in self.repositories}
        names |= {document_key(document.id): f"{document.kind} {document.name}" for document in self.documents}
        for key in self.lost_registers:
            what = names.get(key, f"register {key}")
            found.append(
                f"No bucket holds the newest checkpoint of {what}; only this machine has its newest refs. "
                "`skyhold sync` writes it again"
            )
        return tuple(found)


def take_inventory(
    connection: Connection, session: Session, repository: str | None = None, known: ReachedFile | None = None
) -> Inventory:
    """Walk all registers, or that of one repository by name. Deleted repositories count: they can be brought back.
    What is already `known` of a repository is not read and checked again.

    The newest checkpoint of each register is expected in every bucket, and so is every index segment.
    """
    repositories = Repositories(session.registers, session.blobs)
    everywhere = frozenset(location.name for location in connection.configuration.locations)
    names = repositories.read()
    if repository is not None:
        listed = [(repository, names.resolve(repository))]
    else:
        listed = list(names.repositories()) + [(item.name, item.repository_id) for item in names.deleted()]
    expected = {blob_key("nodes", name): everywhere for name in names.map.node_names()}
    expected |= {blob_key("records", name): everywhere for name in _records(names.map)}
    own = _Taking("the store")
    with own.naming("In the register of names", reading=False):
        verify_names(names)
    with own.naming("In the configuration"):
        read, log = partial(session.blobs.read, "records"), ConfigurationLog.of(connection.configuration)
        for name in log.blob_names(read):
            own.blobs.add(blob_key("records", name))
        log.verify(read)
    expected |= dict.fromkeys(own.blobs, everywhere)
    expected |= {blob_key("tombstones", name): everywhere for name in names.tombstones}
    found, unread = read_each(listed, partial(_repository, repositories, session, known), "inventory")
    for taken in found:
        places = frozenset(bucket.name for bucket in allowed(taken.policy, connection.configuration.locations))
        for key in taken.blobs:
            expected[key] = everywhere
        for key in taken.packs:  # a pack of one class may serve several repositories
            expected[key] = expected.get(key, frozenset()) | places
    registers = {CONFIG, NAMES, *(register_key(repository_id) for _, repository_id in listed)}
    documents: list[DocumentInventory] = []
    if repository is None:
        named = [*names.documents(), *names.deleted_documents()]
        documents = at_once(lambda item: _document(session, *item), named, "inventory")
        expected.update((key, everywhere) for document in documents for key in document.blobs)
        registers |= set(names.registers())
        expected.update(dict.fromkeys(_segments_in_force(connection, session), everywhere))
    newest = newest_checkpoints(connection, None if repository is None else [register_key(item.id) for item in found])
    expected.update(dict.fromkeys(newest.objects, everywhere))
    connection.unread = unread
    return Inventory(
        tuple(found),
        expected,
        frozenset(registers),
        newest.lost,
        newest.objects,
        unread,
        documents=tuple(documents),
        own_damage=tuple(own.damage),
        own_complete=own.complete,
    )


def _repository(
    repositories: Repositories, session: Session, known: ReachedFile | None, name: str, repository_id: str
) -> RepositoryInventory:
    taking = _Taking(name)
    snapshot = repositories.repository(repository_id).read()
    policy = Policy.from_json(snapshot.root.policy)
    place, leaves = (None, {}) if known is None else _recall(known, snapshot)
    with taking.naming(f"Not all of {name} can be read"):
        taking.take_nodes(snapshot.map)
    found = taking.take_leaves(session, snapshot, leaves)
    with taking.naming(f"In {name}", reading=False):
        verify_history(snapshot, place)
    if known is not None and taking.complete and not taking.damage:
        added = {leaf: reached for leaf, reached in found.items() if leaf not in leaves}
        known.note(repository_id, snapshot.log.count, snapshot.log.chain, added, leaves.keys() - found.keys())
    with taking.naming(f"Not all that follows refs of {name} can be read"):
        taking.damage += [
            f"In {name}: {follow.id} follows {follow.ref}, but its target is {str(follow.target)[:10]}"
            for follow in left_behind(snapshot.map)
        ]
    with taking.naming(f"Not all refs of {name} can be read"):
        taking.damage += [
            f"In {name}: {state.ref} points to version {str(state.version)[:10]}, which is not in the repository"
            for state in snapshot.refs()
            if state.version is not None and not snapshot.has_version(state.version)
        ]
    return RepositoryInventory(
        name,
        repository_id,
        policy,
        taking.versions,
        frozenset(taking.blobs),
        frozenset(taking.packs),
        tuple(taking.damage),
        snapshot,
        taking.complete,
    )


def _recall(known: ReachedFile, snapshot: Snapshot) -> tuple[tuple[int, str] | None, dict[str, Reached]]:
    """What is known of a repository, unless it has another history now, as after a recovery."""
    place, leaves = known.recall(snapshot.root.repository_id)
    if place is None:
        return None, {}
    events, chain = place
    with suppress(SkyholdError):
        if events <= snapshot.log.count and (events == 0 or snapshot.log.read(events).chain == chain):
            return place, leaves
    known.forget(snapshot.root.repository_id)
    return None, {}


@dataclass(slots=True)
class _Taking:
    """The inventory of one repository while it is taken."""

    name: str
    versions: int = 0
    blobs: set[str] = field(default_factory=set)
    packs: set[str] = field(default_factory=set)
    damage: list[str] = field(default_factory=list)
    complete: bool = True

    @contextmanager
    def naming(self, what: str, *, reading: bool = True) -> Iterator[None]:
        """Record what the block raises, and continue. While `reading`, the inventory is then incomplete."""
        try:
            yield
        except SkyholdError as error:
            self.damage.append(f"{what}: {_with_hint(error)}")
            self.complete = self.complete and not reading

    def take_map(self, map_: Map) -> None:
        self.take_nodes(map_)
        self.blobs |= {blob_key("records", blob) for blob in _records(map_)}

    def take_nodes(self, map_: Map) -> None:
        for node in map_.node_names():
            self.blobs.add(blob_key("nodes", node))

    def take_leaves(self, session: Session, snapshot: Snapshot, known: Mapping[str, Reached]) -> dict[str, Reached]:
        """Take what the leaves of the map reach; returns it by their names. Those that are `known` are not read."""
        found: dict[str, Reached] = {}
        own = Reached(0, set(), set())  # of the top node
        versions: list[Entry] = []
        leaf_of: dict[str, Reached] = {}
        with self.naming(f"Not all of {self.name} can be read"):
            for name, read in snapshot.map.leaves():
                if name is not None and name in known:
                    found[name] = known[name]
                    continue
                leaf = own if name is None else Reached(0, set(), set())
                for key, value in read():
                    leaf.blobs |= {blob_key("records", blob) for blob in blobs_of(key, value)}
                    if key.startswith("version/"):
                        versions.append((key, value))
                        leaf_of[key.removeprefix("version/")] = leaf
                    elif key.startswith("attached/"):
                        self._take_attached(snapshot, key, value, leaf)
                if name is not None:
                    found[name] = leaf
        with self.naming(f"Not all versions of {self.name} can be read"):
            for entry in snapshot.versions(versions):
                self._take_version(session, snapshot, entry, leaf_of[entry.digest])
        for leaf in (own, *found.values()):
            self.versions += leaf.versions
            self.blobs |= leaf.blobs
            self.packs |= leaf.packs
        return found

    def _take_version(self, session: Session, snapshot: Snapshot, entry: VersionEntry, leaf: Reached) -> None:
        leaf.versions += 1
        leaf.blobs |= {blob_key("versions", entry.document), blob_key("layouts", entry.layout)}
        with self.naming(f"Version {entry.public_id[:10]} of {self.name} cannot be read"):
            document, version = open_version(session, snapshot, entry.digest)
            leaf.blobs |= {blob_key(folder, blob) for folder, blob in version.blobs()}
            leaf.packs |= {pack_key(pack) for pack in version.pack_ids()}
            self.damage += [f"In {self.name}: {fault}" for fault in _contradictions(snapshot, entry, document)]

    def _take_attached(self, snapshot: Snapshot, key: str, value: object, leaf: Reached) -> None:
        digest = key.split("/")[1]
        blob = attachment_blob(value)
        if blob is not None:
            leaf.blobs.add(blob_key("attachments", blob))
        with self.naming(f"Not all that is attached to version {digest[:10]} of {self.name} can be read"):
            snapshot.attached_at(key, value)


def _document(session: Session, kind: str, name: str, document_id: str) -> DocumentInventory:
    what = f"{kind} {name}"
    taking = _Taking(what)
    with taking.naming(f"{what} cannot be read"):
        document = read_document(session.registers, session.blobs, document_id)
        if document is None:
            raise register_lost(document_key(document_id))
        with taking.naming(f"Not all of {what} can be read"):
            taking.take_map(document.map)
        with taking.naming(f"In {what}", reading=False):
            verify_document(document)
    return DocumentInventory(kind, name, document_id, frozenset(taking.blobs), tuple(taking.damage), taking.complete)


def _records(map_: Map) -> Iterator[str]:
    return (blob for key, value in map_.scan() for blob in blobs_of(key, value))


def _contradictions(snapshot: Snapshot, entry: VersionEntry, document: VersionDocument) -> Iterator[str]:
    """Where the map contradicts the document of a version: a walk of the history reads the map alone."""
    version = f"version {entry.public_id[:10]}"
    if (entry.parents, entry.time) != (document.parents, document.time):
        yield f"the parents or the time that are recorded for {version} are not those of its document"
    parents = [snapshot.version(parent) for parent in entry.parents if snapshot.has_version(parent)]
    if len(parents) == len(entry.parents) and entry.generation != generation_after(parents):
        yield f"the generation that is recorded for {version} does not follow from those of its parents"
    for parent in document.parents:
        if not snapshot.has_version(parent):
            yield f"{parent[:10]}, one of the parents of {version}, is not in the repository"


def _with_hint(error: SkyholdError) -> str:
    return f"{error.message}. {error.hint}" if error.hint else error.message


def _segments_in_force(connection: Connection, session: Session) -> set[str]:
    """The keys of the index segments that every bucket is to hold: those that some bucket lists, except those that
    another segment replaces. Segments are read to find these only where buckets differ."""
    listed = [set(_segments(bucket)) for bucket in connection.buckets().values()]
    found = set[str]().union(*listed)
    if any(keys != found for keys in listed):
        for of_class in sorted({key.split("/")[1] for key in found}):
            with suppress(SkyholdError):
                learn_segments(connection.chunk_index, session.blobs, session.store_replicas, of_class)
    replaced = connection.chunk_index.replaced_segments()
    return {key for key in found if blob_name_of(key) not in replaced}


def _segments(bucket: Bucket) -> list[str]:
    """The keys of the index segments that a bucket holds, or none where its listing fails: keys that it invents
    would be missing in every other bucket. The survey names a bucket that does not answer."""
    try:
        return [info.key for info in bucket.list(f"{INDEXES}/") if blob_name_of(info.key) is not None]
    except SkyholdError:
        return []
