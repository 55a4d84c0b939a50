"""The register of one repository is damaged, or gone, in two of three clouds: the others go on, and it can be
recovered."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import skyhold as api
from skyhold.consensus.acceptor_object import object_key
from skyhold.errors import Corrupt, SkyholdError
from skyhold.registry.lifecycle import recover_register
from skyhold.registry.root import register_key
from skyhold.store.register_recovery import RegisterPlan
from tests.cli.models import contents, write_model
from tests.cli.running import Shell
from tests.endtoend.killing import Fuse, in_child, insert_fuse
from tests.endtoend.machines import Machine, Scene
from tests.endtoend.stores import catch_up, catch_up_voters, epoch_in, head, push

HARMED, OTHER = "fraud/harmed", "fraud/other"
Damage = Callable[[Path], None]


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 0x10
    path.write_bytes(body)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def enlarge(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(64 << 20)


DAMAGES: dict[str, Damage] = {
    "flip": flip, "truncate": truncate, "empty": empty, "enlarge": enlarge, "delete": Path.unlink
}  # fmt: skip
WORST: list[str] = ["flip", "delete"]
UNREADABLE = {"register_damaged", "register_lost", "register_rolled_back"}
"""Of a register that was deleted it is the last on a machine that has seen what the voters promised before."""


@pytest.fixture
def skyhold(scene: Scene, capfd: pytest.CaptureFixture[str]) -> Shell:
    """`skyhold(…)` runs a command on the machine at work."""
    return Shell(capfd)


@pytest.fixture
def two(scene: Scene) -> dict[str, str]:
    """A store with two repositories, of two versions each; every voter has the last change. Returns the newest."""
    with api.init(scene.clouds()) as store:
        for seed in (1, 2):
            push(store, scene, seed, HARMED)
            push(store, scene, seed + 10, OTHER)
        catch_up_voters(store._connection.registers.current)
        return {name: head(store, name) for name in (HARMED, OTHER)}


def register_of(scene: Scene, name: str, cloud: str) -> Path:
    """The object of a repository's register (or of `config` or `names`) in a cloud, in the newest epoch."""
    with api.open(str(scene.cloud(cloud))) as store:
        key = name if name in {"config", "names"} else register_key(store.repository(name).id)
        return scene.cloud(cloud) / object_key(store.engine_status().epoch, key)


def way_back_of(hint: str, url: str) -> list[str]:
    """The command to bring a register back that a hint names, for this bucket."""
    named = re.search(r"skyhold recover URL --register ([a-z]+(?:/[0-9a-f]{32})?)", hint)
    assert named is not None, hint
    return ["recover", url, "--register", named[1]]


def harm(scene: Scene, damage: str, *clouds: str, name: str = HARMED) -> None:
    for path in [register_of(scene, name, cloud) for cloud in clouds]:
        DAMAGES[damage](path)


def bring_back(scene: Scene, *, cloud: str = "a", empty: bool = False) -> RegisterPlan:
    """Recover the harmed register; returns the plan that the user would have consented to."""
    plans: list[RegisterPlan] = []
    store, report = recover_register(str(scene.cloud(cloud)), HARMED, empty=empty, consent=plans.append)
    store.close()
    assert plans == [report.plan]
    return report.plan


