"""Watching a repository: every event once and in order, across moves, and with few requests while nothing changes."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import pytest

import skyhold
from skyhold.buckets.folder import FolderBucket
from skyhold.errors import InvalidInput
from skyhold.registry.events import watch_document
from skyhold.registry.views import EventView
from skyhold.storage.policy import Policy
from skyhold.store import bell, watching
from skyhold.store.document import DocumentChange
from skyhold.store.documents import DocumentKind, Documents
from skyhold.store.record import RecordKind, RecordUpdate
from skyhold.store.watching import ResyncNeeded
from tests.endtoend.machines import Machine, Scene
from tests.endtoend.stores import catch_up, push

POOL = RecordKind("pool", re.compile(r"[a-z0-9-]+"), lambda _id, _value: None)
ID = "cd" * 16
Watch = Callable[[threading.Event], Iterator[EventView | ResyncNeeded]]


class Watcher:
    """A thread that watches; `seen` is what came, `wait_for` waits for so many."""

    def __init__(self, watch: Watch) -> None:
        self.seen: list[EventView | ResyncNeeded] = []
        self.error: BaseException | None = None
        self.stop = threading.Event()
        self.began = threading.Event()
        """From here on no event is missed."""
        self._came = threading.Condition()
        self._thread = threading.Thread(target=self._run, args=(watch,))
        self._thread.start()

    def _run(self, watch: Watch) -> None:
        try:
            events = watch(self.stop)
            self.began.set()
            for event in events:
                with self._came:
                    self.seen.append(event)
                    self._came.notify_all()
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.error = error

    def wait_for(self, count: int, timeout_s: float = 20.0) -> list[EventView | ResyncNeeded]:
        with self._came:
            self._came.wait_for(lambda: len(self.seen) >= count or self.error, timeout_s)
        if self.error is not None:
            raise self.error
        return list(self.seen)

    def end(self) -> None:
        self.stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()


def watching_of(
    repository: skyhold.Repository, after: EventView | int | None = None
) -> AbstractContextManager[Watcher]:
    return watcher_of(lambda stop: repository.watch(after, stop=stop))


@contextmanager
def watcher_of(watch: Watch) -> Iterator[Watcher]:
    watcher = Watcher(watch)
    watcher.began.wait(20)
    try:
        yield watcher
    finally:
        watcher.end()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LISTEN_INTERVAL_S", 0.1)
    monkeypatch.setattr(bell, "RING_INTERVAL_S", 0.05)


@pytest.fixture(params=["buckets", "sqlite"])
def pushed(request: pytest.FixtureRequest, scene: Scene) -> Iterator[str]:
    with scene.machine.at_work(), skyhold.init(scene.clouds(), engine=request.param) as store:
        yield push(store, scene, 1)


def sequences(seen: list[EventView | ResyncNeeded]) -> list[int]:
    return [event.sequence for event in seen]


def test_events_of_the_past_and_those_that_come_are_seen_once_and_in_order(scene: Scene, pushed: str) -> None:
    with (
        skyhold.open(str(scene.cloud("b"))) as store,
        skyhold.open(str(scene.cloud("c"))) as other,
        watching_of(store.repository("team/m"), after=0) as watcher,
    ):
        assert sequences(watcher.wait_for(2)) == [1, 2]
        repository = other.repository("team/m")
        for number in range(5):
            repository.set_refs({f"alias/a{number}": "main"}, reason=f"step {number}")
        seen = watcher.wait_for(7)
    assert sequences(seen) == list(range(1, 8))
    assert [event.reason for event in seen[2:] if isinstance(event, EventView)] == [f"step {n}" for n in range(5)]


def test_long_history_whose_map_has_nodes_is_watched_from_its_first_event(
    scene: Scene, pushed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "EVENTS_AT_ONCE", 16)
    with skyhold.open(str(scene.cloud("b"))) as store:
        repository = store.repository("team/m")
        for number in range(60):
            repository.set_refs({f"alias/x-{number}": "main"})
        with watching_of(repository, after=0) as watcher:
            assert sequences(watcher.wait_for(62)) == list(range(1, 63))
            repository.set_refs({"alias/y": "main"})
            assert sequences(watcher.wait_for(63)) == list(range(1, 64))


def test_from_now_on_nothing_of_the_past_is_seen(scene: Scene, pushed: str) -> None:
    with skyhold.open(str(scene.cloud("b"))) as store, watching_of(store.repository("team/m")) as watcher:
        store.repository("team/m").set_refs({"alias/new": "main"})
        assert sequences(watcher.wait_for(1)) == [3]


def test_watch_goes_on_across_a_move_of_the_store(scene: Scene, ada: Machine, ben: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 1)
        with watching_of(store.repository("team/m"), after=2) as watcher:
            with ben.at_work(), skyhold.open(str(scene.cloud("b"))) as other:
                other.add_bucket("d", str(scene.cloud("d")))
                other.repository("team/m").set_refs({"alias/x": "main"})
                other.remove_bucket("a", force=True)
                other.repository("team/m").set_refs({"alias/y": "main"})
                other.set_roles({"d": "packs"})
                other.repository("team/m").set_refs({"alias/z": "main"})
            assert sequences(watcher.wait_for(3, 60)) == [3, 4, 5]


def test_whole_store_is_watched_configuration_names_and_what_appears(scene: Scene, pushed: str) -> None:
    with (
        skyhold.open(str(scene.cloud("b"))) as store,
        watcher_of(lambda stop: store.watch(stop=stop)) as watcher,
    ):
        store.add_bucket("d", str(scene.cloud("d")), reason="more room")
        store.create_repository("team/new", reason="a new model")
        seen = watcher.wait_for(4, 60)
    found = {(event.register, event.reason) for event in seen if isinstance(event, EventView)}
    assert found == {("config", "more room"), ("names", "a new model"), ("team/new", "a new model")}


def test_document_is_watched_as_a_repository_is(scene: Scene, pushed: str) -> None:
    with skyhold.open(str(scene.cloud("b"))) as store, store._connection.session(Policy()) as session:
        documents = Documents(session.registers, session.blobs, DocumentKind("cluster", (POOL,)))
        origin = store._connection.origin()
        documents.create("prod", ID, origin, "make")
        with watcher_of(lambda stop: watch_document(store._connection, "cluster", "prod", ID, 0, stop=stop)) as watcher:
            for number in range(3):
                update = RecordUpdate(POOL, f"p{number}", {})
                documents.apply(ID, DocumentChange(origin, (update,)), f"change-{number}")
            seen = watcher.wait_for(4)
    assert [(event.register, event.sequence) for event in seen if isinstance(event, EventView)] == [
        ("cluster/prod", number) for number in range(1, 5)
    ]


def test_watch_goes_on_after_an_event_or_reports_that_it_is_gone(scene: Scene, pushed: str) -> None:
    with skyhold.open(str(scene.cloud("b"))) as store:
        repository = store.repository("team/m")
        last = repository.events(limit=1)[0]
        repository.set_refs({"alias/x": "main"})
        with watching_of(repository, after=last) as watcher:
            assert sequences(watcher.wait_for(1)) == [last.sequence + 1]
        newest = repository.events(limit=1)[0]
        gone = ResyncNeeded("team/m", newest.sequence, newest.chain)
        other = replace(last, chain="0" * 64)
        with watching_of(repository, after=other) as watcher:
            assert watcher.wait_for(1) == [gone]
        with watching_of(repository, after=99) as watcher:
            assert watcher.wait_for(1) == [gone]
        with watcher_of(lambda stop: repository.watch((last.sequence, "0" * 64), stop=stop)) as watcher:
            assert watcher.wait_for(1) == [gone]
        with pytest.raises(InvalidInput):
            repository.watch(-1)


def test_deleted_repository_that_comes_back_is_not_reported_again_and_has_its_new_name(
    scene: Scene, ada: Machine
) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 1)
        store.delete_repository("team/m")
        with watcher_of(lambda stop: store.watch(stop=stop)) as watcher:
            store.undelete_repository("team/m")
            watcher.wait_for(2)
            store.rename_repository("team/m", "team/n")
            watcher.wait_for(3)
            time.sleep(0.3)
            store.repository("team/n").set_refs({"alias/x": "main"})
            seen = watcher.wait_for(4)
    reported = [(event.register, event.sequence) for event in seen if isinstance(event, EventView)]
    assert sorted(reported) == sorted([("names", 4), ("team/m", 4), ("names", 5), ("team/n", 5)])


def test_damaged_register_hides_no_other_from_a_watch_of_the_store(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 1)
        push(store, scene, 2, "team/other")
        catch_up(store)
        other = store.repository("team/other").id
        for name in "ab":
            (scene.cloud(name) / "registers" / "00000001" / f"repository-{other}").write_bytes(b"nonsense")
        with watcher_of(lambda stop: store.watch(stop=stop)) as watcher:
            store.repository("team/m").set_refs({"alias/x": "main"})
            seen = watcher.wait_for(1)
        assert [event.register for event in seen] == ["team/m"]
        assert [unread.name for unread in store.unread] == ["team/other"]


def test_register_that_changes_often_starves_no_other(
    scene: Scene, ada: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rings of one register are lost; it is read all the same, while the other rings again and again."""
    monkeypatch.setattr(watching, "READ_INTERVAL_S", 1.0)
    with skyhold.open(str(scene.cloud("a"))) as store:
        for name in ("team/busy", "team/quiet"):
            push(store, scene, 1, name)
        quiet = f"repository/{store.repository('team/quiet').id}"
        ring = bell.Bell.ring
        monkeypatch.setattr(bell.Bell, "ring", lambda self, key, version: key == quiet or ring(self, key, version))
        with watcher_of(lambda stop: store.watch(stop=stop)) as watcher:
            moves = 0

            def keep_busy(until: Callable[[], bool]) -> None:
                nonlocal moves
                deadline_s = time.monotonic() + 20
                while time.monotonic() < deadline_s and not until() and watcher.error is None:
                    moves += 1
                    store.repository("team/busy").set_refs({f"alias/x-{moves}": "main"})

            keep_busy(lambda: bool(watcher.seen))
            store.repository("team/quiet").set_refs({"alias/x": "main"})
            keep_busy(lambda: "team/quiet" in {event.register for event in watcher.seen})
            watcher.wait_for(0)
        assert "team/quiet" in {event.register for event in watcher.seen}


