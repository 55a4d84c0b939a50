"""A machine that has seen newer refs refuses older ones, and names the buckets that went back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import skyhold
from skyhold.errors import Corrupt, InvalidInput, SkyholdError
from skyhold.registry.lifecycle import recover_register
from skyhold.store.register_recovery import RegisterPlan
from tests.endtoend.killing import in_child
from tests.endtoend.machines import Machine, Scene
from tests.endtoend.stores import catch_up, head, push


def refs_of(scene: Scene, cloud: str) -> Path:
    """The register of the one repository."""
    (path,) = (scene.cloud(cloud) / "registers").rglob("repository-*")
    return path


def pushed_twice(scene: Scene, kept: Callable[[str], object]) -> tuple[str, str]:
    """The digests of two pushes; between them, when all voters are level, each cloud's state is handed to `kept`."""
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
        catch_up(store)
        for cloud in "abc":
            kept(cloud)
        second = push(store, scene, 2)
        catch_up(store)
    return first, second


def keep_register(scene: Scene) -> Callable[[str], object]:
    return lambda cloud: shutil.copy(refs_of(scene, cloud), scene.place / f"register-{cloud}")


def replay(scene: Scene, *clouds: str) -> None:
    for cloud in clouds:
        shutil.copy(scene.place / f"register-{cloud}", refs_of(scene, cloud))


def test_register_that_is_replayed_in_two_of_three_buckets_is_refused(scene: Scene, ada: Machine) -> None:
    pushed_twice(scene, keep_register(scene))
    replay(scene, "a", "b")
    for name in "abc":
        with skyhold.open(str(scene.cloud(name))) as store:
            with pytest.raises(Corrupt) as caught:
                head(store)
            assert caught.value.code == "register_rolled_back"
            assert caught.value.fields["buckets"] == ["a", "b"]
            with pytest.raises(SkyholdError):
                push(store, scene, 3)


