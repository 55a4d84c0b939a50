"""Voters come, go and are admitted again while machines work: engine `buckets`."""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import skyhold
from skyhold.buckets.admission import AdmissionVerdict
from skyhold.errors import InvalidInput, PermissionDenied, SkyholdError, Unavailable
from skyhold.registry import voters
from skyhold.registry.voting import is_level
from skyhold.storage.epoch import encode_epoch, next_epoch
from skyhold.storage.progress import Silence
from tests.cli.models import contents, write_model
from tests.endtoend.killing import Fuse, in_child, insert_fuse
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


def level(store: skyhold.Store) -> None:
    """Bring every voter that answers up to the last change of every register."""
    registers = store._connection.registers.current
    for _ in range(20):
        store.sync()
        if all(is_level(registers.inspect(key)) for key in registers.list()):  # type: ignore[attr-defined]
            return
        time.sleep(0.1)
    raise AssertionError("a voter stays behind")


def epoch_of(folder: Path) -> int:
    return int(json.loads((folder / "store.json").read_bytes())["engine"]["term"])


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


def test_emptied_voter_takes_no_part_until_it_is_admitted_again(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 1)
    scene.empty("b")
    scene.keep("emptied")
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 2)
    scene.lose("a")
    with (
        skyhold.open(str(scene.cloud("c"))) as store,
        pytest.raises(Unavailable, match="needs 2 of its 3 voters"),
    ):
        head(store)


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
    assert epoch_in(scene.cloud("a")) == (7, ["b", "c", "more-0", "more-1", "more-2", "more-3", "eighth"])
    with skyhold.open(str(scene.cloud("a"))) as store:
        assert head(store) == first


def test_voter_that_was_restored_from_a_backup_begins_anew(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 1)
        scene.keep("before")
        second = push(store, scene, 2)
    scene.put_back("before", cloud="b")
    with skyhold.open(str(scene.cloud("a"))) as store:
        store.replace_voter("b")
        assert store.repair().sound
        assert head(store) == second
    assert epoch_in(scene.cloud("b")) == (2, ["a", "b", "c"])
    scene.lose("a")
    with skyhold.open(str(scene.cloud("b"))) as store:
        assert head(store) == second


def test_bucket_that_was_exchanged_for_an_older_incarnation_is_named_with_the_way_out(
    scene: Scene, ada: Machine
) -> None:
    scene.keep("before")
    scene.empty("b")
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
        assert store.repair().readmitted == ["b"]
    scene.put_back("before", cloud="b")
    with skyhold.open(str(scene.cloud("a"))) as store:
        [status] = [bucket for bucket in store.status().buckets if bucket.name == "b"]
        assert status.hint is not None
        assert "skyhold store voters replace b" in status.hint
        assert store.engine_status().quorum == "degraded"
        store.replace_voter("b")
        assert store.engine_status().quorum == "whole"
        assert head(store) == first


def test_bucket_whose_join_died_half_way_can_join(scene: Scene, ada: Machine) -> None:
    calls = None
    scene.keep("before")
    for number in [None, 3, 40, 260, 300, 320, 340, 360, 380]:
        if number is not None and number > calls:
            break
        scene.put_back("before")
        with ada.at_work():
            calls = join_in_child(scene, number) or calls
            with skyhold.open(str(scene.cloud("a"))) as store:
                if "d" not in store.bucket_names:
                    store.add_bucket("d", str(scene.cloud("d")))
                assert store.bucket_names == ["a", "b", "c", "d"]
                push(store, scene, 1)
                assert store.repair().sound
            assert epoch_in(scene.cloud("d"))[1] == ["a", "b", "c", "d"]


def join_in_child(scene: Scene, kill_at: int | None) -> int | None:
    """Calls that joining takes, or None where it was killed."""

    def join() -> int:
        fuse = Fuse(kill_at)
        with skyhold.open(str(scene.cloud("a"))) as store:
            insert_fuse(fuse)
            store.add_bucket("d", str(scene.cloud("d")))
        return len(fuse.calls)

    ended = in_child(join)
    assert ended.signal in {0, signal.SIGKILL}
    return None if ended.signal else int(ended.result)


class Meddling(Silence):
    """While a push is under way, somebody changes the buckets of the store."""

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