def test_bucket_that_hangs_when_it_is_rung_blocks_no_process(
    scene: Scene, ada: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 1)
    released, read = threading.Event(), FolderBucket.read_tagged

    def hanging(self: FolderBucket, key: str, **options: object) -> object:
        if key == "bell" and self.name == "c":
            released.wait(60)
        return read(self, key, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FolderBucket, "read_tagged", hanging)
    monkeypatch.setattr(bell, "RING_S_MAX", 0.2)
    with skyhold.open(str(scene.cloud("a"))) as store:
        store.repository("team/m").set_refs({"alias/x": "main"})
    assert not released.is_set()
    assert any(thread.name == bell.BELL and thread.daemon for thread in threading.enumerate())
    released.set()


def test_lost_bell_is_made_up_for_by_reading_now_and_then(
    scene: Scene, ada: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "READ_INTERVAL_S", 0.5)
    monkeypatch.setattr(bell.Bell, "ring", lambda _self, _key, _version: None)
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 1)
        with watching_of(store.repository("team/m"), after=2) as watcher:
            store.repository("team/m").set_refs({"alias/x": "main"})
            assert sequences(watcher.wait_for(1)) == [3]


@pytest.mark.parametrize("body", [b"", b"nonsense", bytes(100)])
def test_forged_bell_only_costs_requests(scene: Scene, ada: Machine, body: bytes) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 1)
        for name in "abc":
            (scene.cloud(name) / "bell").write_bytes(body)
        with watching_of(store.repository("team/m"), after=2) as watcher:
            store.repository("team/m").set_refs({"alias/x": "main"})
            assert sequences(watcher.wait_for(1)) == [3]


