"""Two machines with credentials for the same buckets, and nothing else between them: engine `buckets`."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

import skyhold
from skyhold.errors import InvalidInput, PermissionDenied, Unavailable
from skyhold.security.keys import KeyFile
from skyhold.store.settings import load_settings
from tests.cli.models import contents, write_model
from tests.endtoend.machines import Machine, Scene
from tests.endtoend.test_races import together


def push(scene: Scene, name: str, seed: int) -> str:
    """Push a model from the machine at work; returns the version's digest."""
    model = write_model(scene.place / f"model-{seed}", seed=seed)
    with skyhold.open(str(scene.cloud("a"))) as store:
        return store.repository(name, create=True).push(model).version


def branch(scene: Scene, name: str) -> str:
    with skyhold.open(str(scene.cloud("a"))) as store:
        return store.repository(name).show("main").digest


def test_what_one_machine_pushed_another_pulls_and_moves_on(scene: Scene, ada: Machine, ben: Machine) -> None:
    first = push(scene, "team/m", 1)
    with ben.at_work():
        assert branch(scene, "team/m") == first
        with skyhold.open(str(scene.cloud("b"))) as store:
            store.repository("team/m").pull("main", scene.place / "pulled")
        second = push(scene, "team/m", 2)
    assert contents(scene.place / "pulled") == contents(scene.place / "model-1")
    assert branch(scene, "team/m") == second


def test_machines_that_push_at_once_all_succeed_one_after_the_other(scene: Scene, ada: Machine, ben: Machine) -> None:
    push(scene, "team/m", 0)

    def from_ada() -> str:
        return push(scene, "team/m", 1)

    def from_ben() -> str:
        with ben.at_work():
            return push(scene, "team/m", 2)

    pushed = together([from_ada, from_ben])
    with skyhold.open(str(scene.cloud("a"))) as store:
        log = [version.digest for version in store.repository("team/m").log()]
    moved = [digest for digest in pushed if isinstance(digest, str)]
    refused = [error for error in pushed if not isinstance(error, str)]
    assert moved
    assert log[0] in moved
    assert set(moved) <= set(log)
    assert all(error[1] == "ref_moved" for error in refused)


def test_work_goes_on_with_a_minority_of_the_clouds_gone(scene: Scene, ada: Machine, ben: Machine) -> None:
    push(scene, "team/m", 1)
    scene.lose("b")
    second = push(scene, "team/m", 2)
    with ben.at_work(), skyhold.open(str(scene.cloud("c"))) as store:
        assert store.repository("team/m").show("main").digest == second


def test_lost_majority_is_named_and_what_was_acknowledged_is_there_when_it_is_back(
    scene: Scene, ada: Machine, ben: Machine
) -> None:
    first = push(scene, "team/m", 1)
    for cloud in "bc":
        scene.cloud(cloud).rename(scene.cloud(f"{cloud}-away"))
    with pytest.raises(Unavailable) as caught:
        branch(scene, "team/m")
    assert caught.value.code == "no_majority"
    assert caught.value.fields["buckets"] == ["b", "c"]
    for cloud in "bc":
        scene.cloud(f"{cloud}-away").rename(scene.cloud(cloud))
    with ben.at_work():
        assert branch(scene, "team/m") == first


def test_bucket_that_was_emptied_has_no_vote_until_it_is_admitted_again(scene: Scene, ada: Machine) -> None:
    first = push(scene, "team/m", 1)
    scene.empty("b")
    assert branch(scene, "team/m") == first
    scene.cloud("a").rename(scene.cloud("a-away"))
    with pytest.raises(Unavailable), skyhold.open(str(scene.cloud("c"))) as store:
        store.repository("team/m").show("main")


def test_new_machine_needs_no_recovery_when_all_others_are_lost(scene: Scene, ada: Machine) -> None:
    first = push(scene, "team/m", 1)
    shutil.rmtree(ada.folder)
    with Machine(scene.place / "eve").at_work(), skyhold.connect(str(scene.cloud("b"))) as store:
        assert store.repository("team/m").show("main").digest == first


def test_there_is_nothing_to_recover(scene: Scene, ada: Machine) -> None:
    with pytest.raises(InvalidInput) as caught:
        skyhold.recover(str(scene.cloud("a")))
    assert caught.value.code == "nothing_to_recover"


def test_store_of_more_buckets_than_there_can_be_voters_has_seven(scene: Scene) -> None:
    with (
        Machine(scene.place / "ada").at_work(),
        skyhold.init([str(scene.cloud(f"cloud-{n}")) for n in range(8)]) as store,
    ):
        assert [bucket.role for bucket in store.configuration.buckets] == ["voter"] * 7 + ["packs"]
        push_to = store.create_repository("team/m").push(write_model(scene.place / "model", seed=1))
        assert push_to.version


def test_sealed_store_is_shared_under_its_key(scene: Scene) -> None:
    path = scene.place / "team.key"
    with Machine(scene.place / "ada").at_work():
        skyhold.init(scene.clouds(), engine="buckets", encrypt_with=[KeyFile.generate(path)]).close()
    with Machine(scene.place / "ben").at_work():
        with pytest.raises(PermissionDenied):
            skyhold.connect(str(scene.cloud("b")))
        settings = replace(load_settings(), key_file=path)
        with skyhold.connect(str(scene.cloud("b")), settings=settings) as store:
            store.create_repository("team/m")
    with Machine(scene.place / "ada").at_work(), skyhold.open(str(scene.cloud("a")), settings=settings) as store:
        assert store.repository_names() == ["team/m"]
