"""What `status` reads, and what it finds."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

import pytest

import skyhold
from skyhold.buckets.folder import FolderBucket
from skyhold.registry.inventory import take_inventory
from skyhold.registry.reached_file import ReachedFile
from skyhold.registry.version import VersionDocument
from skyhold.store import node
from tests.endtoend.machines import Scene

VERSIONS = 60
"""So many that the map has several leaves."""


@pytest.fixture
def store(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[skyhold.Store]:
    monkeypatch.setattr(node, "_CUT_BELOW", 64)  # of 256: leaves of about twelve entries
    with skyhold.init(scene.clouds()) as made:
        _push(made, scene, range(VERSIONS))
        yield made


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The documents of versions that were read."""
    read: list[str] = []
    decode = VersionDocument.decode.__func__  # type: ignore[attr-defined]

    def counting(cls: type[VersionDocument], body: bytes, digest: str) -> VersionDocument:
        read.append(digest)
        return decode(cls, body, digest)  # type: ignore[no-any-return]

    monkeypatch.setattr(VersionDocument, "decode", classmethod(counting))
    return read


def _push(store: skyhold.Store, scene: Scene, numbers: range) -> None:
    model = scene.place / "model"
    model.mkdir(exist_ok=True)
    for number in numbers:
        (model / "weights.bin").write_bytes(number.to_bytes(4, "little") * 64)
        store.repository("team/m", create=True).push(model, message=f"Version {number}", notes=["n" * 3000])


def test_status_reads_what_has_changed_since_the_last_one(
    store: skyhold.Store, scene: Scene, decoded: list[str]
) -> None:
    first = store.status()
    assert set(decoded) == {entry.digest for entry in store.repository("team/m").log()}
    decoded.clear()
    assert store.status() == first
    assert not decoded
    _push(store, scene, range(VERSIONS, VERSIONS + 1))
    decoded.clear()
    second = store.status()
    assert 0 < len(set(decoded)) < VERSIONS // 2
    assert second.repositories[0].versions == VERSIONS + 1
    assert all(bucket.missing == 0 for bucket in second.buckets)


def test_status_finds_what_a_bucket_lost_also_of_what_is_known(store: skyhold.Store, scene: Scene) -> None:
    store.status()
    for folder in ("versions", "attachments"):
        next(path for path in (scene.cloud("b") / folder).rglob("*") if path.is_file()).unlink()
    assert {bucket.name: bucket.missing for bucket in store.status().buckets} == {"a": 0, "b": 2, "c": 0}


def test_what_is_known_and_what_has_changed_is_what_a_whole_walk_finds(store: skyhold.Store, scene: Scene) -> None:
    store.status()
    _push(store, scene, range(VERSIONS, VERSIONS + 3))
    connection = store._connection
    with connection.session(fresh=True) as session:
        known = take_inventory(connection, session, known=ReachedFile(connection.state.reached))
        assert known.expected == take_inventory(connection, session).expected


@pytest.mark.parametrize("damage", [b"", b"no database", b"SQLite format 3\x00" + bytes(200)])
def test_damaged_file_of_what_is_known_is_made_anew(store: skyhold.Store, scene: Scene, damage: bytes) -> None:
    first = store.status()
    [path] = scene.machine.folder.rglob("reached.db")
    for part in path.parent.glob("reached.db*"):
        part.unlink()
    path.write_bytes(damage)
    assert store.status() == first
    assert store.status() == first


def test_another_history_than_the_one_that_is_known_is_read_whole(
    store: skyhold.Store, scene: Scene, decoded: list[str]
) -> None:
    store.status()
    [path] = scene.machine.folder.rglob("reached.db")
    with sqlite3.connect(path) as database:
        database.execute("UPDATE repositories SET chain = ?", ("0" * 64,))
    database.close()
    decoded.clear()
    store.status()
    assert len(set(decoded)) == VERSIONS


def test_health_asks_each_bucket_a_few_times_however_much_there_is(
    store: skyhold.Store, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name in ("read", "read_tagged", "list", "inspect"):
        if hasattr(FolderBucket, name):
            monkeypatch.setattr(FolderBucket, name, _counting(name, getattr(FolderBucket, name), asked))
    health = store.health()
    assert health.healthy
    assert health.works
    assert [(bucket.name, bucket.error) for bucket in health.buckets] == [("a", None), ("b", None), ("c", None)]
    assert "list" not in asked
    assert len(asked) <= 6 * len(health.buckets)


def _counting(name: str, method: Callable[..., object], asked: list[str]) -> Callable[..., object]:
    def called(self: FolderBucket, *arguments: object, **options: object) -> object:
        asked.append(name)
        return method(self, *arguments, **options)

    return called


def test_health_names_what_does_not_answer_and_whether_changes_can_be_decided(
    store: skyhold.Store, scene: Scene
) -> None:
    scene.lose("b")
    health = store.health()
    assert (health.healthy, health.works, health.engine.quorum) == (False, True, "degraded")
    assert [bucket.name for bucket in health.buckets if bucket.error] == ["b"]
    scene.lose("c")
    health = store.health()
    assert (health.healthy, health.works, health.engine.quorum) == (False, False, "lost")
