"""The packs of a placement class, as one operation reads and writes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from skyhold.storage.cache import CacheFolder, PackCache
from skyhold.storage.chunks import PackSpace
from skyhold.storage.linked_files import LinkedFiles
from skyhold.storage.policy import Policy, allowed, placement_class
from skyhold.storage.replicas import Replicas
from skyhold.storage.version_files import VersionFiles
from skyhold.store.connection import Connection
from skyhold.store.session import Session


def pack_space(connection: Connection, policy: Policy, session: Session) -> PackSpace:
    """The packs of a policy's placement class, for one operation that may write."""
    places = allowed(policy, connection.configuration.locations)
    return _of_session(
        connection, placement_class(policy), connection.replicas(policy, places, session.lagging), session
    )


def version_space(connection: Connection, version: VersionFiles, policy: Policy, session: Session) -> PackSpace:
    """The packs of a version, to read them. They were sealed for the class of its layout and may be in any bucket:
    the policy, which selects the buckets to read first, may have changed since."""
    first = allowed(policy, connection.configuration.locations)
    others = [location for location in connection.configuration.locations if location not in first]
    replicas = connection.replicas(replace(policy, regions=()), [*first, *others], session.lagging)
    return _of_session(connection, version.head.placement_class, replicas, session)


def bucket_space(connection: Connection, name: str, of_class: str, cache: PackCache) -> PackSpace:
    """The packs of a placement class as one bucket alone holds them, to read them. The caller closes its
    replicas."""
    replicas = Replicas([connection.bucket(name)], bool)
    return _space(connection, of_class, replicas, cache, LinkedFiles(CacheFolder(Path(), 0), sealed=True))


def class_space(connection: Connection, of_class: str, replicas: Replicas) -> PackSpace:
    """The packs of a placement class in the cache and in these replicas, which the caller closes."""
    files = LinkedFiles(connection.cache, sealed=connection.keys.sealed)
    return _space(connection, of_class, replicas, PackCache(connection.cache), files)


def _of_session(connection: Connection, of_class: str, replicas: Replicas, session: Session) -> PackSpace:
    session.closing.append(replicas)
    return class_space(connection, of_class, replicas)


def _space(
    connection: Connection, of_class: str, replicas: Replicas, cache: PackCache, files: LinkedFiles
) -> PackSpace:
    store, chunk_ids = bytes.fromhex(connection.document.store), connection.store_keys.chunk_id_key()
    return PackSpace(store, bytes.fromhex(of_class), connection.keys, chunk_ids, replicas, cache, files)
