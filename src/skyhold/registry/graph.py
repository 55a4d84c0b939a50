"""The graph of versions: which one descends from which. Pure: a function that is passed in looks versions up.

Every version has a generation, one more than the greatest of its parents', so that a walk can stop early: a
version with the generation of another version, or a smaller one, does not descend from it. As with the commit-graph of
Git, a walk thus reads what it shows, and not the whole history.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from skyhold import error_codes
from skyhold.errors import Corrupt


class Placed(Protocol):
    """What the graph reads of a version."""

    @property
    def parents(self) -> tuple[str, ...]: ...
    @property
    def generation(self) -> int: ...
    @property
    def time(self) -> str: ...


P = TypeVar("P", bound=Placed)
Lookup = Callable[[str], P]
"""The version of a digest. Raises where there is none."""


def generation_after(parents: Iterable[Placed]) -> int:
    """The generation of a version with these parents."""
    return 1 + max((parent.generation for parent in parents), default=0)


def is_ancestor(ancestor: str, descendant: str, lookup: Lookup[P]) -> bool:
    """Whether `ancestor` is `descendant` or comes before it. Reads the versions between them."""
    if ancestor == descendant:
        return True
    least = lookup(ancestor).generation
    return any(digest == ancestor for digest, _ in _descend([descendant], lookup, least))


def first_parents(digest: str, lookup: Lookup[P]) -> Iterator[tuple[str, P]]:
    """`digest`, its first parent, and so on back to a version without parents."""
    placed = lookup(digest)
    yield digest, placed
    while placed.parents:
        before = placed.parents[0]
        placed = _below(digest, placed, before, lookup(before))
        digest = before
        yield digest, placed


def newest_first(digest: str, lookup: Lookup[P]) -> Iterator[tuple[str, P]]:
    """`digest` and all versions before it. A version comes before its parents whatever their times are; among those
    that no descent orders the newest comes first, and within one second the greater digest.

    Kahn's topological order, found step by step: how many children of a version are still to come is known once all
    versions of greater generations have been looked at.
    """
    known = _kept(lookup)
    walk = _descend([digest], known)
    ahead = next(walk, None)
    children_left = {digest: 0}
    ready = [_Newest(known(digest).time, digest)]
    while ready:
        current = heapq.heappop(ready).digest
        placed = known(current)
        yield current, placed
        for parent in sorted(set(placed.parents)):
            before = _below(current, placed, parent, known(parent))
            while ahead is not None and ahead[1].generation > before.generation:
                for named in set(ahead[1].parents):
                    children_left[named] = children_left.get(named, 0) + 1
                ahead = next(walk, None)
            children_left[parent] -= 1
            if children_left[parent] == 0:
                heapq.heappush(ready, _Newest(before.time, parent))


@dataclass(frozen=True, slots=True)
class _Newest:
    """Sorts before what is older."""

    time: str
    digest: str

    def __lt__(self, other: _Newest) -> bool:
        return (self.time, self.digest) > (other.time, other.digest)


def _descend(starts: Iterable[str], lookup: Lookup[P], least: int = 1) -> Iterator[tuple[str, P]]:
    """Versions and those before them down to the generation `least`, each once: a greater generation first, and of one
    generation the least digest."""
    heap: list[tuple[int, str]] = []
    placed: dict[str, P] = {}

    def enter(digest: str, found: P) -> None:
        if found.generation >= least and digest not in placed:
            placed[digest] = found
            heapq.heappush(heap, (-found.generation, digest))

    for digest in starts:
        enter(digest, lookup(digest))
    while heap:
        digest = heapq.heappop(heap)[1]
        current = placed[digest]
        yield digest, current
        for parent in current.parents:
            enter(parent, _below(digest, current, parent, placed.get(parent) or lookup(parent)))


def _below(digest: str, placed: P, parent: str, before: P) -> P:
    """The parent of a version, which must have a smaller generation: else a walk might never end. Parents are named by
    digests of what names them, so no version can be its own ancestor: such an entry differs from the document."""
    if before.generation >= placed.generation:
        raise Corrupt(
            f"Version {digest[:10]} is recorded in generation {placed.generation}, and its parent {parent[:10]} in "
            f"{before.generation}, which is not before it",
            code=error_codes.HISTORY_CYCLE,
            hint="A defect, or a client with the store's keys, wrote it. Find it: skyhold verify",
            version=digest,
        )
    return before


def _kept(lookup: Lookup[P]) -> Lookup[P]:
    """As `lookup`, called once for each version."""
    found: dict[str, P] = {}

    def kept(digest: str) -> P:
        if digest not in found:
            found[digest] = lookup(digest)
        return found[digest]

    return kept
