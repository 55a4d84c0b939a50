"""What the registers reach: every object that must be in the buckets, and in which of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from skyhold.buckets.bucket import Bucket
from skyhold.consensus.checkpoint import parse_checkpoint_key
from skyhold.errors import SkyholdError
from skyhold.registry.catalogue import Catalogue
from skyhold.registry.checkpoints import newest_checkpoints
from skyhold.registry.connection import Connection
from skyhold.registry.damage import UnreadRepository, read_each
from skyhold.registry.history import verify_chain
from skyhold.registry.reading import open_version
from skyhold.registry.root import register_key
from skyhold.registry.session import Session
from skyhold.registry.snapshot import Snapshot
from skyhold.storage.names import INDEXES, blob_key, blob_name_of, pack_id_of, pack_key
from skyhold.storage.policy import Policy, allowed


@dataclass(frozen=True, slots=True)
class RepositoryInventory:
    """The objects of one repository: keys of `blobs`, which belong into every bucket, and of `packs`, which belong
    into those that the policy allows. `damage` names what could not be read to find out more."""

    name: str
    id: str
    policy: Policy
    versions: int
    blobs: frozenset[str]
    packs: frozenset[str]
    damage: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inventory:
    """The objects of a store. `expected` maps each key to the names of the buckets that shall hold it; `lost_registers`
    have no checkpoint of their newest change in any bucket; `unread` are the repositories of which nothing is known."""

    repositories: tuple[RepositoryInventory, ...]
    expected: dict[str, frozenset[str]]
    lost_registers: tuple[str, ...]
    unread: tuple[UnreadRepository, ...]

    @property
    def damage(self) -> tuple[str, ...]:
        found = [repository.sentence for repository in self.unread]
        found += [sentence for repository in self.repositories for sentence in repository.damage]
        names = {register_key(repository.id): repository.name for repository in self.repositories}
        for key in self.lost_registers:
            what = names.get(key, f"register {key}")
            found.append(
                f"No bucket holds the newest checkpoint of {what}; only this machine knows where its refs stand"
            )
        return tuple(found)


def take_inventory(
    connection: Connection, session: Session, repository: str | None = None, *, held: bool = False
) -> Inventory:
    """Walk all registers, or that of one repository by name. Deleted repositories count: they can come back.

    The newest checkpoint of each register is expected in every bucket. With `held`, what the registers do not reach is
    expected where it lies: older checkpoints, and the older states that a recovery may need them for.

    A version whose document or layout no bucket gives is named in `damage`, and the walk goes on; so is a history of
    refs whose chain is broken, and a repository that cannot be read at all.
    """
    catalogue = Catalogue(session.registers, session.blobs)
    names = catalogue.read()
    listed = list(names.repositories()) + [(item.name, item.repository_id) for item in names.deleted()]
    if repository is not None:
        listed = [(repository, names.resolve(repository))]
    everywhere = frozenset(location.name for location in connection.configuration.locations)
    expected = {blob_key("nodes", name): everywhere for name in names.map.node_names()}
    found, unread = read_each(
        listed,
        lambda name, repository_id: _repository(session, name, catalogue.repository(repository_id).read()),
        "inventory",
    )
    for taken in found:
        places = frozenset(bucket.name for bucket in allowed(taken.policy, connection.configuration.locations))
        for key in taken.blobs:
            expected[key] = everywhere
        for key in taken.packs:  # a pack of one class may serve several repositories
            expected[key] = expected.get(key, frozenset()) | places
    newest = newest_checkpoints(connection, None if repository is None else [register_key(item.id) for item in found])
    expected.update(dict.fromkeys(newest.objects, everywhere))
    if repository is None:
        for bucket in connection.buckets().values():
            expected.update(dict.fromkeys(_listed(bucket, f"{INDEXES}/"), everywhere))
    if held and repository is None:
        reached = frozenset(expected)
        for name, bucket in connection.buckets().items():
            for key in _listed(bucket):
                if key not in reached and (blob_name_of(key) or pack_id_of(key) or parse_checkpoint_key(key)):
                    expected[key] = expected.get(key, frozenset()) | {name}
    connection.unread = unread
    return Inventory(tuple(found), expected, newest.lost, unread)


def _repository(session: Session, name: str, snapshot: Snapshot) -> RepositoryInventory:
    blobs = {blob_key("nodes", node) for node in snapshot.map.node_names()}
    packs: set[str] = set()
    damage = []
    versions = 0
    for entry in snapshot.versions():
        versions += 1
        blobs |= {blob_key("versions", entry.document), blob_key("layouts", entry.layout)}
        blobs |= {blob_key("attachments", item.blob) for item in snapshot.attached(entry.digest) if item.blob}
        try:
            _, version = open_version(session, snapshot, entry.digest)
            blobs |= {blob_key(folder, blob) for folder, blob in version.blobs()}
            packs |= {pack_key(pack) for pack in version.pack_ids()}
        except SkyholdError as error:
            damage.append(f"Version {entry.public_id[:10]} of {name} cannot be read: {error.message}")
    try:
        verify_chain(snapshot)
    except SkyholdError as error:
        damage.append(f"In {name}: {error.message}" + (f". {error.hint}" if error.hint else ""))
    policy = Policy.from_json(snapshot.root.policy)
    return RepositoryInventory(
        name, snapshot.root.repository_id, policy, versions, frozenset(blobs), frozenset(packs), tuple(damage)
    )


def _listed(bucket: Bucket, prefix: str = "") -> Iterator[str]:
    """Keys of what a bucket holds. (Of index segments, what one bucket has all shall have.)"""
    try:
        for info in bucket.list(prefix):
            yield info.key
    except SkyholdError:
        return  # the survey names a bucket that does not answer
