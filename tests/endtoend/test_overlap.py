"""A store whose buckets share a place would count copies that are none."""

from __future__ import annotations

import shutil

import pytest

import skyhold
from skyhold.cli.main import main
from skyhold.errors import AlreadyExists, InvalidInput, SkyholdError
from tests.cli.models import contents
from tests.cli.running import Shell
from tests.endtoend.machines import Machine, Scene


@pytest.mark.parametrize("places", [("a", "a/inside"), ("a/inside", "a"), ("a", "link"), ("a", "link/inside")])
def test_init_refuses_buckets_that_share_a_place_and_leaves_nothing(scene: Scene, places: tuple[str, str]) -> None:
    scene.cloud("a").mkdir(parents=True)
    scene.cloud("link").symlink_to(scene.cloud("a"))
    with pytest.raises(InvalidInput) as caught:
        skyhold.init([str(scene.cloud(place)) for place in places], names=["x", "y"])
    assert caught.value.code == "buckets_overlap"
    assert list(scene.cloud("a").iterdir()) == []


@pytest.mark.usefixtures("ada")
def test_bucket_add_refuses_a_place_of_a_bucket_that_is_there(scene: Scene) -> None:
    scene.cloud("link").symlink_to(scene.cloud("a"))
    with skyhold.open(str(scene.cloud("a"))) as store:
        for place, dry_run in (("link", False), ("a/inside", False), ("link/inside", True)):
            with pytest.raises(InvalidInput) as caught:
                store.add_bucket("d", str(scene.cloud(place)), dry_run=dry_run)
            assert caught.value.code == "buckets_overlap"
        assert store.bucket_names == ["a", "b", "c"]
        with pytest.raises(AlreadyExists):
            store.add_bucket("a", str(scene.cloud("d")))


@pytest.mark.usefixtures("ada")
def test_connect_refuses_a_store_two_of_whose_buckets_are_one_here(scene: Scene) -> None:
    scene.lose("c")
    scene.cloud("c").symlink_to(scene.cloud("b"))
    with Machine(scene.place / "ben").at_work(), pytest.raises(SkyholdError) as caught:
        skyhold.connect(str(scene.cloud("a")))
    assert caught.value.code == "buckets_overlap"


def test_commands_make_no_bucket_in_memory(scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    shell = Shell(capfd)
    assert shell("init", "memory://a", "--json", status=2).error["code"] == "memory_bucket"
    assert shell("init", scene.cloud("a"), "MEMORY://b", "--json", status=2).error["code"] == "memory_bucket"
    assert shell("connect", "memory://a", "--json", status=2).error["code"] == "memory_bucket"
    assert not scene.cloud("a").exists()
    assert main(["init", str(scene.cloud("a"))]) == 0
    added = shell("bucket", "add", "m", "memory://m", "--store", scene.cloud("a"), "--json", status=2)
    assert added.error["code"] == "memory_bucket"


@pytest.mark.usefixtures("ada")
def test_place_inside_a_bucket_of_another_store_is_refused_and_nothing_is_written_there(scene: Scene) -> None:
    before = contents(scene.cloud("a"))
    scene.cloud("link").symlink_to(scene.cloud("a"))
    (scene.cloud("copy")).mkdir()
    shutil.copy(scene.cloud("a") / "store.json", scene.cloud("copy"))  # as a bucket that was brought from a cloud
    with Machine(scene.place / "ben").at_work():
        for place in ("a/inside", "a/packs/deeper/down", "link/inside", "copy/inside"):
            for places in ([place], ["x", place]):
                with pytest.raises(InvalidInput) as caught:
                    skyhold.init([str(scene.cloud(name)) for name in places], names=["p", "q"][: len(places)])
                assert caught.value.code == "inside_bucket"
        assert not scene.cloud("x").exists()
        with pytest.raises(InvalidInput):
            skyhold.init([str(scene.place / "clouds")])  # around it
        with skyhold.init([str(scene.cloud(name)) for name in "xyz"]) as store:
            for dry_run in (True, False):
                with pytest.raises(InvalidInput) as caught:
                    store.add_bucket("d", str(scene.cloud("a/inside")), dry_run=dry_run)
                assert caught.value.code == "inside_bucket"
            store.add_bucket("d", str(scene.cloud("around/d")))
            scene.lose("around")
    with Machine(scene.place / "eve").at_work():
        skyhold.init([str(scene.cloud("around"))]).close()  # where the bucket was that is gone
    around = contents(scene.cloud("around"))
    scene.cloud("around/d").mkdir()
    with Machine(scene.place / "ben").at_work(), skyhold.open(str(scene.cloud("x"))) as store:
        with pytest.raises(InvalidInput) as caught:
            store.replace_voter("d")
        assert caught.value.code == "inside_bucket"
        assert "is inside" in store.repair().unreachable["d"]
    assert contents(scene.cloud("around")) == around
    assert contents(scene.cloud("a")) == before
