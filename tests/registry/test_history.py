from __future__ import annotations

import pytest

from skyhold.errors import Corrupt
from skyhold.registry.history import Move, moves, moves_reverse, ref_history, verify_chain
from skyhold.registry.refs import RepositoryRegister
from skyhold.registry.snapshot import Snapshot
from skyhold.storage.canonical import Json
from tests.registry.fixtures import CHAMPION, MAIN, TIME, V1, change, digest, entry, move, new_repository


@pytest.fixture
def repository() -> RepositoryRegister:
    repository = new_repository()
    repository.apply(
        change(move(MAIN, "v1"), move(CHAMPION, "v1"), versions=(entry("v1"), entry("v2", "v1")), reason="start"), "a"
    )
    repository.apply(change(move(MAIN, "v2"), author="bob"), "b")
    repository.apply(change(move(CHAMPION, "v2")), "c")
    repository.apply(change(move(CHAMPION, None)), "d")
    repository.apply(change(move(CHAMPION, "v1"), reason="back"), "e")
    return repository


def test_history_of_a_ref_is_read_newest_first(repository: RepositoryRegister) -> None:
    snapshot = repository.read()
    assert list(ref_history(snapshot, MAIN)) == [
        Move(3, MAIN, digest("v1"), digest("v2"), "bob", TIME, "", 1),
        Move(1, MAIN, None, digest("v1"), "ann", TIME, "start", None),
    ]
    champion = [(found.sequence, found.old, found.new) for found in ref_history(snapshot, CHAMPION)]
    v1, v2 = digest("v1"), digest("v2")
    assert champion == [(6, None, v1), (5, v2, None), (4, v1, v2), (2, None, v1)]
    assert list(ref_history(snapshot, V1)) == []


def test_all_moves_are_read_in_order(repository: RepositoryRegister) -> None:
    snapshot = repository.read()
    assert [found.sequence for found in moves(snapshot)] == [1, 2, 3, 4, 5, 6]
    assert [found.sequence for found in moves(snapshot, after=4)] == [5, 6]
    assert [found.sequence for found in moves_reverse(snapshot)] == [6, 5, 4, 3, 2, 1]


def test_intact_history_is_verified(repository: RepositoryRegister) -> None:
    assert verify_chain(repository.read()) == 6
    assert verify_chain(new_repository().read()) == 0


def forged(snapshot: Snapshot, key: str, value: object | None) -> Snapshot:
    """The same root over a map in which one entry was changed."""
    map_ = snapshot.map.update({key: value})
    return Snapshot(snapshot.root, snapshot.register_version, snapshot.blobs, map_)


@pytest.mark.parametrize(
    ("field", "value"), [("author", "eve"), ("new", digest("v1")), ("time", "2020-01-01T00:00:00Z"), ("reason", "x")]
)
def test_rewritten_move_breaks_the_chain_and_is_named(repository: RepositoryRegister, field: str, value: str) -> None:
    snapshot = repository.read()
    record = snapshot.map.get("move/0000000000000003")
    assert isinstance(record, dict)
    with pytest.raises(Corrupt, match="at move 3"):
        verify_chain(forged(snapshot, "move/0000000000000003", record | {field: value}))


@pytest.mark.parametrize("sequence", [1, 3, 6])
def test_dropped_move_is_found(repository: RepositoryRegister, sequence: int) -> None:
    with pytest.raises(Corrupt, match="history"):
        verify_chain(forged(repository.read(), f"move/{sequence:016x}", None))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ref/branch/main", {"version": digest("v1"), "move": 3}),
        ("ref/branch/main", {"version": digest("v1"), "move": 1}),
        ("ref/branch/main", None),
        ("ref/tag/v9", {"version": digest("v1"), "move": 1}),
    ],
)
def test_ref_that_no_move_put_there_is_found(repository: RepositoryRegister, key: str, value: Json | None) -> None:
    with pytest.raises(Corrupt, match="history"):
        verify_chain(forged(repository.read(), key, value))
