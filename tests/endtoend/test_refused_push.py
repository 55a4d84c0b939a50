"""What is wrong with a push is found before a byte of it is sent, by a dry run as well; and a push that fails leaves
nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyhold.errors import AlreadyExists, InvalidInput, NotFound, SkyholdError
from skyhold.registry.store import Store
from tests.cli.models import write_model
from tests.endtoend.machines import Scene
from tests.endtoend.stores import catch_up

REPOSITORY = "fraud/scorer"
WRONG: list[dict[str, Any]] = [
    {"tags": "v2"},
    {"aliases": "live"},
    {"data": "s3://data"},
    {"code": "git://code"},
    {"notes": "a note"},
    {"tags": ["bad..name"]},
    {"tags": ["2026"]},
    {"aliases": ["c0ffee"]},
    {"branch": "deadbeef"},
    {"branch": "alias/x"},
    {"branch": None},
    {"branch": ""},
    {"aliases": ["not an alias"]},
    {"tags": ["v2", "v2"]},
    {"tags": ["main"]},
    {"tags": ["champion"]},
    {"aliases": ["v1"]},
    {"tags": ["v1"]},
    {"metrics": {"odd name": 1.0}},
    {"metrics": {"accuracy": "high"}},
    {"metrics": {"accuracy": None}},
    {"metrics": {"accuracy": 10**400}},
    {"metrics": {"accuracy": float("nan")}},
    {"metrics": ["accuracy"]},
    {"notes": ["x" * (2 << 20)]},
    {"message": "x" * (65 << 10)},
    {"message": None},
    {"message": "\ud800"},
    {"author": "x" * 257},
    {"author": 3},
    {"parameters": {"lr": object()}},
    {"parameters": {"lr": "x" * (2 << 20)}},
    {"metadata": {1: 2}},
    {"expected_parent": "main"},
    {"base": "no reference"},
    {"base": "fraud/other"},
    {"base": 3},
]


def keys(scene: Scene) -> set[str]:
    """The objects in all clouds."""
    paths = (path for cloud in scene.clouds() for path in Path(cloud).rglob("*") if path.is_file())
    return {str(path) for path in paths if ".skyhold" not in path.parts}


@pytest.fixture
def changed(scene: Scene, store: Store) -> Path:
    """A model that the store does not have."""
    return write_model(scene.place / "changed", seed=7, rows=64)


@pytest.mark.parametrize(
    "wrong", WRONG, ids=lambda wrong: f"{next(iter(wrong))}={str(next(iter(wrong.values())))[:20]}"
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_push_that_cannot_be_committed_is_refused_before_anything_is_sent(
    scene: Scene, store: Store, changed: Path, wrong: dict[str, Any], dry_run: bool
) -> None:
    catch_up(store)
    before = keys(scene)
    with pytest.raises((InvalidInput, AlreadyExists, NotFound)) as refused:
        store.repository(REPOSITORY).push(changed, dry_run=dry_run, **wrong)
    assert refused.value.exit_status in {2, 3, 4}
    assert keys(scene) == before


def test_tag_that_stays_with_the_same_version_is_no_conflict(store: Store, model: Path, changed: Path) -> None:
    repository = store.repository(REPOSITORY)
    first = repository.push(model, message="One", tags=["again"])
    for dry_run in (True, False):
        repeated = repository.push(model, message="One", tags=["again"], dry_run=dry_run)
        assert repeated.stored_bytes == 0
    assert repeated.unchanged
    assert repeated.version == first.version
    with pytest.raises(AlreadyExists, match="never moves"):
        repository.push(model, message="Two", tags=["again"])


def test_numbers_of_numpy_are_kept_as_numbers(store: Store, model: Path) -> None:
    repository = store.repository(REPOSITORY)
    repository.push(
        model, metrics={"accuracy": np.float32(0.5)}, parameters={"layers": np.int64(3), "rates": [np.float64(0.25)]}
    )
    shown = repository.show()
    assert shown.metrics == {"accuracy": 0.5}
    assert shown.parameters == {"layers": 3, "rates": [0.25]}


def test_push_that_fails_leaves_no_repository_behind(scene: Scene, store: Store, changed: Path) -> None:
    with pytest.raises(InvalidInput):
        store.repository("team/new", create=True).push(changed, tags=["bad..name"])
    with pytest.raises(NotFound):
        store.repository("team/new", create=True).push(scene.place / "nothing")
    with pytest.raises(NotFound):
        store.repository("team/new", create=True).push(changed, base="team/none")
    for cloud in ("b", "c"):  # which take registers, but no pack any more
        (scene.cloud(cloud) / "packs").rename(scene.place / f"packs-{cloud}")
        (scene.cloud(cloud) / "packs").touch()
    with pytest.raises(SkyholdError) as failed:
        store.repository("team/new", create=True).push(changed)
    assert failed.value.code == "not_durable"
    assert "team/new" not in store.repository_names()


def test_first_push_makes_the_repository(store: Store, changed: Path) -> None:
    repository = store.repository("team/new", create=True)
    assert "team/new" not in store.repository_names()
    repository.push(changed, dry_run=True)
    assert "team/new" not in store.repository_names()
    pushed = repository.push(changed, message="First")
    assert store.repository("team/new").show().digest == pushed.version
    assert len(repository.log()) == 1


def test_two_first_pushes_meet_in_one_repository(store: Store, model: Path, changed: Path) -> None:
    one, other = (store.repository("team/new", create=True) for _ in range(2))
    one.push(model, message="One")
    other.push(changed, message="Two")
    assert [entry.message for entry in store.repository("team/new").log()] == ["Two", "One"]


def test_new_branch_begins_at_main(store: Store, model: Path, changed: Path) -> None:
    repository = store.repository(REPOSITORY)
    main = repository.show().digest
    pushed = repository.push(changed, message="Try", branch="experiment")
    assert not pushed.unchanged
    assert [entry.digest for entry in repository.log("experiment")] == [pushed.version, main]
    same = repository.push(model, message="One", branch="same")
    assert same.version == main
    assert repository.show("same").digest == main


def test_expected_parent_may_be_given_by_the_beginning_of_its_id(store: Store, changed: Path) -> None:
    repository = store.repository(REPOSITORY)
    main = repository.show().digest
    pushed = repository.push(changed, expected_parent=main[:10])
    with pytest.raises(SkyholdError) as refused:
        repository.push(changed, message="Late", expected_parent=main[:10])
    assert refused.value.code == "ref_moved"
    repository.push(changed, message="In time", expected_parent=pushed.version)


def test_full_name_of_a_ref_is_a_reference(store: Store) -> None:
    repository = store.repository(REPOSITORY)
    digests = {repository.show(name).digest for name in ("champion", "alias/champion", "tag/v1", "branch/main")}
    assert digests == {repository.show().digest}
    with pytest.raises(NotFound):
        repository.show("tag/champion")


@pytest.mark.parametrize("kind", ["branch", "tag", "alias"])
@pytest.mark.parametrize("name", ["beef", "2026", "0" * 63, "c0ffee"])
def test_ref_that_reads_as_an_id_is_refused(store: Store, kind: str, name: str) -> None:
    with pytest.raises(InvalidInput, match="id"):
        store.repository(REPOSITORY).set_refs({f"{kind}/{name}": "main"})


def test_ref_of_before_that_reads_as_an_id_is_ambiguous_and_can_be_given_by_its_full_name(
    store: Store, changed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = store.repository(REPOSITORY)
    first = repository.show().digest
    second = repository.push(changed, message="Two").version
    with monkeypatch.context() as before:
        before.setattr("skyhold.registry.change.check_new_ref", lambda ref: ref)
        repository.set_refs({f"alias/{first[:10]}": second, "alias/ffff": second})
    with pytest.raises(InvalidInput, match="means several versions") as refused:
        repository.show(first[:10])
    assert refused.value.code == "ambiguous_name"
    assert repository.show(f"alias/{first[:10]}").digest == second
    assert repository.show(first[:12]).digest == first
    assert repository.show("ffff").digest == second
    repository.set_refs({f"alias/{first[:10]}": None})
    assert repository.show(first[:10]).digest == first
