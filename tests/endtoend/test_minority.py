"""Most voters are lost for good: the store begins anew with those that are left, where somebody says so."""

from __future__ import annotations

from functools import partial

import pytest

import skyhold
from skyhold.errors import InvalidInput, Unavailable
from tests.cli.models import contents
from tests.endtoend.killing import Fuse, in_child, insert_fuse
from tests.endtoend.machines import Machine, Scene
from tests.endtoend.stores import epoch_in, head, level, push


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
