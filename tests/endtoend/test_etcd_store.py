"""A store whose refs live in a real etcd cluster, reached by several machines."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import skyhold
from skyhold.errors import InvalidInput, PermissionDenied
from tests import etcd
from tests.consensus.etcd_fixtures import PREFIX, secure_location
from tests.endtoend.killing import is_checkpoint
from tests.endtoend.machines import Machine, Scene
from tests.endtoend.stores import epoch_of, head, move_in_child, push


def plain() -> str:
    return f"{etcd.plain_cluster().url}/{PREFIX}"


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_machines_share_a_store_by_etcd_while_a_node_is_away(scene: Scene) -> None:
    cluster = etcd.plain_cluster()
    with Machine(scene.place / "ada").at_work(), skyhold.init(scene.clouds(), engine=plain()) as of_ada:
        assert of_ada.engine == "etcd"
        first = push(of_ada, scene, 1)
        with Machine(scene.place / "ben").at_work(), skyhold.connect(str(scene.cloud("b"))) as of_ben:
            assert head(of_ben) == first
            node = cluster.leader()
            node.pause()
            try:
                second = push(of_ben, scene, 2)
                status = of_ben.engine_status()
                assert (status.quorum, len(status.voters)) == ("degraded", 3)
            finally:
                cluster.heal()
            assert {decision.register for decision in status.decisions} == {"config", "names"}
        assert head(of_ada) == second
        of_ada.add_bucket("d", str(scene.cloud("d")))
        assert epoch_of(scene.cloud("d")) == epoch_of(scene.cloud("a")) == 2
        third = push(of_ada, scene, 3)
    with Machine(scene.place / "ben").at_work(), skyhold.open(str(scene.cloud("b"))) as of_ben:
        assert head(of_ben) == third
        assert of_ben.repair().sound


def test_registers_move_into_etcd_and_out_of_it_with_their_history(scene: Scene) -> None:
    with Machine(scene.place / "ada").at_work(), skyhold.init(scene.clouds()) as store:
        pushed = [push(store, scene, 1)]
        for engine in (plain(), "sqlite", plain(), "buckets"):
            moved = store.move_engine(engine)
            assert (moved.registers, moved.engine) == (3, engine.partition(":")[0])
            with pytest.raises(InvalidInput, match="already"):
                store.move_engine(engine)
            pushed.append(push(store, scene, len(pushed) + 1))
        assert store.engine_status().epoch == 5
        assert [version.digest for version in store.repository("team/m").log()] == pushed[::-1]
        assert [move.new for move in store.repository("team/m").history()] == pushed[::-1]
        assert store.verify(deep=True).sound


def test_move_out_of_etcd_to_a_machine_that_is_lost_half_way_is_finished_by_a_recovery(scene: Scene) -> None:
    with Machine(scene.place / "ada").at_work():
        with skyhold.init(scene.clouds(), engine=plain()) as store:
            first = push(store, scene, 1)

        assert move_in_child(scene, "sqlite", is_checkpoint).signal == signal.SIGKILL
    with Machine(scene.place / "eve").at_work():
        with pytest.raises(PermissionDenied) as caught:
            skyhold.connect(str(scene.cloud("b")))
        assert caught.value.code == "other_machine"
        with skyhold.recover(str(scene.cloud("b")))[0] as store:
            assert head(store) == first
            assert store.engine == "sqlite"


def test_cluster_with_users_is_reached_by_the_settings_of_the_machine(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = secure_location("writer")
    assert location.ca_file is not None
    with Machine(scene.place / "ada").at_work():
        with pytest.raises(InvalidInput, match="each machine's own"):
            skyhold.init(scene.clouds(), engine=f"{location.url}?credentials=env:X")
        monkeypatch.setenv("SKYHOLD_ETCD_CA_FILE", location.ca_file)
        monkeypatch.setenv("SKYHOLD_ETCD_CREDENTIALS", secure_location("stranger").credentials)
        with pytest.raises(PermissionDenied):
            skyhold.init(scene.clouds(), engine=location.url)
        assert not (scene.cloud("a") / "store.json").exists()
        monkeypatch.setenv("SKYHOLD_ETCD_CREDENTIALS", location.credentials)
        with skyhold.init(scene.clouds(), engine=location.url) as store:
            first = push(store, scene, 1)
            assert store.engine_status().quorum == "whole"
        monkeypatch.setenv("SKYHOLD_ETCD_CREDENTIALS", secure_location("reader").credentials)
        with skyhold.open(str(scene.cloud("c"))) as store:
            assert head(store) == first
            with pytest.raises(PermissionDenied):
                push(store, scene, 2)
