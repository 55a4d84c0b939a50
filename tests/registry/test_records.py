"""Typed records, what follows a ref, and pins: planned with the change, in the same compare-and-set."""

from __future__ import annotations

import random
import re

import pytest

from skyhold.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from skyhold.registry.change import RefUpdate
from skyhold.registry.deleted_version import DELETED
from skyhold.registry.following import FOLLOW, PIN, Follow, Pin, follows, left_behind, pins
from skyhold.registry.history import verify_history
from skyhold.registry.repository_register import RepositoryRegister
from skyhold.registry.snapshot import Snapshot
from skyhold.storage.canonical import Json
from skyhold.store.record import RECORD_BYTES_MAX, RecordKind, RecordUpdate, blobs_of, records_of
from tests.registry.fixtures import CHAMPION, MAIN, ORIGIN, TIME, change, digest, entry, move, new_repository

SCORER, OTHER = "5c" * 16, "0a" * 16


def _check_quota(id_: str, value: Json) -> None:
    if not isinstance(value.get("bytes"), int):
        raise InvalidInput(f"Expected bytes of quota/{id_} but got {value}", code="invalid_record")


QUOTA = RecordKind("quota", re.compile(r"[a-z]+"), _check_quota)
"""A kind that is unknown to the planner."""


@pytest.fixture
def repository() -> RepositoryRegister:
    """`main` and `champion` point to v1; v2 descends from it."""
    repository = new_repository()
    repository.apply(change(move(MAIN, "v1"), move(CHAMPION, "v1"), versions=(entry("v1"), entry("v2", "v1"))), "a")
    return repository


def follow(id_: str = SCORER, ref: object = CHAMPION, mode: str = "follow", target: str | None = None) -> RecordUpdate:
    return RecordUpdate(FOLLOW, id_, {"ref": str(ref), "mode": mode, "target": target and digest(target)})


def target(snapshot: Snapshot, id_: str = SCORER) -> str | None:
    return next(found.target for found in follows(snapshot.map) if found.id == id_)


def test_record_of_a_kind_of_a_floor_above_is_set_changed_and_deleted(repository: RepositoryRegister) -> None:
    made = repository.apply(change(records=(RecordUpdate(QUOTA, "disk", {"bytes": 5}),)), "b")
    assert list(records_of(made.map, QUOTA)) == [("disk", {"bytes": 5})]
    newer = RecordUpdate(QUOTA, "disk", {"bytes": 6}, expected={"bytes": 5})
    assert list(records_of(repository.apply(change(records=(newer,)), "c").map, QUOTA)) == [("disk", {"bytes": 6})]
    with pytest.raises(Conflict, match="quota/disk was changed"):
        repository.apply(change(records=(newer,)), "d")
    after = repository.apply(change(records=(RecordUpdate(QUOTA, "disk", None),)), "e")
    assert list(records_of(after.map, QUOTA)) == []
    with pytest.raises(NotFound, match="quota/disk"):
        repository.apply(change(records=(RecordUpdate(QUOTA, "disk", None),)), "f")
    assert verify_history(after) == 5


@pytest.mark.parametrize(
    ("id_", "value"),
    [
        ("disk", {"bytes": "5"}),
        ("DISK", {"bytes": 5}),
        ("disk", {"bytes": 5, "why": "x" * RECORD_BYTES_MAX}),
        ("disk", {"bytes": 5, "blobs": ["0" * 64]}),
        ("disk", {"bytes": 5, "blobs": {"spec": "x"}}),
        ("disk", {"bytes": 5, "blobs": {f"b{n}": "0" * 64 for n in range(9)}}),
        ("disk", {"bytes": 5, "why": float("nan")}),
    ],
)
def test_record_that_is_wrong_is_refused_as_it_is_made(id_: str, value: Json) -> None:
    with pytest.raises(InvalidInput):
        RecordUpdate(QUOTA, id_, value)


def test_bodies_of_records_are_named_and_fenced_by_the_epoch_of_gc(repository: RepositoryRegister) -> None:
    update = RecordUpdate(QUOTA, "disk", {"bytes": 5, "blobs": {"spec": "ab" * 32}})
    with pytest.raises(InvalidInput, match="gc epoch"):
        change(records=(update,), gc_epoch=None)  # type: ignore[arg-type]
    made = repository.apply(change(records=(update,)), "b")
    assert [blob for key, value in made.map.scan() for blob in blobs_of(key, value)] == ["ab" * 32]


def test_one_change_names_a_record_once(repository: RepositoryRegister) -> None:
    with pytest.raises(InvalidInput, match="one record twice"):
        change(records=(follow(), follow()))


