"""Reads that may be stale: what they find without a majority of the voters, and that changes are as safe as ever."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import skyhold
from skyhold.consensus.migration import CONFIG
from skyhold.consensus.register import EngineRegisters
from skyhold.errors import InvalidInput, SkyholdError, Unavailable
from skyhold.registry.store import Store
from skyhold.store import succession
from skyhold.store.context import StoreContext
from tests.cli.models import contents, write_model
from tests.endtoend.machines import Machine, Scene
from tests.endtoend.stores import catch_up, head, push


def test_change_after_one_of_another_client_is_planned_on_the_newest_state(
    store: Store, scene: Scene, tmp_path: Path
) -> None:
    with skyhold.open(str(scene.cloud("a")), max_age_s=3600) as late:
        scorer = late.repository("fraud/scorer")
        first = scorer.show("main").digest
        second = store.repository("fraud/scorer").push(write_model(tmp_path / "second", seed=2), message="Two").version
        assert scorer.show("main").digest == first
        scorer.attach("champion", metrics={"auc": 0.9})
        assert scorer.show("main").digest == second
    assert store.repository("fraud/scorer").show("champion").metrics["auc"] == 0.9


def test_repository_is_created_after_one_of_another_client(store: Store, scene: Scene) -> None:
    with skyhold.open(str(scene.cloud("b")), max_age_s=3600) as late:
        assert [found.name for found in late.repositories()] == ["fraud/scorer"]
        store.create_repository("fraud/judge")
        late.create_repository("fraud/jury")
    assert [found.name for found in store.repositories()] == ["fraud/judge", "fraud/jury", "fraud/scorer"]


def test_what_is_known_can_be_read_without_a_majority_and_is_declared(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
        catch_up(store)
    scene.keep("whole")
    scene.lose("a")
    scene.lose("b")
    with skyhold.open(str(scene.cloud("c")), max_age_s=60) as store, pytest.raises(Unavailable) as caught:
        head(store)
    assert caught.value.code == "no_majority"
    assert caught.value.fields["buckets"] == ["a", "b"]
    assert "--stale" in str(caught.value.hint)
    with skyhold.open(str(scene.cloud("c")), max_age_s=math.inf) as store:
        assert store.stale == []
        assert head(store) == first
        store.repository("team/m").pull("main", scene.place / "pulled")
        assert {read.register.partition("/")[0] for read in store.stale} == {"config", "names", "repository"}
        assert all(read.age_s is None and read.silent == ("a", "b") and read.writer for read in store.stale)
        assert store.engine_status().quorum == "lost"
        with pytest.raises(SkyholdError, match="nothing was changed"):
            push(store, scene, 2)
    assert contents(scene.place / "pulled") == contents(scene.place / "model-1")
    scene.put_back("whole", cloud="a")
    with skyhold.open(str(scene.cloud("c")), max_age_s=math.inf) as store:
        assert head(store) == first
        assert store.stale == []


def test_reads_of_a_bounded_age_need_no_cloud_until_they_are_older(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
    with skyhold.open(str(scene.cloud("c")), max_age_s=3600) as store:
        assert head(store) == first
        with skyhold.open(str(scene.cloud("a"))) as other:
            second = push(other, scene, 2)
            assert head(other) == second
        assert head(store) == first
        assert all(0 < read.age_s < 3600 for read in store.stale if read.age_s is not None)
        assert store.stale
    with skyhold.open(str(scene.cloud("c")), max_age_s=0) as store:
        assert head(store) == second


def test_single_read_may_be_old_while_the_others_are_not(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
        catch_up(store)
        repository = store.repository("team/m")
        scene.keep("whole")
        scene.lose("b")
        scene.lose("c")
        with pytest.raises(Unavailable):
            repository.log()
        assert [entry.digest for entry in repository.log(max_age_s=math.inf)] == [first]
        assert repository.show(max_age_s=math.inf).found_by == "bucket"
        assert [ref.name for ref in repository.refs(max_age_s=math.inf)] == ["branch/main"]
        assert [found.name for found in store.repositories(max_age_s=math.inf)] == ["team/m"]
        assert {read.register.partition("/")[0] for read in store.stale} >= {"names", "repository"}
        with pytest.raises(Unavailable):
            repository.refs()
        scene.put_back("whole", cloud="b")
        scene.put_back("whole", cloud="c")
        second = push(store, scene, 2)
        assert repository.show().digest == second
        assert repository.show().found_by == "majority"
        assert repository.show(max_age_s=0).digest == second


def test_block_of_stale_reads_closes_the_epochs_that_it_opened_and_no_other(
    scene: Scene, ada: Machine, ben: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[StoreContext, EngineRegisters]] = []
    closed: list[EngineRegisters] = []
    open_voters = succession.open_voters

    def recorded(access: StoreContext, *arguments: object) -> EngineRegisters:
        registers: EngineRegisters = open_voters(access, *arguments)  # type: ignore[arg-type]
        close = registers.close
        monkeypatch.setattr(registers, "close", lambda: (closed.append(registers), close()))
        opened.append((access, registers))
        return registers

    def add_bucket(name: str) -> None:
        with ada.at_work(), skyhold.open(str(scene.cloud("a"))) as store:
            store.add_bucket(name, str(scene.cloud(name)))

    monkeypatch.setattr(succession, "open_voters", recorded)
    with ben.at_work(), skyhold.open(str(scene.cloud("c"))) as store:
        first = push(store, scene, 1)
        with store._connection.within(0) as view:
            add_bucket("d")
            assert view.registers.read(CONFIG), "which follows to the second epoch"
            add_bucket("e")
            assert view.catch_up(), "which sets the registers of the second epoch aside"
            assert view.registers.read(CONFIG)
            of_view = [registers for access, registers in opened if access is view]
            assert len(of_view) == 2
            assert not any(registers in closed for registers in of_view)
        assert all(closed.count(registers) == 1 for registers in of_view)
        assert [access for access, registers in opened if registers not in closed] == [store._connection]
        assert head(store) == first


@pytest.mark.parametrize("age_s", [-1, math.nan, "old", [1]])
def test_age_that_is_none_is_refused(store: Store, age_s: object) -> None:
    with pytest.raises(InvalidInput):
        store.repository("fraud/scorer").log(max_age_s=age_s)  # type: ignore[arg-type]
