"""Most voters are lost for good: the store begins anew with those that are left, after the user confirms it."""

from __future__ import annotations

from functools import partial

import pytest

import skyhold
from skyhold.buckets.bucket import Tagged
from skyhold.buckets.folder import FolderBucket
from skyhold.consensus.epochs import StoreRegisters
from skyhold.errors import InvalidInput, PermissionDenied, Unavailable
from tests.cli.models import contents
from tests.endtoend.killing import Fuse, in_child, insert_fuse, is_checkpoint
from tests.endtoend.machines import Machine, Scene
from tests.endtoend.stores import catch_up, catch_up_voters, epoch_in, head, move_in_child, push


def push_beside_packs(store: skyhold.Store, scene: Scene) -> str:
    """Push to a store in which d and e keep packs alone, until every bucket has the version; returns its digest."""
    for name in "de":
        store.add_bucket(name, str(scene.cloud(name)), role="packs")
    version = push(store, scene, 1)
    store.sync()
    return version


def test_minority_begins_anew_only_after_confirmation_that_the_others_are_lost(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
        catch_up(store)
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
        assert (report.epoch, report.registers, report.answered, report.majority) == (2, 3, ("c",), False)
        with recovered:
            assert head(recovered) == first
            recovered.remove_bucket("a", "b", force=True)
            second = push(recovered, scene, 2)
            assert recovered.verify(deep=True).sound
        with skyhold.open(url) as store:
            assert head(store) == second
            assert store.bucket_names == ["c"]
    assert epoch_in(scene.cloud("c")) == (3, ["c"])
    # A process that still has the old epoch finds the new one, also when one of the lost comes back.
    scene.put_back("whole", cloud="a")
    with ada.at_work(), skyhold.open(str(scene.cloud("a"))) as store:
        assert head(store) == second


def test_minority_takes_what_any_survivor_had_accepted(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        for name in ("d", "e"):
            store.add_bucket(name, str(scene.cloud(name)))
        push(store, scene, 1)
        catch_up(store)
        scene.keep("whole")
        scene.lose("a")
        second = push(store, scene, 2)
        catch_up(store)
    scene.put_back("whole", cloud="a")  # it does not have the second
    for name in "bcd":
        scene.lose(name)
    with Machine(scene.place / "eve").at_work():
        recovered, report = skyhold.recover(str(scene.cloud("a")), minority=True)
        with recovered:
            assert report.answered == ("a", "e")
            assert head(recovered) == second


def test_recovery_from_a_minority_that_dies_can_be_run_again(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
        catch_up(store)
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


def test_minority_begins_anew_where_the_others_refuse_the_credentials(
    scene: Scene, ada: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
        catch_up(store)
    read_tagged = FolderBucket.read_tagged

    def refused(bucket: FolderBucket, key: str, *, unless_tag: str | None = None) -> Tagged | None:
        if bucket.name in "ab":
            raise PermissionDenied(f"403 from {bucket.name}")
        return read_tagged(bucket, key, unless_tag=unless_tag)

    monkeypatch.setattr(FolderBucket, "read_tagged", refused)
    with pytest.raises(Unavailable) as caught:
        skyhold.recover(str(scene.cloud("c")))
    assert caught.value.code == "minority"
    recovered, report = skyhold.recover(str(scene.cloud("c")), minority=True)
    with recovered:
        assert (report.answered, head(recovered)) == (("c",), first)


def test_recovery_reports_why_registers_cannot_be_read_whose_voters_answer(
    scene: Scene, ada: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unfinished(_registers: StoreRegisters, _key: str) -> None:
        raise Unavailable("The store is moving to voters that are away", code="epoch_unfinished")

    monkeypatch.setattr(StoreRegisters, "read", unfinished)
    for minority in (False, True):
        with pytest.raises(Unavailable) as caught:
            skyhold.recover(str(scene.cloud("a")), minority=minority)
        assert caught.value.code == "epoch_unfinished"


def test_move_to_a_lost_machine_is_finished_with_a_minority_of_the_buckets_only_after_confirmation(
    scene: Scene, ada: Machine
) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push_beside_packs(store, scene)

    move_in_child(scene, "sqlite", is_checkpoint)
    for name in "cde":
        scene.lose(name)
    with Machine(scene.place / "eve").at_work():
        with pytest.raises(Unavailable) as caught:
            skyhold.recover(str(scene.cloud("a")))
        assert caught.value.code == "minority"
        recovered, report = skyhold.recover(str(scene.cloud("a")), minority=True)
        with recovered:
            assert (report.answered, report.majority) == (("a", "b"), False)
            assert head(recovered) == first
            recovered.remove_bucket("c", "d", "e", force=True)
            second = push(recovered, scene, 2)
        with skyhold.open(str(scene.cloud("b"))) as store:
            assert head(store) == second


def test_process_that_knew_the_lost_voters_all_along_has_no_majority_with_one_that_comes_back(
    scene: Scene, ada: Machine
) -> None:
    with skyhold.open(str(scene.cloud("a"))) as of_ada:
        push(of_ada, scene, 1)
        catch_up(of_ada)
        for name in "ab":
            scene.cloud(name).rename(scene.place / name)
        with Machine(scene.place / "eve").at_work(), skyhold.recover(str(scene.cloud("c")), minority=True)[0] as store:
            store.remove_bucket("a", "b", force=True)
            second = push(store, scene, 2)
        (scene.place / "a").rename(scene.cloud("a"))
        with ada.at_work(), pytest.raises(Unavailable):
            push(of_ada, scene, 3)
    with Machine(scene.place / "eve").at_work(), skyhold.open(str(scene.cloud("c"))) as store:
        assert head(store) == second


def test_epoch_that_no_bucket_reports_is_found_and_not_begun_anew(
    scene: Scene, ada: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that changed the voters died before any `store.json` was written, and most of the old voters are
    lost."""
    ben = Machine(scene.place / "ben")
    with skyhold.open(str(scene.cloud("a"))) as store:
        push_beside_packs(store, scene)
        with ben.at_work():
            of_ben = skyhold.connect(str(scene.cloud("c")))
        before = store._connection.registers.current
        with monkeypatch.context() as patch:
            patch.setattr("skyhold.store.reconfiguring.spread", lambda *_: None)
            store.set_roles({"a": "packs", "b": "packs", "d": "voter", "e": "voter"})
        catch_up_voters(before)  # c has the seal, too
    with ben.at_work():
        second = push(of_ben, scene, 2)
        of_ben.close()
    assert [epoch_in(scene.cloud(name))[0] for name in "cde"] == [3, 3, 3]
    for name in "ab":
        scene.lose(name)
    with Machine(scene.place / "eve").at_work():
        with pytest.raises(InvalidInput, match="nothing to recover"):
            skyhold.recover(str(scene.cloud("c")), minority=True)
        with skyhold.connect(str(scene.cloud("c"))) as store:
            assert head(store) == second


def test_register_that_no_survivor_has_in_the_new_epoch_keeps_its_last_value(
    scene: Scene, ada: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push_beside_packs(store, scene)
        catch_up(store)
        monkeypatch.setattr("skyhold.store.reconfiguring.spread", lambda *_: None)
        store.set_roles({"a": "packs", "b": "packs", "d": "voter", "e": "voter"})
        catch_up_voters(store._connection.registers.current)  # c has the configuration, too
    for register in (scene.cloud("c") / "registers" / "00000004").glob("repository-*"):
        register.unlink()
    for name in "bde":
        scene.lose(name)
    with Machine(scene.place / "eve").at_work(), skyhold.recover(str(scene.cloud("c")), minority=True)[0] as store:
        assert head(store) == first


def test_buckets_whose_store_json_is_lost_are_recovered_with_what_they_hold_and_none_that_names_another_store(
    scene: Scene, ada: Machine
) -> None:
    with skyhold.open(str(scene.cloud("c"))) as store:
        push(store, scene, 1)
        catch_up(store)
        scene.keep("catch-up")
        newest = push(store, scene, 2)
        catch_up(store)
    scene.put_back("catch-up", cloud="c")  # as one that lags by the second push
    with Machine(scene.place / "eve").at_work():
        skyhold.init([str(scene.cloud("other"))]).close()
    foreign = (scene.cloud("other") / "store.json").read_bytes()
    (scene.cloud("a") / "store.json").unlink()
    (scene.cloud("b") / "store.json").write_bytes(foreign)
    url = str(scene.cloud("c"))
    with Machine(scene.place / "ben").at_work():
        with pytest.raises(Unavailable) as caught:
            skyhold.recover(url)
        assert caught.value.code == "minority"
        recovered, report = skyhold.recover(url, minority=True)
        with recovered:
            assert (report.answered, list(report.failed), report.majority) == (("a", "c"), ["b"], True)
            assert head(recovered) == newest, "what only a and b had accepted is not lost"
    assert (scene.cloud("b") / "store.json").read_bytes() == foreign