@pytest.mark.parametrize("damage", DAMAGES)
def test_other_repositories_go_on_and_every_command_reports_the_damaged_one(
    damage: str, two: dict[str, str], scene: Scene, skyhold: Shell, tmp_path: Path
) -> None:
    harm(scene, damage, "a", "b")
    store = ["--store", str(scene.cloud("c"))]
    listed = skyhold("list", "--json", *store, status=10)
    assert [item["name"] for item in listed.document["repositories"]] == [OTHER]
    assert [item["name"] for item in listed.document["unread"]] == [HARMED]
    assert "recover URL --register repository/" in listed.error["hint"]
    assert OTHER in skyhold("list", *store, status=10).out
    found = skyhold("search", "name:fraud", "--json", *store, status=10)
    assert {hit["repository"] for hit in found.document["hits"]} == {OTHER}
    assert [item["name"] for item in found.document["unread"]] == [HARMED]
    assert skyhold("search", "name:other", "--json", *store).document["unread"] == []
    status = skyhold("status", "--json", *store, status=10).document
    assert [item["name"] for item in status["repositories"]] == [OTHER]
    assert [item["name"] for item in status["unread"]] == [HARMED]
    assert "recover URL --register repository/" in skyhold("status", *store, status=10).out
    for command in (["verify"], ["verify", "--deep"], ["sync"], ["repair"]):
        ended = skyhold(*command, "--json", *store, status=10)
        report = ended.document
        assert not report["sound"]
        assert any(f"Repository {HARMED} cannot be read" in sentence for sentence in report["damage"])
        named = [finding["key"] for finding in report.get("findings", []) + report.get("failed", [])]
        assert all(key.startswith("registers/00000001/repository-") for key in named)
        assert "recover URL --register repository/" in ended.error["hint"]
    assert skyhold("verify", "--deep", "--repository", OTHER, "--json", *store).document["sound"]
    assert f"repository {HARMED}" in skyhold("doctor", *store, status=1).out
    for command in (["log"], ["show"], ["ref", "list"], ["pull"], ["verify", "--repository"]):
        place = [str(tmp_path / "pulled")] if command == ["pull"] else []
        skyhold(*command, HARMED, *place, *store, status=10)
    model = write_model(tmp_path / "more", seed=30)
    refused = skyhold("push", HARMED, model, "--json", *store, status=10)
    assert refused.error["code"] in UNREADABLE
    skyhold("push", OTHER, model, *store)
    assert len(skyhold("log", OTHER, "--json", *store).document["versions"]) == 3
    skyhold("repository", "rename", OTHER, "fraud/renamed", *store)
    skyhold("push", "fraud/new", model, *store)
    skyhold("repository", "delete", "fraud/new", "--yes", *store)
    skyhold("store", "voters", "show", *store)
    skyhold("bucket", "check", "c", *store)


