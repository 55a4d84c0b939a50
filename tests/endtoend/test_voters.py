"""Voters come, go and are admitted again while machines work: engine `buckets`."""

from __future__ import annotations

import math
import shutil
import signal
from dataclasses import replace
from functools import partial

import pytest

import skyhold
from skyhold.buckets.admission import AdmissionVerdict
from skyhold.buckets.folder_making import create_folder_bucket
from skyhold.errors import InvalidInput, Unavailable
from skyhold.registry.store import Store
from skyhold.store import voters
from skyhold.store.bell import encode_bell
from tests.cli.models import contents
from tests.endtoend.killing import Fuse, in_child, insert_fuse
from tests.endtoend.machines import Machine, Scene
from tests.endtoend.stores import catch_up, epoch_in, head, push


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
        catch_up(store)  # a put that comes late would leave something in it
        scene.empty("b")
        report = store.repair()
        assert report.readmitted == ("b",)
        assert report.sound
    assert epoch_in(scene.cloud("b")) == epoch_in(scene.cloud("c")) == (2, ["a", "b", "c"])
    scene.lose("a")
    with skyhold.open(str(scene.cloud("b"))) as store:
        assert head(store) == first
        second = push(store, scene, 2)
        store.repository("team/m").pull("main", scene.place / "pulled")
        assert second == head(store)
    assert contents(scene.place / "pulled") == contents(scene.place / "model-2")


@pytest.mark.parametrize("way", ["repair", "replace", "remove and add"])
def test_emptied_bucket_in_which_a_client_rang_the_bell_is_admitted_again(scene: Scene, ada: Machine, way: str) -> None:
    cloud = scene.cloud("b")
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
        catch_up(store)
        scene.empty("b")
        create_folder_bucket(cloud)
        bell = encode_bell({"names": 2}, store.id, store._connection.keys)
        (cloud / "bell").write_bytes(bell)
        if way == "repair":
            assert store.repair().readmitted == ("b",)
        elif way == "replace":
            store.replace_voter("b")
        else:
            store.remove_bucket("b")
            store.add_bucket("b", str(cloud))
        assert store.repair().sound
    scene.lose("a")
    with skyhold.open(str(cloud)) as store:
        assert head(store) == first


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
        catch_up(store)
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
        assert store.repair().readmitted == ("b",)
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


def test_rolled_back_bucket_is_not_admitted_by_those_that_report_the_epoch(scene: Scene, ada: Machine) -> None:
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
        catch_up(store)
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


def test_voter_that_lags_by_the_last_change_is_brought_up_by_sync(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
        catch_up(store)
    shutil.rmtree(scene.cloud("c") / "registers")  # as if all its puts had come too late
    with Machine(scene.place / "eve").at_work(), skyhold.open(str(scene.cloud("a"))) as store:
        catch_up(store)
    scene.lose("a")
    scene.lose("b")
    with skyhold.open(str(scene.cloud("c")), max_age_s=math.inf) as store:
        assert head(store) == first


def test_removal_that_leaves_one_copy_of_what_has_several_needs_force(store: Store) -> None:
    with pytest.raises(InvalidInput, match="Only `a` would be left") as refused:
        store.remove_bucket("b", "c")
    assert refused.value.code == "one_copy_left"
    assert store.bucket_names == ["a", "b", "c"]
    store.remove_bucket("c")
    with pytest.raises(InvalidInput):
        store.remove_bucket("b")
    store.remove_bucket("b", force=True)
    assert store.bucket_names == ["a"]