def test_target_advances_with_the_ref_for_any_client(repository: RepositoryRegister) -> None:
    repository.apply(change(records=(follow(), follow(OTHER, MAIN))), "follow")
    assert (target(repository.read()), target(repository.read(), OTHER)) == (digest("v1"), digest("v1"))
    after = repository.apply(change(move(CHAMPION, "v2")), "promote")
    assert (target(after), target(after, OTHER)) == (digest("v2"), digest("v1"))
    (ref, advanced) = after.log.read(after.root.events).what
    assert ref["kind"] == "ref"
    assert (advanced["record"], advanced["old"], advanced["new"]) == (f"follow/{SCORER}", digest("v1"), digest("v2"))
    back = repository.apply(change(move(CHAMPION, "v1")), "rollback")
    assert target(back) == digest("v1")
    assert verify_history(back) == back.root.events


def test_push_of_a_followed_branch_advances_the_target_to_the_new_version(repository: RepositoryRegister) -> None:
    repository.apply(change(records=(follow(ref=MAIN),)), "follow")
    after = repository.apply(change(move(MAIN, "v3"), versions=(entry("v3", "v1"),)), "push")
    assert target(after) == digest("v3")


def test_held_target_stays_and_catches_up_when_it_follows_again(repository: RepositoryRegister) -> None:
    repository.apply(change(records=(follow(mode="hold", target="v1"),)), "hold")
    assert target(repository.apply(change(move(CHAMPION, "v2")), "promote")) == digest("v1")
    assert target(repository.apply(change(records=(follow(target="v1"),)), "again")) == digest("v2")


def test_ref_that_never_existed_has_no_target_until_it_is_created(repository: RepositoryRegister) -> None:
    challenger = type(CHAMPION)(CHAMPION.kind, "challenger")
    assert target(repository.apply(change(records=(follow(ref=challenger),)), "follow")) is None
    assert target(repository.apply(change(move(challenger, "v2")), "made")) == digest("v2")


def test_followed_ref_is_deleted_only_by_force(repository: RepositoryRegister) -> None:
    repository.apply(change(records=(follow(),)), "follow")
    with pytest.raises(Conflict, match=f"{SCORER} follows it") as refused:
        repository.apply(change(move(CHAMPION, None)), "delete")
    assert refused.value.code == "ref_followed"
    assert target(repository.apply(change(move(CHAMPION, None, force=True)), "force")) == digest("v1")


def test_mode_of_a_later_release_is_kept_and_its_target_stays(repository: RepositoryRegister) -> None:
    made = repository.apply(change(records=(follow(),)), "follow")
    value = Follow(SCORER, CHAMPION, "shadow", digest("v1")).to_json()
    later = made.after(ORIGIN, [{"kind": "record", "record": f"follow/{SCORER}", "sha256": None}],
                       {f"follow/{SCORER}": value})  # fmt: skip
    assert [found.mode for found in follows(later.map)] == ["shadow"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"ref": "champion", "mode": "follow", "target": None},
        {"ref": "alias/champion", "mode": "sometimes", "target": None},
        {"ref": "alias/champion", "mode": "follow", "target": "v1"},
        {"ref": "alias/champion", "mode": "follow"},
        {"ref": "alias/champion", "mode": "follow", "target": None, "more": 1},
    ],
)
def test_follow_that_no_reader_understands_is_refused(wrong: Json) -> None:
    with pytest.raises(InvalidInput):
        RecordUpdate(FOLLOW, SCORER, wrong)


def test_target_and_pin_name_versions_of_the_repository(repository: RepositoryRegister) -> None:
    for update in (follow(mode="hold", target="absent"), RecordUpdate(PIN, f"{digest('absent')}/x", {})):
        with pytest.raises(NotFound, match="not in the repository"):
            repository.apply(change(records=(update,)), "absent")


def test_pins_are_listed_by_version_and_holder(repository: RepositoryRegister) -> None:
    v1, v2 = digest("v1"), digest("v2")
    made = repository.apply(
        change(records=tuple(RecordUpdate(PIN, id_, {}) for id_ in (f"{v1}/repository:1", f"{v1}/a", f"{v2}/b"))), "pin"
    )
    assert list(pins(made.map, v1)) == [Pin(v1, "a"), Pin(v1, "repository:1")]
    assert {pin.holder for pin in pins(made.map)} == {"a", "repository:1", "b"}


def test_repository_in_use_is_deleted_only_by_force(repository: RepositoryRegister) -> None:
    repository.apply(change(records=(follow(), RecordUpdate(PIN, f"{digest('v1')}/other", {}))), "wanted")
    with pytest.raises(Conflict) as refused:
        repository.delete(ORIGIN, "delete")
    assert refused.value.code == "repository_wanted"
    assert refused.value.fields["wanted"] == [
        f"{SCORER} follows alias/champion",
        f"other has pinned version {digest('v1')[:10]}",
    ]
    assert repository.read().root.deleted is None
    assert repository.delete(ORIGIN, "force", force=True).root.deleted == TIME


