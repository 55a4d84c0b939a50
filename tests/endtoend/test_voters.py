"""Voters come, go and are admitted again while machines work: engine `buckets`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import skyhold
from skyhold.errors import InvalidInput, OutcomeUnknown, Unavailable
from tests.cli.models import contents, write_model
from tests.endtoend.machines import Machine, Scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@pytest.fixture
def ada(scene: Scene) -> Iterator[Machine]:
    machine = Machine(scene.place / "ada")
    with machine.at_work():
        skyhold.init(scene.clouds()).close()
        yield machine


@pytest.fixture
def ben(scene: Scene, ada: Machine) -> Machine:
    machine = Machine(scene.place / "ben")
    with machine.at_work():
        skyhold.connect(str(scene.cloud("c"))).close()
    return machine


def push(store: skyhold.Store, scene: Scene, seed: int, name: str = "team/m") -> str:
    return store.repository(name, create=True).push(write_model(scene.place / f"model-{seed}", seed=seed)).version


def head(store: skyhold.Store, name: str = "team/m") -> str:
    return store.repository(name).show("main").digest


def epoch_in(folder: Path) -> tuple[int, list[str]]:
    engine = json.loads((folder / "store.json").read_bytes())["engine"]
    return engine["term"], [name for name, _ in engine["voters"]]


def test_bucket_that_is_added_votes_from_the_next_epoch_on(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
        store.add_bucket("d", str(scene.cloud("d")))
        assert head(store) == first
        second = push(store, scene, 2)
        store.sync()
        assert store.verify(deep=True).sound
    assert epoch_in(scene.cloud("d")) == epoch_in(scene.cloud("a")) == (2, ["a", "b", "c", "d"])
    with skyhold.open(str(scene.cloud("d"))) as store:
        assert head(store) == second


def test_machine_that_knows_the_old_epoch_alone_finds_the_new_one_by_itself(
    scene: Scene, ada: Machine, ben: Machine
) -> None:
    with ben.at_work(), skyhold.open(str(scene.cloud("c"))) as of_ben:
        first = push(of_ben, scene, 1)
        with ada.at_work(), skyhold.open(str(scene.cloud("a"))) as of_ada:
            of_ada.add_bucket("d", str(scene.cloud("d")))
            of_ada.remove_bucket("a", force=True)
            second = push(of_ada, scene, 2)
        assert head(of_ben) == second != first
        third = push(of_ben, scene, 3)
    assert epoch_in(scene.cloud("c")) == (3, ["b", "c", "d"])
    with skyhold.open(str(scene.cloud("b"))) as store:
        assert head(store) == third
        assert [version.digest for version in store.repository("team/m").log()] == [third, second, first]


def test_emptied_voter_takes_no_part_until_a_repair_admits_it_again(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 1)
        scene.empty("b")
        second = push(store, scene, 2)
        shutil.rmtree(scene.cloud("a"))
        with pytest.raises((Unavailable, OutcomeUnknown)):
            push(store, scene, 3)
    with skyhold.open(str(scene.cloud("c"))) as store, pytest.raises(Unavailable):
        head(store)
    # The other comes back, and with it the majority that can admit the emptied one.
    del second


def test_emptied_voter_is_admitted_again_in_a_new_epoch_and_then_carries_a_majority(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
        scene.empty("b")
        report = store.repair()
        assert report.readmitted == ["b"]
        assert report.sound
    assert epoch_in(scene.cloud("b")) == epoch_in(scene.cloud("c")) == (2, ["a", "b", "c"])
    scene.lose("a")
    with skyhold.open(str(scene.cloud("b"))) as store:
        assert head(store) == first
        second = push(store, scene, 2)
        store.repository("team/m").pull("main", scene.place / "pulled")
        assert second == head(store)
    assert contents(scene.place / "pulled") == contents(scene.place / "model-2")


def test_last_voters_and_too_many_of_them_are_refused(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        for number in range(4):
            store.add_bucket(f"more-{number}", str(scene.cloud(f"more-{number}")))
        assert [bucket.role for bucket in store.configuration.buckets] == ["voter"] * 7
        store.add_bucket("eighth", str(scene.cloud("eighth")))
        assert store.configuration.bucket("eighth").role == "packs"
        with pytest.raises(InvalidInput, match="1 to 7 voters"):
            store.set_roles({"eighth": "voter"})
        store.set_roles({"eighth": "voter", "a": "packs"})
        first = push(store, scene, 1)
    assert epoch_in(scene.cloud("a")) == (6, ["b", "c", "more-0", "more-1", "more-2", "more-3", "eighth"])
    with skyhold.open(str(scene.cloud("a"))) as store:
        assert head(store) == first
