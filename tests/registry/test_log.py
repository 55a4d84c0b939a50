from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyhold.errors import Corrupt
from skyhold.registry.graph import is_ancestor
from skyhold.registry.log import log
from skyhold.registry.snapshot import NewVersion, Snapshot
from tests.registry.fixtures import ORIGIN, change, digest, entry, new_repository


@pytest.fixture
def snapshot() -> Snapshot:
    """a ← b ← d (merge of b and c) ← e, and a ← c; the clock of `c` was an hour ahead, that of `e` behind."""
    versions = (
        entry("a", time="2026-01-01T00:00:00Z"),
        entry("b", "a", time="2026-01-02T00:00:00Z"),
        entry("c", "a", time="2026-01-09T00:00:00Z"),
        entry("d", "b", "c", time="2026-01-04T00:00:00Z"),
        entry("e", "d", time="2025-01-01T00:00:00Z"),
        entry("lonely", time="2026-01-05T00:00:00Z"),
    )
    return new_repository().apply(change(versions=versions), "a")


def names(entries: object) -> list[str]:
    by_digest = {digest(name): name for name in ("a", "b", "c", "d", "e", "lonely")}
    return [by_digest[found.digest] for found in entries]  # type: ignore[attr-defined]


def test_log_gives_children_before_parents_then_the_newest(snapshot: Snapshot) -> None:
    assert names(log(snapshot, digest("e"))) == ["e", "d", "c", "b", "a"]
    assert names(log(snapshot, digest("e"), limit=2)) == ["e", "d"]
    assert names(log(snapshot, digest("c"))) == ["c", "a"]


def test_first_parent_log_leaves_merged_branches_out(snapshot: Snapshot) -> None:
    assert names(log(snapshot, digest("e"), first_parent=True)) == ["e", "d", "b", "a"]
    assert names(log(snapshot, digest("e"), first_parent=True, limit=3)) == ["e", "d", "b"]


def by_kahn(versions: list[NewVersion], head: str) -> list[str]:
    """The order of a log, by its definition: repeatedly the newest of those whose children are all listed."""
    left = {version.digest: version for version in versions}
    before, queue = set[str](), [head]
    while queue:
        before.add(digest := queue.pop())
        queue += left[digest].parents
    order: list[str] = []
    while before:
        named = {parent for digest in before for parent in left[digest].parents}
        order.append(max(before - named, key=lambda digest: (left[digest].time, digest)))
        before.remove(order[-1])
    return order


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_any_log_is_topological_complete_and_stable(seed: int, size: int) -> None:
    dice = random.Random(seed)
    versions: list[NewVersion] = []
    for number in range(size):
        before = dice.sample(range(number), min(number, dice.randrange(3)))
        time = f"2026-01-{dice.randrange(1, 5):02}T00:00:00Z"
        versions.append(entry(f"v{number}", *(f"v{parent}" for parent in before), time=time))
    snapshot = new_repository().apply(change(versions=tuple(versions)), "a")
    head = versions[-1].digest
    found = list(log(snapshot, head))
    place = {version.digest: number for number, version in enumerate(found)}
    assert set(place) == {version.digest for version in versions if is_ancestor(version.digest, head, snapshot.version)}
    assert [entry.digest for entry in found] == by_kahn(versions, head)
    assert all(place[version.digest] < place[parent] for version in found for parent in version.parents)
    assert list(log(snapshot, head)) == found


def test_ancestors_are_distinguished_from_other_versions(snapshot: Snapshot) -> None:
    parents = snapshot.version

    assert is_ancestor(digest("a"), digest("e"), parents)
    assert is_ancestor(digest("c"), digest("e"), parents)
    assert is_ancestor(digest("e"), digest("e"), parents)
    assert not is_ancestor(digest("e"), digest("a"), parents)
    assert not is_ancestor(digest("lonely"), digest("e"), parents)


@pytest.mark.parametrize("cycle", [("a", "a"), ("a", "b"), ("a", "e")], ids=" of ".join)
def test_a_log_of_versions_that_are_their_own_ancestors_ends_with_an_error(
    cycle: tuple[str, str], snapshot: Snapshot
) -> None:
    """Only a forged map contains such versions; a digest covers its parents, so documents cannot."""
    first, last = cycle
    event = snapshot.root.events + 1
    part = snapshot.version(digest(first)).to_json() | {"parents": [[digest(last), event - 1]]}
    forged = snapshot.after(ORIGIN, [part], {f"version/{digest(first)}": {"event": event}})
    for child in ("b", "c", "d", "e"):  # its children find it by its event
        later = forged.version(digest(child))
        events = [event if parent == digest(first) else forged.version_event(parent) for parent in later.parents]
        part = replace(later, parent_events=tuple(events)).to_json()  # type: ignore[arg-type]
        forged = forged.after(ORIGIN, [part], {later.key: {"event": forged.root.events + 1}})
    for first_parent in (False, True):
        found: list[NewVersion] = []
        with pytest.raises(Corrupt) as refused:
            found.extend(log(forged, digest("e"), first_parent=first_parent))
        assert refused.value.code == "history_cycle"
    assert names(log(forged, digest("e"), first_parent=True, limit=2)) == ["e", "d"]
    with pytest.raises(Corrupt):
        forged.resolve(digest("e"), 10**12)
