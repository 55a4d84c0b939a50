"""Registers on one machine, used by several of its processes: one changes the buckets while another is at work."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

import skyhold
from skyhold.errors import OutcomeUnknown
from skyhold.registry.committing import Commit
from skyhold.registry.store import Store
from skyhold.storage.object_keys import PACKS
from tests.cli.models import contents
from tests.endtoend.killing import in_child
from tests.endtoend.machines import Scene
from tests.endtoend.stores import head, push


def packs_in(scene: Scene, cloud: str) -> set[str]:
    return {name for name in contents(scene.cloud(cloud)) if name.startswith(f"{PACKS}/")}


def remove(scene: Scene, name: str) -> None:
    """By another process of this machine."""

    def leave() -> None:
        with skyhold.open(str(scene.cloud("a"))) as store:
            store.remove_bucket(name, force=True)

    in_child(leave)


def at_commit(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Let something happen once, when the packs of a push are where they have to be and its refs are about to move."""
    under, pending = Commit.under, [happens]

    def interrupted(self: Commit, *arguments: object) -> str:
        if pending:
            pending.pop()()
        return under(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Commit, "under", interrupted)


def test_push_does_not_count_a_bucket_that_another_process_removes_meanwhile(
    scene: Scene, machine_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = scene.place / "b-away"
    shutil.move(scene.cloud("b"), away)

    def removed() -> None:
        shutil.move(away, scene.cloud("b"))
        remove(scene, "c")

    at_commit(monkeypatch, removed)
    version = push(machine_store, scene, 2, "fraud/scorer")
    assert machine_store.bucket_names == ["a", "b"]
    assert packs_in(scene, "a") == packs_in(scene, "b")  # a majority of two is both
    scene.lose("a")
    scene.lose("c")
    recovered, _ = skyhold.recover(str(scene.cloud("b")), minority=True)
    with recovered:
        assert head(recovered, "fraud/scorer") == version
        recovered.repository("fraud/scorer").pull("main", scene.place / "pulled")


def test_store_that_stays_open_works_with_the_buckets_that_another_process_leaves_it(
    scene: Scene, machine_store: Store
) -> None:
    head(machine_store, "fraud/scorer")
    remove(scene, "c")
    before = contents(scene.cloud("c"))
    assert machine_store.bucket_names == ["a", "b"]
    push(machine_store, scene, 2, "fraud/scorer")
    machine_store.repository("fraud/scorer").set_refs({"alias/champion": "main~1"})
    assert contents(scene.cloud("c")) == before
    assert machine_store.verify(deep=True).sound


def test_store_that_stays_open_writes_to_a_bucket_that_another_process_adds(scene: Scene, machine_store: Store) -> None:
    def join() -> None:
        with skyhold.open(str(scene.cloud("a"))) as store:
            store.add_bucket("d", str(scene.cloud("d")))

    head(machine_store, "fraud/scorer")
    in_child(join)
    version = push(machine_store, scene, 2, "fraud/scorer")
    machine_store.sync()
    for name in "abc":
        scene.lose(name)
    recovered, _ = skyhold.recover(str(scene.cloud("d")), minority=True)
    with recovered:
        assert head(recovered, "fraud/scorer") == version


def test_move_of_a_ref_is_acknowledged_by_the_buckets_of_now(scene: Scene, machine_store: Store) -> None:
    machine_store.repository("fraud/scorer").set_refs({"alias/third": "main"})
    remove(scene, "c")
    shutil.move(scene.cloud("b"), scene.place / "b-away")
    with pytest.raises(OutcomeUnknown) as caught:
        machine_store.repository("fraud/scorer").set_refs({"alias/other": "main"})
    assert caught.value.code == "checkpoint_pending"
    assert caught.value.fields["buckets"] == ["b"]