def test_register_that_is_replayed_is_refused_by_the_process_that_goes_on(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        pushed_twice(scene, keep_register(scene))
        head(store)
        replay(scene, "a", "b")
        with pytest.raises(Corrupt) as caught:
            head(store)
        assert caught.value.code == "register_rolled_back"


def test_process_that_pushed_and_is_gone_leaves_what_it_saw_to_the_next(scene: Scene, ada: Machine) -> None:
    in_child(lambda: pushed_twice(scene, keep_register(scene)))
    replay(scene, "b", "c")
    with skyhold.open(str(scene.cloud("a"))) as store, pytest.raises(Corrupt) as caught:
        head(store)
    assert caught.value.fields["buckets"] == ["b", "c"]


def test_one_rolled_back_bucket_is_skipped(scene: Scene, ada: Machine) -> None:
    _, second = pushed_twice(scene, keep_register(scene))
    replay(scene, "c")
    with skyhold.open(str(scene.cloud("a"))) as store:
        assert head(store) == second
        push(store, scene, 3)


@pytest.mark.parametrize("cloud", ["a", "c"])
def test_bucket_that_went_back_is_named_as_damaged_and_mended_and_another_can_be_lost_then(
    cloud: str, scene: Scene, ada: Machine
) -> None:
    _, second = pushed_twice(scene, keep_register(scene))
    key = refs_of(scene, cloud).relative_to(scene.cloud(cloud)).as_posix()
    replay(scene, cloud)
    with skyhold.open(str(scene.cloud("b"))) as store:
        for deep in (False, True):
            report = store.verify(deep=deep)
            found = [(finding.bucket, finding.key, finding.problem) for finding in report.findings]
            assert (report.sound, found, report.lagging) == (False, [(cloud, key, "damaged")], {})
        report = store.repair()
        assert (report.sound, report.epoch, [finding.key for finding in report.mended]) == (True, 2, [key])
        catch_up(store)
        assert store.verify(deep=True).sound
    scene.lose("b")
    with skyhold.open(str(scene.cloud(cloud))) as store:
        assert head(store) == second
        push(store, scene, 3)


@pytest.mark.parametrize("away", [False, True])
def test_bucket_that_was_restored_makes_no_majority_with_one_that_lagged(
    scene: Scene, ada: Machine, *, away: bool
) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
        catch_up(store)
        scene.keep("first")
    scene.lose("c")
    with skyhold.open(str(scene.cloud("a"))) as store:
        second = push(store, scene, 2)
        catch_up(store)
    scene.put_back("first", cloud="c")
    scene.put_back("first", cloud="b")
    if away:
        scene.lose("a")
        with skyhold.open(str(scene.cloud("c"))) as store, pytest.raises(Corrupt) as caught:
            head(store)
        assert caught.value.code == "register_rolled_back"
        with Machine(scene.place / "eve").at_work(), skyhold.open(str(scene.cloud("c"))) as store:
            assert head(store) == first  # a new machine cannot detect it
        return
    with skyhold.open(str(scene.cloud("a"))) as store:
        assert head(store) == second  # a has it, and answers


def test_register_that_is_deleted_in_two_buckets_is_refused(scene: Scene, ada: Machine) -> None:
    pushed_twice(scene, keep_register(scene))
    for cloud in "ab":
        refs_of(scene, cloud).unlink()
    with skyhold.open(str(scene.cloud("c"))) as store, pytest.raises(Corrupt) as caught:
        head(store)
    assert caught.value.code == "register_lost"
    assert caught.value.fields["buckets"] == ["a", "b"]
    with Machine(scene.place / "eve").at_work(), skyhold.open(str(scene.cloud("c"))) as store:
        with pytest.raises(Corrupt) as met:
            head(store)
        # A new machine does not know that it existed, and reports the same.
        assert (met.value.code, met.value.message, met.value.hint) == (
            caught.value.code, caught.value.message, caught.value.hint
        )  # fmt: skip


def test_store_whose_buckets_were_all_restored_is_refused_until_the_user_accepts_it(scene: Scene, ada: Machine) -> None:
    def keep(cloud: str) -> None:
        shutil.copytree(scene.cloud(cloud), scene.place / f"kept-{cloud}")

    first, second = pushed_twice(scene, keep)
    assert first != second
    for cloud in "abc":
        scene.lose(cloud)
        shutil.copytree(scene.place / f"kept-{cloud}", scene.cloud(cloud))
    url = str(scene.cloud("a"))
    with skyhold.open(url) as store, pytest.raises(Corrupt) as caught:
        head(store)
    assert caught.value.fields["buckets"] == ["a", "b", "c"]
    assert "--accept-rollback" in str(caught.value.hint)
    skyhold.connect(url, accept_rollback=True).close()
    with skyhold.open(url) as store:
        assert head(store) == first
        third = push(store, scene, 3)
        assert head(store) == third


def test_epoch_of_before_is_refused_where_its_buckets_are_restored(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 1)
        catch_up(store)
        scene.keep("first")
        for name in "de":
            store.add_bucket(name, str(scene.cloud(name)))
        push(store, scene, 2)
        catch_up(store)
    for name in "abc":
        scene.put_back("first", cloud=name)
    for name in "de":
        scene.lose(name)
    with skyhold.open(str(scene.cloud("a"))) as store, pytest.raises(Corrupt) as caught:
        head(store)
    assert caught.value.code == "register_rolled_back"


def test_voter_that_is_admitted_again_counts_though_it_went_back(scene: Scene, ada: Machine) -> None:
    _, second = pushed_twice(scene, keep_register(scene))
    replay(scene, "c")
    with skyhold.open(str(scene.cloud("a"))) as store:
        store.replace_voter("c")
        catch_up(store)
    scene.lose("a")
    with skyhold.open(str(scene.cloud("c"))) as store:
        assert head(store) == second
        push(store, scene, 3)


def test_sound_voter_is_not_made_to_begin_anew_while_another_has_gone_back(scene: Scene, ada: Machine) -> None:
    _, second = pushed_twice(scene, keep_register(scene))
    replay(scene, "a")
    with skyhold.open(str(scene.cloud("b"))) as store:
        for sound in "bc":
            with pytest.raises(InvalidInput) as caught:
                store.replace_voter(sound)
            assert (caught.value.code, str(caught.value.hint).rsplit(" ", 1)[1]) == ("voter_needed", "a")
        store.replace_voter("a")
        store.replace_voter("c")
        assert head(store) == second


def test_status_names_the_voter_that_went_back(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 1)
        catch_up(store)
        (names,) = (scene.cloud("c") / "registers").rglob("names")
        before = names.read_bytes()
        push(store, scene, 2, "team/other")
        catch_up(store)
    names.write_bytes(before)
    with skyhold.open(str(scene.cloud("a"))) as store:
        status = store.engine_status()
    assert (status.quorum, [voter.name for voter in status.voters if voter.error]) == ("degraded", ["c"])


def test_machine_that_begins_anew_with_a_minority_goes_on_with_less(scene: Scene, ada: Machine) -> None:
    first, _ = pushed_twice(scene, keep_register(scene))
    replay(scene, "c")
    scene.lose("a")
    scene.lose("b")
    url = str(scene.cloud("c"))
    recovered, _ = skyhold.recover(url, minority=True)
    with recovered:
        assert head(recovered) == first
        recovered.remove_bucket("a", "b", force=True)
        third = push(recovered, scene, 3)
    with skyhold.open(url) as store:
        assert head(store) == third


@pytest.mark.parametrize("lost", [False, True])
def test_register_that_was_rolled_back_goes_on_from_the_newest_that_a_bucket_holds(
    scene: Scene, ada: Machine, *, lost: bool
) -> None:
    first, second = pushed_twice(scene, keep_register(scene))
    replay(scene, *("abc" if lost else "ab"))
    url = str(scene.cloud("a"))
    with skyhold.open(url) as store:
        with pytest.raises(Corrupt) as caught:
            head(store)
        assert f"skyhold recover URL --register {caught.value.fields['key']}" in str(caught.value.hint)
    plans: list[RegisterPlan] = []
    recover_register(url, str(caught.value.fields["key"]), consent=plans.append)[0].close()
    assert [finding.state for finding in plans[0].voters] == ["older", "older", "older" if lost else "intact"]
    assert [finding.chosen for finding in plans[0].voters] == [lost, lost, True]
    with skyhold.open(url) as store:
        assert head(store) == (first if lost else second)
        third = push(store, scene, 3)
        assert head(store) == third


@pytest.mark.parametrize("clouds", ["a", "abc"])
def test_machine_that_holds_the_registers_does_not_go_back_with_a_store_document(clouds: str, tmp_path: Path) -> None:
    scene = Scene(tmp_path / "scene")
    scene.place.mkdir()
    with scene.machine.at_work():
        with skyhold.init(scene.clouds(), engine="sqlite") as store:
            push(store, scene, 1)
        before = {cloud: (scene.cloud(cloud) / "store.json").read_bytes() for cloud in clouds}
        skyhold.recover(scene.clouds()[0])[0].close()  # which begins the next epoch
        with skyhold.open(scene.clouds()[0]) as store:
            second = push(store, scene, 2)
        for cloud, body in before.items():
            (scene.cloud(cloud) / "store.json").write_bytes(body)
        with skyhold.open(scene.clouds()[0]) as store:
            assert head(store) == second
            third = push(store, scene, 3)
        with skyhold.open(scene.clouds()[1]) as store:
            assert head(store) == third
            assert store.verify(deep=True).sound
