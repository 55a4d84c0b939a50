"""The log: the versions behind a ref, newest first."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import islice

from skyhold.registry.graph import first_parents, history_cycle, reachable
from skyhold.registry.snapshot import Snapshot, VersionEntry


def log(
    snapshot: Snapshot, digest: str, *, first_parent: bool = False, limit: int | None = None
) -> Iterator[VersionEntry]:
    """`digest` and the versions before it, at most `limit`.

    A version comes before its parents whatever their clocks said; among those that no descent orders the newest comes
    first, and of one second the greater digest, so that the order is always the same. `first_parent` follows only the
    first parent of each, and reads no more than it gives; the full log reads the whole history first.

    Raises `Corrupt` code `history_cycle`, in place of the versions that are their own ancestors.
    """
    entries: dict[str, VersionEntry] = {}

    def parents(digest: str) -> tuple[str, ...]:
        if digest not in entries:
            entries[digest] = snapshot.version(digest)
        return entries[digest].parents

    if first_parent:
        chain = first_parents(digest, parents)
        return islice((entries.get(found) or snapshot.version(found) for found in chain), limit)
    for _ in reachable(digest, parents):
        pass
    return islice(_newest_first(entries), limit)


def _newest_first(entries: dict[str, VersionEntry]) -> Iterator[VersionEntry]:
    """Kahn's topological order, with a heap of the versions whose children have all come out."""
    ordered = sorted(entries.values(), key=lambda entry: (entry.time, entry.digest), reverse=True)
    rank = {entry.digest: place for place, entry in enumerate(ordered)}
    children_left = dict.fromkeys(entries, 0)
    for entry in ordered:
        for parent in set(entry.parents):
            children_left[parent] += 1
    ready = [rank[digest] for digest, count in children_left.items() if count == 0]
    heapq.heapify(ready)
    left = set(entries)
    while ready:
        entry = ordered[heapq.heappop(ready)]
        left.remove(entry.digest)
        yield entry
        for parent in set(entry.parents):
            children_left[parent] -= 1
            if children_left[parent] == 0:
                heapq.heappush(ready, rank[parent])
    if left:
        raise history_cycle(min(left))
