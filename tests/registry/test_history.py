from __future__ import annotations

from dataclasses import replace

import pytest

from skyhold.errors import Corrupt, InvalidInput
from skyhold.registry.change import Attachment
from skyhold.registry.history import move_in, moves_reverse, ref_history, verify_history
from skyhold.registry.names import Ref, RefKind
from skyhold.registry.repository_register import RepositoryRegister
from skyhold.registry.snapshot import Snapshot
from skyhold.storage.blobs import MemoryBlobs
from skyhold.storage.canonical import Json, canonical
from skyhold.store.event import INLINE_BYTES_MAX, Event, Origin
from tests.registry.fixtures import CHAMPION, MAIN, ORIGIN, TIME, V1, change, digest, entry, move, new_repository


@pytest.fixture
def repository() -> RepositoryRegister:
    repository = new_repository()
    repository.apply(
        change(move(MAIN, "v1"), move(CHAMPION, "v1"), versions=(entry("v1"), entry("v2", "v1")), reason="start"), "a"
    )
    repository.apply(change(move(MAIN, "v2"), author="bob"), "b")
    repository.apply(change(move(CHAMPION, "v2")), "c")
    repository.apply(change(move(CHAMPION, None)), "d")
    repository.apply(
        change(move(CHAMPION, "v1"), reason="back", attachments=(Attachment(digest("v1"), "metric", "auc", 0.5),)), "e"
    )
    return repository


def test_history_of_a_ref_is_read_newest_first(repository: RepositoryRegister) -> None:
    snapshot = repository.read()
    assert [
        (found.event.sequence, found.old, found.new, found.event.origin, found.previous)
        for found in ref_history(snapshot, MAIN)
    ] == [
        (3, digest("v1"), digest("v2"), Origin("bob", TIME), 2),
        (2, None, digest("v1"), Origin("ann", TIME, "start"), None),
    ]
    champion = [(found.event.sequence, found.old, found.new) for found in ref_history(snapshot, CHAMPION)]
    v1, v2 = digest("v1"), digest("v2")
    assert champion == [(6, None, v1), (5, v2, None), (4, v1, v2), (2, None, v1)]
    assert list(ref_history(snapshot, V1)) == []


def test_all_events_are_read_in_order(repository: RepositoryRegister) -> None:
    log = repository.read().log
    assert [event.sequence for event in log.forward()] == [1, 2, 3, 4, 5, 6]
    assert [event.sequence for event in log.forward(after=4)] == [5, 6]
    assert [event.sequence for event in log.backward()] == [6, 5, 4, 3, 2, 1]
    assert [move.event.sequence for move in moves_reverse(repository.read())] == [6, 5, 4, 3, 2, 2]


def test_one_event_contains_all_that_changed_together(repository: RepositoryRegister) -> None:
    events = list(repository.read().log.forward())
    assert [[part["kind"] for part in event.what] for event in events] == [
        ["created"], ["version", "version", "ref", "ref"], ["ref"], ["ref"], ["ref"], ["ref", "attached"],
    ]  # fmt: skip
    assert events[5].what[1] == {"kind": "attached", "version": digest("v1"), "first": 1, "count": 1}


def test_change_that_changes_nothing_is_no_event(repository: RepositoryRegister) -> None:
    before = repository.read()
    assert repository.apply(change(move(MAIN, "v2")), "again").root == before.root
    assert repository.set_policy({}, ORIGIN, "policy").root == before.root
    assert repository.undelete(ORIGIN, "undelete").root == before.root


def test_policy_deletion_and_epoch_of_gc_are_events(repository: RepositoryRegister) -> None:
    by = Origin("eve", TIME, "tidying", actor="automation", group="ab" * 16)
    repository.set_policy({"copies": 1}, by, "f")
    repository.raise_gc_epoch(4, by, "g")
    repository.delete(by, "h")
    snapshot = repository.undelete(by, "i")
    events = list(snapshot.log.forward(after=6))
    assert [event.what for event in events] == [
        ({"kind": "policy", "policy": {"copies": 1}},), ({"kind": "gc_epoch", "epoch": 4},), ({"kind": "deleted"},),
        ({"kind": "undeleted"},),
    ]  # fmt: skip
    assert {event.origin for event in events} == {by}
    assert verify_history(snapshot) == 10


@pytest.mark.parametrize(
    "wrong", [{"actor": "A person"}, {"actor": ""}, {"group": "x"}, {"author": "a" * 257}, {"reason": "r" * 1025}]
)
def test_origin_that_a_reader_would_refuse_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        replace(ORIGIN, **wrong)


def test_event_too_long_for_the_map_is_a_blob(repository: RepositoryRegister) -> None:
    tags = [Ref(RefKind.TAG, f"release-{number}") for number in range(200)]
    snapshot = repository.apply(change(*(move(tag, "v1") for tag in tags)), "many")
    stored = snapshot.map.get("event/0000000000000007")
    assert isinstance(stored, dict)
    assert len(canonical(stored)) < INLINE_BYTES_MAX
    event = snapshot.log.read(7)
    assert [part["ref"] for part in event.what] == [str(tag) for tag in tags]
    assert move_in(event, tags[199]) is not None
    assert verify_history(snapshot) == 7


def test_intact_history_is_verified(repository: RepositoryRegister) -> None:
    assert verify_history(repository.read()) == 6
    assert verify_history(new_repository().read()) == 1


