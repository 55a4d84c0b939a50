"""The graph of versions: who descends from whom. Pure; parents come in as a function."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from skyhold.errors import Corrupt

Parents = Callable[[str], tuple[str, ...]]


def is_ancestor(ancestor: str, descendant: str, parents: Parents) -> bool:
    """Whether `ancestor` is `descendant` or lies before it. Reads breadth-first, each version once."""
    return any(digest == ancestor for digest in reachable(descendant, parents))


def reachable(digest: str, parents: Parents) -> Iterator[str]:
    """`digest` and all versions before it, each once, nearest first."""
    seen = {digest}
    queue = deque([digest])
    while queue:
        current = queue.popleft()
        yield current
        for parent in parents(current):
            if parent not in seen:
                seen.add(parent)
                queue.append(parent)


def first_parents(digest: str, parents: Parents) -> Iterator[str]:
    """`digest`, its first parent, and so on back to a version without parents. Raises `Corrupt` code `history_cycle`
    where a version comes again."""
    seen = set()
    while True:
        if digest in seen:
            raise history_cycle(digest)
        seen.add(digest)
        yield digest
        before = parents(digest)
        if not before:
            return
        digest = before[0]


def common_ancestor(one: str, other: str, parents: Parents) -> str | None:
    """The version before both (or one of them) that is nearest to `other`, or None where they share no history."""
    before_one = set(reachable(one, parents))
    return next((digest for digest in reachable(other, parents) if digest in before_one), None)


def history_cycle(digest: str) -> Corrupt:
    """The error for a version that is its own ancestor. Parents are named by digests of what names them, so no version
    can be: its entry in the map is not what its document says."""
    return Corrupt(
        f"Version {digest[:10]} is recorded as an ancestor of itself: its parents are not those of its document",
        code="history_cycle",
        hint="A defect, or somebody who has the store's keys, wrote it so. See where: skyhold verify",
        version=digest,
    )