@pytest.mark.parametrize("damage", WORST)
def test_buckets_voters_and_engine_wait_for_the_damaged_register_and_nothing_is_changed_then(
    damage: str, two: dict[str, str], scene: Scene, skyhold: Shell
) -> None:
    harm(scene, damage, "a", "b")
    store = ["--store", str(scene.cloud("c"))]
    before = {name: contents(scene.cloud(name)) for name in "abc"}
    for command in (
        ["store", "voters", "replace", "a"],
        ["store", "voters", "replace", "c"],
        ["store", "voters", "remove", "b"],
        ["bucket", "add", "d", str(scene.cloud("d"))],
        ["bucket", "remove", "b", "--force", "--yes"],
        ["store", "engine", "set", "sqlite", "--yes"],
    ):
        refused = skyhold(*command, "--json", *store, status=10).error
        assert refused["code"] in UNREADABLE
        assert "recover URL --register repository/" in refused["hint"]
    assert {name: contents(scene.cloud(name)) for name in "abc"} == before
    assert not scene.cloud("d").exists()
    plan = bring_back(scene)
    assert (plan.source, plan.lossless) == ("voters", False)
    for command in (["store", "voters", "replace", "a"], ["bucket", "add", "d", str(scene.cloud("d"))]):
        skyhold(*command, *store)
    skyhold("sync", *store)
    assert skyhold("verify", "--deep", "--json", *store).document["sound"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_register_is_recovered_by_the_command_in_the_hint(
    damage: str, two: dict[str, str], scene: Scene, skyhold: Shell, tmp_path: Path
) -> None:
    harm(scene, damage, "a", "c")
    url = str(scene.cloud("a"))
    hint = skyhold("log", HARMED, "--json", "--store", url, status=10).error["hint"]
    command = way_back_of(hint, url)
    before = {name: contents(scene.cloud(name)) for name in "abc"}
    shown = skyhold(*command, status=2)
    assert "b: intact" in shown.err
    assert "may" not in shown.out
    assert "Changes after version" in shown.err
    assert {name: contents(scene.cloud(name)) for name in "abc"} == before
    report = skyhold(*command, "--yes", "--json").document
    assert report["epoch"] == 2
    states = {finding["voter"]: finding["state"] for finding in report["plan"]["voters"]}
    assert states.pop("b") == "intact"
    assert set(states) == {"a", "c"}
    assert set(states.values()) <= {"absent", "damaged"}
    skyhold("verify", "--deep", "--store", url)
    assert skyhold("list", "--json", "--store", url).document["unread"] == []
    with api.open(url) as store:
        assert {name: head(store, name) for name in (HARMED, OTHER)} == two
        third = push(store, scene, 3, HARMED)
        store.sync()
    for lost in "ab":
        scene.keep("whole")
        scene.lose(lost)
        with Machine(scene.place / "eve").at_work(), api.connect(str(scene.cloud("c"))) as store:
            assert head(store, HARMED) == third
        scene.put_back("whole")


def test_register_is_brought_back_while_the_third_cloud_is_empty_and_that_one_is_admitted_afterwards(
    two: dict[str, str], scene: Scene, skyhold: Shell
) -> None:
    harm(scene, "flip", "a")
    scene.empty("b")
    store = ["--store", str(scene.cloud("c"))]
    report = skyhold("repair", "--json", *store, status=10).document
    assert report["readmitted"] == []
    assert "skyhold recover URL --register" in report["unreachable"]["b"]
    skyhold("push", OTHER, write_model(scene.place / "more", seed=30), *store)
    plan = bring_back(scene, cloud="c")
    assert [finding.state for finding in plan.voters] == ["damaged", "unknown", "intact"]
    skyhold("repair", *store)
    assert skyhold("verify", "--deep", "--json", *store).document["sound"]
    with api.open(str(scene.cloud("b"))) as opened:
        assert head(opened, HARMED) == two[HARMED]
        assert opened.engine_status().quorum == "whole"


def test_cloud_that_is_away_is_to_be_brought_back_first_since_it_may_hold_what_was_acknowledged(
    two: dict[str, str], scene: Scene, skyhold: Shell
) -> None:
    scene.keep("before")
    with api.open(str(scene.cloud("a"))) as store:
        third = push(store, scene, 3, HARMED)
        catch_up_voters(store._connection.registers.current)
    scene.put_back("before", cloud="c")  # as one that lags by the push
    harm(scene, "flip", "a")
    scene.keep("damaged")
    scene.lose("b")
    url = str(scene.cloud("c"))
    with Machine(scene.place / "eve").at_work():
        skyhold("connect", url)
        for command in (["log", HARMED], ["verify"], ["sync"], ["repair"]):
            error = skyhold(*command, "--json", "--store", url, status=10).error
            assert error["hint"].startswith("First bring back `b`")
            assert "skyhold recover URL --register repository/" in error["hint"]
        shown = skyhold("recover", url, "--register", HARMED, status=2)
        assert "so bring it back first" in shown.err
        scene.put_back("damaged", cloud="b")
        with api.open(url) as store:
            assert head(store, HARMED) == third
            store.repair()
            assert head(store, HARMED) == third


def test_voter_that_holds_the_last_sound_copy_but_one_is_not_made_to_forget_it(
    two: dict[str, str], scene: Scene, skyhold: Shell
) -> None:
    harm(scene, "flip", "b")
    store = ["--store", str(scene.cloud("c"))]
    assert skyhold("list", "--json", *store).document["unread"] == []
    for sound in "ac":
        refused = skyhold("store", "voters", "replace", sound, "--json", *store, status=2).error
        assert (refused["code"], refused["hint"].rsplit(" ", 1)[1]) == ("voter_needed", "b")
    nothing = skyhold("recover", scene.cloud("c"), "--register", HARMED, "--json", "--yes", status=2).error
    assert (nothing["code"], nothing["hint"].rsplit(" ", 1)[1]) == ("nothing_to_recover", "b")
    skyhold("store", "voters", "replace", "b", *store)
    skyhold("sync", *store)
    skyhold("store", "voters", "replace", "a", *store)
    with api.open(str(scene.cloud("a"))) as opened:
        assert head(opened, HARMED) == two[HARMED]


@pytest.mark.parametrize("damage", WORST)
@pytest.mark.parametrize("register", ["config", "names"])
def test_registers_that_the_whole_store_needs_have_a_way_back(
    register: str, damage: str, two: dict[str, str], scene: Scene, skyhold: Shell
) -> None:
    harm(scene, damage, "a", "b", name=register)
    url = str(scene.cloud("a"))
    before = {name: contents(scene.cloud(name)) for name in "abc"}
    model = write_model(scene.place / "more", seed=30)
    for command in (["list"], ["status"], ["push", OTHER, model], ["push", "fraud/new", model]):
        error = skyhold(*command, "--json", "--store", url, status=10).error
        assert error["code"] in UNREADABLE
        assert f"skyhold recover URL --register {register}" in error["hint"]
    for command in (["verify"], ["sync"], ["repair"]):
        error = skyhold(*command, "--json", "--store", url, status=10).error
        assert f"skyhold recover URL --register {register}" in error["hint"]
    for minority in ([], ["--minority"]):
        error = skyhold("recover", url, *minority, "--yes", "--json", status=10).error
        assert f"skyhold recover URL --register {register}" in error["hint"]
    assert {name: contents(scene.cloud(name)) for name in "abc"} == before
    skyhold("recover", url, "--register", register, "--yes")
    skyhold("verify", "--deep", "--store", url)
    assert epoch_in(scene.cloud("a"))[0] == 2
    with api.open(str(scene.cloud("c"))) as store:
        assert {name: head(store, name) for name in (HARMED, OTHER)} == two
        push(store, scene, 3, HARMED)
        store.add_bucket("d", str(scene.cloud("d")))


def test_recovery_that_is_asked_for_everything_names_the_register_that_is_damaged(
    two: dict[str, str], scene: Scene, skyhold: Shell
) -> None:
    harm(scene, "flip", "a", "b")
    for minority in ([], ["--minority"]):
        error = skyhold("recover", scene.cloud("a"), *minority, "--yes", "--json", status=10).error
        assert error["code"] == "register_damaged"
        assert "skyhold recover URL --register repository/" in error["hint"]


def test_process_that_still_works_in_the_epoch_before_goes_on_with_the_register(
    two: dict[str, str], scene: Scene
) -> None:
    with api.open(str(scene.cloud("a"))) as old:
        assert head(old, OTHER) == two[OTHER]
        harm(scene, "flip", "a", "b")
        with pytest.raises(Corrupt):
            head(old, HARMED)
        bring_back(scene)
        assert head(old, HARMED) == two[HARMED]
        push(old, scene, 4, HARMED)


def test_damaged_bytes_that_come_back_after_a_recovery_are_no_second_store(two: dict[str, str], scene: Scene) -> None:
    scene.keep("sound")
    with api.open(str(scene.cloud("a"))) as old:
        head(old, HARMED)
        harm(scene, "flip", "a", "b")
        bring_back(scene)
        for cloud in "ab":  # the old objects of one cloud after the other
            path = register_of(scene, HARMED, cloud)
            first = path.parent.parent / "00000001" / path.name
            kept = first.read_bytes()
            sound = scene.place.with_name(f"{scene.place.name}-sound") / first.relative_to(scene.place)
            shutil.copy(sound, first)
            with api.open(str(scene.cloud("c"))) as new:
                third = push(new, scene, 5 + ord(cloud), HARMED)
            assert head(old, HARMED) == third
            first.write_bytes(kept)


def test_register_that_no_voter_holds_intact_begins_from_the_epoch_before_or_empty(
    two: dict[str, str], scene: Scene, skyhold: Shell
) -> None:
    url = str(scene.cloud("a"))
    harm(scene, "flip", "a", "b", "c")
    error = skyhold("recover", url, "--register", HARMED, "--yes", "--json", status=10).error
    assert error["hint"].endswith("--empty")
    plan = bring_back(scene, empty=True)
    assert (plan.source, plan.events) == ("nothing", 1)
    with api.open(url) as store:
        assert store.repository(HARMED).refs() == []
        push(store, scene, 1, HARMED)
        assert head(store, OTHER) == two[OTHER]
        store.add_bucket("d", str(scene.cloud("d")))
        again = push(store, scene, 2, HARMED)
    harm(scene, "flip", "a", "b", "c", "d")
    plan = bring_back(scene)
    assert plan.source == "earlier epoch"
    assert "since epoch" in plan.losses
    with api.open(url) as store:
        assert head(store, HARMED) != again
        store.sync()
        assert store.verify(deep=True).sound


def test_known_refs_of_a_damaged_register_are_read_with_stale(two: dict[str, str], scene: Scene) -> None:
    harm(scene, "flip", "a", "b")
    with api.open(str(scene.cloud("a")), max_age_s=math.inf) as store:
        assert head(store, HARMED) == two[HARMED]
        assert [read.silent for read in store.stale if not read.decided] == [("a", "b")] * len(store.stale)


def test_store_without_a_repository_is_not_taken_for_one_that_lost_its_names(scene: Scene, skyhold: Shell) -> None:
    with api.init(scene.clouds()) as store:
        assert store.repositories() == []
        store.add_bucket("d", str(scene.cloud("d")))
    assert json.loads(skyhold("list", "--json", "--store", scene.cloud("a")).out)["unread"] == []
    error = skyhold("push", "a/b", scene.place / "none", "--store", scene.cloud("a"), "--json", status=3).error
    assert error["code"] != "register_lost"


def test_recovery_dies_anywhere_and_is_run_again(two: dict[str, str], scene: Scene) -> None:
    harm(scene, "flip", "a", "b")
    scene.keep("damaged")

    def recover(kill_at: int | None = None) -> int:
        fuse = Fuse(kill_at)
        insert_fuse(fuse)
        bring_back(scene)
        return len(fuse.calls)

    for number in range(1, in_child(recover).result + 1, 5):
        scene.put_back("damaged")
        in_child(lambda number=number: recover(number))
        try:
            bring_back(scene)
        except SkyholdError as error:
            assert error.code == "nothing_to_recover"  # it had been done
        with api.open(str(scene.cloud("c"))) as store:
            assert {name: head(store, name) for name in (HARMED, OTHER)} == two
            catch_up(store)  # the crash may have left a voter lagging
            assert store.verify().sound


@pytest.mark.parametrize("damage", WORST)
def test_register_that_is_damaged_while_the_store_moves_blocks_the_move_until_it_is_recovered(
    damage: str, two: dict[str, str], scene: Scene, skyhold: Shell
) -> None:
    objects = [register_of(scene, HARMED, cloud) for cloud in "ab"]

    def move() -> None:
        insert_fuse(Fuse(lambda call: call.verb == "write_if" and call.key.endswith("00000001/names")))
        with api.open(str(scene.cloud("a"))) as store:
            store.set_roles({"b": "packs"})

    in_child(move)
    for path in objects:
        DAMAGES[damage](path)
    store = ["--store", str(scene.cloud("c"))]
    for command in (["list"], ["log", OTHER], ["status"], ["repair"]):
        error = skyhold(*command, "--json", *store, status=10).error
        assert "is moving" in error["message"]
        assert "skyhold recover URL --register repository/" in error["hint"]
    command = way_back_of(error["hint"], store[1])
    skyhold(*command, "--yes")
    assert epoch_in(scene.cloud("c")) == (2, ["a", "c"])
    skyhold("sync", *store)
    assert skyhold("verify", "--deep", "--json", *store).document["sound"]
    with api.open(store[1]) as opened:
        assert {name: head(opened, name) for name in (HARMED, OTHER)} == two


def test_minority_that_holds_one_register_damaged_begins_anew_with_the_others_and_keeps_what_is_left_of_that_one(
    two: dict[str, str], scene: Scene, skyhold: Shell
) -> None:
    url = str(scene.cloud("c"))
    with api.open(url) as store:
        store.add_bucket("d", str(scene.cloud("d")))
        push(store, scene, 5, HARMED)
    harm(scene, "flip", "c", "d")
    for lost in "ab":
        scene.lose(lost)
    report = skyhold("recover", url, "--minority", "--yes", "--json").document
    assert [damage["bucket"] for damage in report["damaged"]] == ["c", "d"]
    error = skyhold("log", HARMED, "--json", "--store", url, status=10).error
    assert error["code"] == "register_lost"
    skyhold("log", OTHER, "--store", url)
    command = way_back_of(error["hint"], url)
    assert skyhold(*command, "--yes", "--json").document["plan"]["source"] == "earlier epoch"
    with api.open(url) as store:
        assert {name: head(store, name) for name in (HARMED, OTHER)} == two