def forged(snapshot: Snapshot, key: str, value: object | None) -> Snapshot:
    """The same root over a map in which one entry was changed."""
    map_ = snapshot.map.update({key: value})
    return Snapshot(snapshot.root, snapshot.register_version, snapshot.blobs, map_)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("author", "eve"),
        ("what", []),
        ("time", "2020-01-01T00:00:00Z"),
        ("reason", "x"),
        ("actor", "automation"),
        ("group", "0" * 32),
        ("chain", "0" * 64),
    ],
)
def test_rewritten_event_breaks_the_chain_and_is_named(
    repository: RepositoryRegister, field: str, value: object
) -> None:
    snapshot = repository.read()
    record = snapshot.map.get("event/0000000000000003")
    assert isinstance(record, dict)
    with pytest.raises(Corrupt, match="at event 3"):
        verify_history(forged(snapshot, "event/0000000000000003", record | {field: value}))


def test_signature_is_kept_and_no_part_of_the_chain(repository: RepositoryRegister) -> None:
    snapshot = repository.read()
    record = snapshot.map.get("event/0000000000000003")
    assert isinstance(record, dict)
    signature: Json = {"key": "k", "value": "s"}
    signed = forged(snapshot, "event/0000000000000003", record | {"signature": signature})
    assert verify_history(signed) == 6
    assert signed.log.read(3).signature == signature


@pytest.mark.parametrize("sequence", [1, 3, 6])
def test_dropped_event_is_found(repository: RepositoryRegister, sequence: int) -> None:
    with pytest.raises(Corrupt, match="history"):
        verify_history(forged(repository.read(), f"event/{sequence:016x}", None))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ref/branch/main", {"version": digest("v1"), "event": 3}),
        ("ref/branch/main", {"version": digest("v1"), "event": 1}),
        ("ref/branch/main", None),
        ("ref/tag/v9", {"version": digest("v1"), "event": 1}),
        (f"version/{digest('v1')}", None),
        (f"version/{digest('v9')}", {}),
        (f"attached/{digest('v1')}/{1:016x}", None),
        (f"attached/{digest('v2')}/{1:016x}", {}),
        (f"pin/{digest('v1')}/x", {}),
        ("quota/x", {"bytes": 1}),
    ],
)
def test_entry_that_no_event_made_is_found(repository: RepositoryRegister, key: str, value: Json | None) -> None:
    with pytest.raises(Corrupt, match="history"):
        verify_history(forged(repository.read(), key, value))


def test_part_of_an_unknown_kind_is_kept(repository: RepositoryRegister) -> None:
    snapshot = repository.read()
    later = snapshot.after(ORIGIN, [{"kind": "quota", "bytes": 5}], {})
    assert verify_history(later) == 7
    event = later.log.read(7)
    assert isinstance(event, Event)
    assert event.what == ({"kind": "quota", "bytes": 5},)


@pytest.mark.parametrize("text", ["\n" * 512, '"' * 512, "\x01" * 170, "ü" * 512, "x" * 1024])
def test_longest_reason_and_author_fit_an_event(repository: RepositoryRegister, text: str) -> None:
    author = text[:42]
    snapshot = repository.apply(change(move(CHAMPION, "v2"), author=author, reason=text), "long")
    assert snapshot.log.read(snapshot.root.events).origin == Origin(author, TIME, text)
    assert verify_history(snapshot) == snapshot.root.events
    with pytest.raises(InvalidInput, match="as JSON"):
        Origin(author, TIME, text + text)


def test_lost_event_hides_no_version_that_others_have_entered() -> None:
    blobs = MemoryBlobs()
    repository = new_repository(blobs=blobs)
    many = tuple(entry(f"m{number}") for number in range(9))  # an event that is too long for the map
    repository.apply(change(versions=(entry("first"),)), "a")
    repository.apply(change(versions=many), "b")
    snapshot = repository.apply(change(versions=(entry("last"),)), "c")
    assert len(list(snapshot.versions())) == len(snapshot.version_entries()) == 11
    (lost,) = [place for place in blobs.bodies if place[0] == "records"]
    blobs.bodies[lost] = b"{}"
    found: list[str] = []
    with pytest.raises(Corrupt):
        found.extend(version.digest for version in repository.read().versions())
    assert found == [digest("first"), digest("last")]


class CountingBlobs(MemoryBlobs):
    reads = 0

    def read(self, folder: str, name: str) -> bytes:
        self.reads += 1
        return super().read(folder, name)


def test_time_of_the_last_version_is_found_however_many_refs_moved_since() -> None:
    blobs = CountingBlobs()
    repository = new_repository(blobs=blobs)
    later = "2026-11-24T00:00:00Z"
    repository.apply(change(move(MAIN, "one"), versions=(entry("one"),)), "one")
    repository.apply(change(versions=(entry("two", time=later),)), "two")
    reads = []
    for number in range(400):
        repository.apply(change(move(CHAMPION, ("one", "two")[number % 2])), f"move-{number}")
        if number in {99, 399}:
            before = blobs.reads
            snapshot = repository.read()
            assert snapshot.last_entered(snapshot.version_entries()) == later
            reads.append(blobs.reads - before)
    assert reads[1] <= reads[0] + 1  # the map is one node higher
