"""A store goes from one epoch to the next, to other voters or another engine, while machines that know it work on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress

import pytest

import skyhold
from skyhold.consensus.pinned_registers import PinnedRegisters
from skyhold.consensus.register import Versioned
from skyhold.errors import Conflict, InvalidInput, PermissionDenied, SkyholdError
from skyhold.storage.policy import Policy
from skyhold.storage.progress import Silence
from skyhold.store.epoch import encode_epoch, next_epoch
from tests.cli.models import contents, write_model
from tests.endtoend.killing import is_checkpoint
from tests.endtoend.machines import Machine, Scene
from tests.endtoend.stores import catch_up, epoch_in, head, move_in_child, push


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


def test_machine_that_was_away_for_epochs_finds_the_store_though_the_voters_of_then_are_gone(
    scene: Scene, ada: Machine, ben: Machine
) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        store.add_bucket("d", str(scene.cloud("d")))
    with ben.at_work(), skyhold.open(str(scene.cloud("c"))) as store:
        assert store.bucket_names == ["a", "b", "c", "d"]
    scene.keep("then")
    with skyhold.open(str(scene.cloud("a"))) as store:
        store.add_bucket("e", str(scene.cloud("e")))
        store.remove_bucket("a", "b", force=True)
        first = push(store, scene, 1)
    scene.lose("a")
    scene.lose("b")
    shutil.copy(scene.place.with_name(f"{scene.place.name}-then") / "clouds/c/store.json", scene.cloud("c"))
    with ben.at_work(), skyhold.open(str(scene.cloud("a"))) as store:
        assert head(store) == first
        assert store.bucket_names == ["c", "d", "e"]
        store.repair()
    assert epoch_in(scene.cloud("c")) == (4, ["c", "d", "e"])


class Meddling(Silence):
    """While a push runs, another process changes the buckets of the store."""

    def __init__(self, meddle: Callable[[], object]) -> None:
        self._meddle = meddle
        self.notes: list[str] = []

    def begin(self, task: str, total_bytes: int | None = None) -> None:
        self._meddle()

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_push_follows_to_the_buckets_that_the_store_has_by_its_end(scene: Scene, ada: Machine, ben: Machine) -> None:
    def meddle() -> None:
        with ben.at_work(), skyhold.open(str(scene.cloud("b"))) as other:
            for name in ("d", "e"):
                other.add_bucket(name, str(scene.cloud(name)))
            other.remove_bucket("a", "b", force=True)

    progress = Meddling(meddle)
    model = write_model(scene.place / "model", seed=1)
    with skyhold.open(str(scene.cloud("a"))) as store:
        store.create_repository("team/m")
        result = store.repository("team/m").push(model, progress=progress)
        [repository] = store.status().repositories
        assert repository.durable
    assert progress.notes == ["The buckets of the store were changed meanwhile; this push follows"]
    scene.lose("a")
    scene.lose("b")
    scene.lose("c")
    with skyhold.open(str(scene.cloud("d"))) as store:
        assert head(store) == result.version
        store.repository("team/m").pull("main", scene.place / "pulled")
    assert contents(scene.place / "pulled") == contents(model)


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.create_repository("team/new"),
        lambda store: store.rename_repository("team/m", "team/n"),
        lambda store: store.delete_repository("team/m"),
        lambda store: store.repository("team/m").set_refs({"alias/champion": "main"}),
        lambda store: store.repository("team/m").attach("main", metrics={"auc": 0.9}),
    ],
    ids=["create", "rename", "delete", "set", "attach"],
)
def test_change_that_meets_a_move_is_made_in_the_epoch_of_now(
    change: Callable[[skyhold.Store], object], scene: Scene, ada: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had opened its session before the voters were others."""
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 1)
    met = []
    compare_and_set = PinnedRegisters.compare_and_set

    def meddled(registers: PinnedRegisters, *arguments: object) -> Versioned:
        if not met:
            met.append(None)
            with skyhold.open(str(scene.cloud("b"))) as other:
                other.add_bucket("d", str(scene.cloud("d")))
        return compare_and_set(registers, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(PinnedRegisters, "compare_and_set", meddled)
    with skyhold.open(str(scene.cloud("a"))) as store:
        change(store)
        assert store.engine_status().epoch == 2
        assert store.sync().sound


def test_policy_that_the_buckets_of_now_cannot_meet_is_refused(
    scene: Scene, ada: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 1)
        store.sync()
    met = []
    compare_and_set = PinnedRegisters.compare_and_set

    def meddled(registers: PinnedRegisters, *arguments: object) -> Versioned:
        if not met:
            met.append(None)
            with skyhold.open(str(scene.cloud("b"))) as other:
                other.remove_bucket("c")
        return compare_and_set(registers, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(PinnedRegisters, "compare_and_set", meddled)
    with skyhold.open(str(scene.cloud("a"))) as store:
        with pytest.raises(InvalidInput) as caught:
            store.repository("team/m").set_policy(Policy(copies=3))
        assert caught.value.code == "policy_impossible"
        assert store.status().repositories[0].durable


def test_registers_move_from_one_machine_into_the_buckets_and_back(scene: Scene) -> None:
    ada, ben = Machine(scene.place / "ada"), Machine(scene.place / "ben")
    with ada.at_work():
        skyhold.init(scene.clouds(), engine="sqlite").close()
        with skyhold.open(str(scene.cloud("a"))) as store:
            first = push(store, scene, 1)
            moves = store.repository("team/m").history()
            moved = store.move_engine("buckets")
            assert (moved.before, moved.engine, moved.epoch, moved.registers) == ("sqlite", "buckets", 2, 3)
            assert store.engine == "buckets"
            second = push(store, scene, 2)
            with pytest.raises(InvalidInput, match="already"):
                store.move_engine("buckets")
    with ben.at_work(), skyhold.connect(str(scene.cloud("b"))) as store:
        assert head(store) == second
        assert store.repository("team/m").history()[-len(moves) :] == moves
        assert store.move_engine("sqlite").registers == 3
        third = push(store, scene, 3)
        assert [version.digest for version in store.repository("team/m").log()] == [third, second, first]
        assert store.verify(deep=True).sound
    with ada.at_work(), pytest.raises(PermissionDenied) as caught:
        skyhold.open(str(scene.cloud("a"))).repository_names()
    assert caught.value.code == "other_machine"
    with ben.at_work(), skyhold.open(str(scene.cloud("a"))) as store:
        store.move_engine("buckets")
        assert store.engine_status().epoch == 4
    with ada.at_work(), skyhold.connect(str(scene.cloud("a"))) as store:
        assert head(store) == third
        assert store.repair().sound


def test_store_that_moved_off_its_machine_is_not_recovered_to_another(scene: Scene) -> None:
    with Machine(scene.place / "ada").at_work():
        skyhold.init(scene.clouds(), engine="sqlite").close()
        scene.keep("before")
        with skyhold.open(str(scene.cloud("a"))) as store:
            push(store, scene, 1)
            store.move_engine("buckets")
    scene.put_back("before", cloud="a")  # whose store.json knows nothing of it
    with Machine(scene.place / "eve").at_work(), pytest.raises(InvalidInput) as caught:
        skyhold.recover(str(scene.cloud("a")))
    assert caught.value.code == "nothing_to_recover"


def test_move_to_a_machine_that_is_lost_half_way_is_finished_by_a_recovery_elsewhere(
    scene: Scene, ada: Machine
) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
        catch_up(store)
    scene.keep("whole")

    recovered = 0
    for number in range(1, move_in_child(scene, "sqlite").result + 1, 7):
        scene.put_back("whole")
        move_in_child(scene, "sqlite", number)
        eve = Machine(scene.place / f"eve-{number}")  # ada's machine, and what it alone knew, is gone
        with eve.at_work():
            try:
                with skyhold.connect(str(scene.cloud("b"))) as store:
                    assert head(store) == first
                continue
            except PermissionDenied as error:
                assert error.code == "other_machine"
            with skyhold.recover(str(scene.cloud("b")))[0] as store:
                assert head(store) == first
                assert store.engine == "sqlite"
                second = push(store, scene, 2)
            with skyhold.open(str(scene.cloud("c"))) as store:
                assert [version.digest for version in store.repository("team/m").log()] == [second, first]
                assert store.verify(deep=True).sound
        recovered += 1
    assert recovered > 3


def test_move_off_a_machine_that_is_lost_half_way_is_finished_by_a_recovery_elsewhere(scene: Scene) -> None:
    ada = Machine(scene.place / "ada")
    with ada.at_work():
        skyhold.init(scene.clouds(), engine="sqlite").close()
        with skyhold.open(str(scene.cloud("a"))) as store:
            first = push(store, scene, 1)
    scene.keep("whole")

    with ada.at_work():
        calls = move_in_child(scene, "buckets").result
    engines = set()
    for number in range(calls - 150, calls - 40, 10):
        scene.put_back("whole")
        with ada.at_work():
            move_in_child(scene, "buckets", number)
        with Machine(scene.place / f"eve-{number}").at_work():
            with skyhold.recover(str(scene.cloud("b")))[0] as store:
                engines.add(store.engine)
                assert head(store) == first
                second = push(store, scene, 2)
            with skyhold.open(str(scene.cloud("c"))) as store:
                assert head(store) == second
        with ada.at_work(), suppress(SkyholdError), skyhold.open(str(scene.cloud("a"))) as store:
            store.move_engine("buckets")
        with Machine(scene.place / f"eve-{number}").at_work(), skyhold.open(str(scene.cloud("c"))) as store:
            assert head(store) == second
    assert engines == {"sqlite", "buckets"}


def test_machine_that_was_recovered_from_moves_nothing(scene: Scene) -> None:
    ada, eve = Machine(scene.place / "ada"), Machine(scene.place / "eve")
    with ada.at_work():
        skyhold.init(scene.clouds(), engine="sqlite").close()
        of_ada = skyhold.open(str(scene.cloud("a")))
        push(of_ada, scene, 1)
    with eve.at_work(), skyhold.recover(str(scene.cloud("b")))[0] as store:
        second = push(store, scene, 2)
    with ada.at_work(), of_ada:
        for _ in range(5):
            with pytest.raises(Conflict) as caught:
                of_ada.move_engine("buckets")
            assert caught.value.code == "store_recovered_elsewhere"
    with eve.at_work(), skyhold.open(str(scene.cloud("b"))) as store:
        assert head(store) == second


def test_move_to_a_machine_that_died_half_way_goes_on_when_the_machine_is_there_again(
    scene: Scene, ada: Machine
) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)

    move_in_child(scene, "sqlite", is_checkpoint)
    with pytest.raises(InvalidInput, match="nothing to recover"):
        skyhold.recover(str(scene.cloud("b")))
    with skyhold.open(str(scene.cloud("b"))) as store:
        assert head(store) == first
        assert store.engine == "sqlite"


def test_move_that_died_after_its_first_seal_is_finished_by_a_process_that_knows_nothing_of_it(
    scene: Scene, ada: Machine
) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
        connection = store._connection
        engine, configuration = connection.document.engine, store.configuration
        following = encode_epoch(next_epoch(engine, configuration))
        connection.registers.current.seal("config", connection.registers.read("config").version, following)  # type: ignore[union-attr]
    with Machine(scene.place / "eve").at_work(), skyhold.connect(str(scene.cloud("b"))) as store:
        assert head(store) == first
        assert store.engine_status().epoch == 2
        push(store, scene, 2)
        assert store.repair().sound


def test_configuration_that_was_read_before_a_move_does_not_overwrite_the_newer_one(
    scene: Scene, ada: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store, skyhold.open(str(scene.cloud("a"))) as other:
        connection = store._connection
        read = connection.registers.read

        def slow(key: str) -> object:
            found = read(key)
            monkeypatch.undo()
            other.remove_bucket("c", force=True)
            assert read("config") is not None  # another thread of this process follows the seal
            return found

        monkeypatch.setattr(connection.registers, "read", slow)
        assert store.bucket_names == store.bucket_names == ["a", "b"]