def test_ring_of_a_version_that_never_comes_is_answered_once(
    scene: Scene, ada: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 1)
        repository = store.repository("team/m")
        rings = {f"repository/{repository.id}": 2**50}
        forged = bell.encode_bell(rings, store.id, store._connection.keys)
        reads: list[str] = []
        read = type(store._connection.registers).read

        def counted(self: object, key: str) -> object:
            reads.append(key)
            return read(self, key)  # type: ignore[arg-type]

        with watching_of(repository, after=2):
            time.sleep(0.5)
            for name in "abc":
                (scene.cloud(name) / "bell").write_bytes(forged)
            monkeypatch.setattr(type(store._connection.registers), "read", counted)
            time.sleep(1.5)
    assert 1 <= len(reads) <= 3


def test_watcher_ends_when_it_is_stopped(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 1)
        with watching_of(store.repository("team/m")):
            time.sleep(0.3)  # and the end of the block waits for the thread


def test_idle_watch_of_many_repositories_asks_one_bucket_once_an_interval(
    scene: Scene, ada: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        names = [f"team/m{number}" for number in range(6)]
        for name in names:
            store.create_repository(name)
        asked: Counter[str] = Counter()
        read = FolderBucket.read_tagged

        def counted(self: FolderBucket, key: str, **options: object) -> object:
            asked[key] += 1
            return read(self, key, **options)  # type: ignore[arg-type]

        watchers = [Watcher(lambda stop, name=name: store.repository(name).watch(stop=stop)) for name in names]
        time.sleep(0.8)
        monkeypatch.setattr(FolderBucket, "read_tagged", counted)
        began_s = time.monotonic()
        time.sleep(1.5)
        counted_then = dict(asked)  # before the clock is read: what comes between the two is not counted
        intervals = (time.monotonic() - began_s) / watching.LISTEN_INTERVAL_S
        for watcher in watchers:
            watcher.stop.set()
        for watcher in watchers:
            watcher.end()
    assert set(counted_then) == {"bell"}
    assert counted_then["bell"] <= intervals + 1


def test_without_listeners_nothing_is_written(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 1)
    assert not any((scene.cloud(name) / "bell").exists() for name in "abc")
    with skyhold.open(str(scene.cloud("a"))) as store:
        assert store.verify(deep=True).sound
