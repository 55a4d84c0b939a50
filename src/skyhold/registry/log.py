"""The log: the versions behind a ref, newest first."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from skyhold.registry.graph import first_parents, newest_first
from skyhold.registry.snapshot import Snapshot, VersionEntry


def log(
    snapshot: Snapshot, digest: str, *, first_parent: bool = False, limit: int | None = None
) -> Iterator[VersionEntry]:
    """`digest` and the versions before it, at most `limit`, in the order of `graph.newest_first`, or of the first
    parents alone. Reads only what it returns, and the parents.

    Raises `Corrupt` code `history_cycle` where a version is recorded in no later generation than its parent.
    """
    walk = first_parents if first_parent else newest_first
    return islice((entry for _, entry in walk(digest, snapshot.walk())), limit)