def test_registers_move_from_one_machine_into_the_buckets_and_back(scene: Scene) -> None:
    ada, ben = Machine(scene.place / "ada"), Machine(scene.place / "ben")
    with ada.at_work():
        skyhold.init(scene.clouds(), engine="sqlite").close()
        with skyhold.open(str(scene.cloud("a"))) as store:
            first = push(store, scene, 1)
            moves = [move.to_json() for move in store.repository("team/m").history()]
            moved = store.move_engine("buckets")
            assert (moved.before, moved.engine, moved.epoch, moved.registers) == ("sqlite", "buckets", 2, 3)
            assert store.engine == "buckets"
            second = push(store, scene, 2)
            with pytest.raises(InvalidInput, match="already"):
                store.move_engine("buckets")
    with ben.at_work(), skyhold.connect(str(scene.cloud("b"))) as store:
        assert head(store) == second
        assert [move.to_json() for move in store.repository("team/m").history()][-len(moves) :] == moves
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


def test_minority_begins_anew_only_where_somebody_says_that_the_others_are_lost(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
        level(store)
    url = str(scene.cloud("c"))
    with pytest.raises(InvalidInput, match="nothing to recover"):
        skyhold.recover(url)
    scene.keep("whole")
    scene.lose("a")
    scene.lose("b")
    before = contents(scene.cloud("c"))
    with Machine(scene.place / "eve").at_work():
        with pytest.raises(Unavailable) as caught:
            skyhold.recover(url)
        assert caught.value.code == "minority"
        assert contents(scene.cloud("c")) == before
        recovered, report = skyhold.recover(url, minority=True)
        assert (report.term, report.registers, report.answered, report.majority) == (2, 3, ("c",), False)
        with recovered:
            assert head(recovered) == first
            recovered.remove_bucket("a", "b", force=True)
            second = push(recovered, scene, 2)
            assert recovered.verify(deep=True).sound
        with skyhold.open(url) as store:
            assert head(store) == second
            assert store.bucket_names == ["c"]
    assert epoch_in(scene.cloud("c")) == (3, ["c"])
    # Whoever still knows the epoch before finds the new one, also when one of the lost comes back.
    scene.put_back("whole", cloud="a")
    with ada.at_work(), skyhold.open(str(scene.cloud("a"))) as store:
        assert head(store) == second


def test_minority_takes_what_any_survivor_had_accepted(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        for name in ("d", "e"):
            store.add_bucket(name, str(scene.cloud(name)))
        push(store, scene, 1)
        scene.keep("whole")
        scene.lose("a")
        second = push(store, scene, 2)
        level(store)
    scene.put_back("whole", cloud="a")  # it has not heard of the second
    for name in "bcd":
        scene.lose(name)
    with Machine(scene.place / "eve").at_work():
        recovered, report = skyhold.recover(str(scene.cloud("a")), minority=True)
        with recovered:
            assert report.answered == ("a", "e")
            assert head(recovered) == second


def test_what_is_known_can_be_read_without_a_majority_and_is_declared(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
        level(store)
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


def test_move_that_died_after_its_first_seal_is_finished_by_a_process_that_knows_nothing_of_it(
    scene: Scene, ada: Machine
) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
        connection = store._connection
        engine, configuration = connection.document.engine, store.configuration
        following = encode_epoch(next_epoch(engine, configuration))
        connection.registers.seal("config", connection.registers.read("config").version, following)  # type: ignore[union-attr]
    with Machine(scene.place / "eve").at_work(), skyhold.connect(str(scene.cloud("b"))) as store:
        assert head(store) == first
        assert store.engine_status().epoch == 2
        push(store, scene, 2)
        assert store.repair().sound


def test_bucket_that_went_back_is_not_admitted_by_those_who_tell_of_the_epoch(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 1)
    scene.keep("before")
    with skyhold.open(str(scene.cloud("a"))) as store:
        store.replace_voter("b")
        second = push(store, scene, 2, name="team/second")
    scene.put_back("before", cloud="b")
    document = scene.cloud("c") / "store.json"
    shutil.copy(scene.place.with_name(f"{scene.place.name}-before") / "clouds/c/store.json", document)
    with skyhold.open(str(scene.cloud("a"))) as store:
        assert "b" in store.sync().unreachable
        assert epoch_in(scene.cloud("b"))[0] == 1
        assert epoch_in(scene.cloud("c"))[0] == 2
        assert head(store, "team/second") == second
    scene.lose("c")
    with skyhold.open(str(scene.cloud("a"))) as store, pytest.raises(Unavailable):
        head(store, "team/second")


def test_voter_that_the_others_need_does_not_begin_anew(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
        scene.keep("whole")
        scene.lose("c")
        with pytest.raises(Unavailable, match="needs 2 of its 3 voters"):
            store.replace_voter("a")
        assert head(store) == first
        scene.put_back("whole", cloud="c")
        store.remove_bucket("c", force=True)
        with pytest.raises(InvalidInput) as caught:
            store.replace_voter("a")
        assert caught.value.code == "voter_needed"
        assert push(store, scene, 2)
    with skyhold.open(str(scene.cloud("b"))) as store:
        assert store.engine_status().quorum == "whole"


def test_bucket_that_cannot_vote_is_refused_whichever_way_it_comes_and_nothing_is_changed(
    scene: Scene, ada: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        store.add_bucket("d", str(scene.cloud("d")), role="packs")
        monkeypatch.setattr(voters, "admit", lambda *_: replace(verdict, admitted=False, reasons=("two winners",)))
        verdict = AdmissionVerdict(True, (), 2, 2, 0, 2, 2, 0, 0, 0, 0.1)
        for change in (
            lambda: store.add_bucket("e", str(scene.cloud("e"))),
            lambda: store.set_roles({"d": "voter"}),
            lambda: store.replace_voter("a", "d"),
            lambda: store.replace_voter("a"),
        ):
            with pytest.raises(InvalidInput) as caught:
                change()
            assert caught.value.code == "voter_refused"
        assert store.engine_status().quorum == "whole"
        monkeypatch.undo()
        assert not (scene.cloud("e") / "store.json").exists()
        store.add_bucket("e", str(scene.cloud("e")))
        assert store.engine_status().epoch == 3


def test_replacement_that_is_none_is_refused(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        for name, by in (("a", "b"), ("a", "a")):
            with pytest.raises(InvalidInput) as caught:
                store.replace_voter(name, by)
            assert caught.value.code == "no_replacement"
        store.set_roles({"a": "voter"})
        assert store.engine_status().epoch == 1


def test_recovery_from_a_minority_that_dies_can_be_run_again(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
        level(store)
    scene.lose("a")
    scene.lose("b")
    scene.keep("lost")

    def recover(kill_at: int | None = None) -> int:
        fuse = Fuse(kill_at)
        insert_fuse(fuse)
        skyhold.recover(str(scene.cloud("c")), minority=True)[0].close()
        return len(fuse.calls)

    for number in range(1, in_child(recover).result + 1, 3):
        scene.put_back("lost")
        in_child(partial(recover, number))
        try:
            skyhold.recover(str(scene.cloud("c")), minority=True)[0].close()
        except InvalidInput as error:
            assert error.code == "nothing_to_recover"  # it had been done
        with skyhold.open(str(scene.cloud("c"))) as store:
            assert head(store) == first
            assert store.engine_status().quorum == "whole"


def test_admission_that_dies_leaves_the_store_usable(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
    scene.keep("whole")

    def readmit(kill_at: int | None = None) -> int:
        fuse = Fuse(kill_at)
        insert_fuse(fuse)
        with skyhold.open(str(scene.cloud("a"))) as store:
            store.replace_voter("b")
        return len(fuse.calls)

    calls = in_child(readmit).result
    for number in range(calls - 100, calls, 20):
        scene.put_back("whole")
        in_child(partial(readmit, number))
        assert (scene.cloud("b") / "store.json").exists()
        with skyhold.open(str(scene.cloud("c"))) as store:
            assert head(store) == first
            store.replace_voter("b")
            assert store.engine_status().quorum == "whole"
            assert head(store) == first


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


def test_voter_that_the_last_change_passed_over_is_brought_up_by_sync(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
    shutil.rmtree(scene.cloud("c") / "registers")  # as if its puts had all come too late
    with skyhold.open(str(scene.cloud("a"))) as store:
        level(store)
    scene.lose("a")
    scene.lose("b")
    with skyhold.open(str(scene.cloud("c")), max_age_s=math.inf) as store:
        assert head(store) == first