def test_follow_without_a_target_keeps_nothing_alive(repository: RepositoryRegister) -> None:
    repository.apply(change(records=(follow(ref=type(CHAMPION)(CHAMPION.kind, "challenger")),)), "follow")
    assert repository.delete(ORIGIN, "delete").root.deleted == TIME


def test_deleted_version_is_distinguished_from_one_that_never_existed(repository: RepositoryRegister) -> None:
    record = {"author": "eve", "time": TIME, "reason": "trained on private data"}
    with pytest.raises(AlreadyExists, match="is in the repository"):
        repository.apply(change(records=(RecordUpdate(DELETED, digest("v2"), record),)), "early")
    gone = repository.read().after(
        ORIGIN,
        [{"kind": "record", "record": f"deleted/{digest('v2')}", "sha256": None}],
        {f"version/{digest('v2')}": None, f"deleted/{digest('v2')}": record},
    )
    with pytest.raises(NotFound, match=r"deleted by eve at .* because: trained on private data") as refused:
        gone.version(digest("v2"))
    assert refused.value.code == "version_deleted"
    with pytest.raises(NotFound) as unknown:
        gone.version(digest("never"))
    assert unknown.value.code == "version_not_found"


@pytest.mark.parametrize("seed", range(20))
def test_targets_are_where_their_refs_point_after_any_moves(seed: int) -> None:
    """A model beside it: every follow in mode `follow` has the version of its ref, or the last that it had."""
    dice = random.Random(seed)
    repository = new_repository()
    versions = [f"v{number}" for number in range(6)]
    repository.apply(change(versions=tuple(entry(name) for name in versions)), "versions")
    refs = [type(CHAMPION)(CHAMPION.kind, f"a{number}") for number in range(3)]
    pointing: dict[object, str] = {}
    model: dict[str, tuple[object, str, str | None]] = {}
    for step in range(30):
        records: list[RecordUpdate] = []
        moves: list[RefUpdate] = []
        for ref in dice.sample(refs, dice.randrange(3)):
            to = dice.choice([*versions, None])
            if to is not None or ref in pointing:
                moves.append(move(ref, to, force=True))
                pointing.pop(ref, None)
                if to is not None:
                    pointing[ref] = to
        if dice.random() < 0.4:
            id_, ref, mode = f"{dice.randrange(4):032x}", dice.choice(refs), dice.choice(["follow", "hold"])
            held = dice.choice(versions)
            records.append(follow(id_, ref, mode, held))
            model[id_] = (ref, mode, held)
        for id_, (ref, mode, held) in model.items():
            if mode == "follow" and ref in pointing:
                model[id_] = (ref, mode, pointing[ref])
            else:
                model[id_] = (ref, mode, held)
        snapshot = repository.apply(change(*moves, records=tuple(records)), f"step-{step}")
        found = {item.id: item.target for item in follows(snapshot.map)}
        assert found == {id_: held and digest(held) for id_, (_, _, held) in model.items()}, f"seed {seed}, step {step}"
    assert verify_history(repository.read()) == repository.read().root.events


def test_record_that_follows_a_ref_has_its_target_at_once_and_a_stale_one_changes_nothing(
    repository: RepositoryRegister,
) -> None:
    made = repository.apply(change(move(CHAMPION, "v2"), records=(follow(target="v1"),)), "follow")
    assert target(made) == digest("v2")
    assert [part["record"] for part in made.log.read(made.root.events).what if part["kind"] == "record"] == [
        f"follow/{SCORER}"
    ]
    assert verify_history(made) == made.root.events
    again = repository.apply(change(records=(follow(target="v1"),)), "stale")
    assert again.root == made.root


def test_lagging_target_is_found(repository: RepositoryRegister) -> None:
    made = repository.apply(change(records=(follow(), follow(OTHER, MAIN, mode="hold", target="v1"))), "follow")
    assert list(left_behind(made.map)) == []
    event = made.root.events + 1
    what: Json = {"kind": "ref", "ref": "alias/champion", "old": digest("v1"), "new": digest("v2"), "previous": 2}
    old = made.after(ORIGIN, [what], {"ref/alias/champion": {"version": digest("v2"), "event": event}})
    assert [found.id for found in left_behind(old.map)] == [SCORER]


def test_deleted_version_is_reported_by_every_lookup(repository: RepositoryRegister) -> None:
    gone = digest("gone")
    record = RecordUpdate(DELETED, gone, {"author": "eve", "time": TIME, "reason": "licence"})
    snapshot = repository.apply(change(records=(record,)), "delete")
    for reference in (gone, gone[:40], gone[:8]):
        with pytest.raises(NotFound, match=r"deleted by eve at .* because: licence") as refused:
            snapshot.resolve(reference)
        assert refused.value.code == "version_deleted"
    with pytest.raises(NotFound) as refused:
        snapshot.resolve("0" * 40)
    assert refused.value.code == "ref_not_found"
