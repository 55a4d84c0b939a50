"""A store of one bucket serves every machine, where the bucket can decide between them."""

from __future__ import annotations

from dataclasses import replace

import pytest

import skyhold
from skyhold.buckets import admission
from skyhold.buckets.admission import AdmissionVerdict
from skyhold.errors import InvalidInput, PermissionDenied
from skyhold.store import voters
from tests import servers
from tests.cli.running import Shell
from tests.endtoend.machines import Machine, Scene
from tests.endtoend.stores import head, push


def use_from_two_machines(scene: Scene, url: str) -> None:
    with Machine(scene.place / "ada").at_work(), skyhold.init([url]) as store:
        assert store.engine == "buckets"
        first = push(store, scene, 1)
    with Machine(scene.place / "ben").at_work(), skyhold.connect(url) as store:
        assert head(store) == first
        second = push(store, scene, 2)
    with Machine(scene.place / "ada").at_work(), skyhold.open(url) as store:
        assert head(store) == second
        assert store.verify(deep=True).sound


def test_one_folder_serves_two_machines(scene: Scene) -> None:
    use_from_two_machines(scene, str(scene.cloud("a")))


def test_one_bucket_of_s3_serves_two_machines(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_ACCESS_KEY_ID", servers.ACCESS_KEY)
    monkeypatch.setenv("LAB_SECRET_ACCESS_KEY", servers.SECRET_KEY)
    server = servers.versitygw().with_bucket("models")
    use_from_two_machines(scene, f"s3://models/one-{id(scene):x}?endpoint={server.url}&credentials=env:LAB")


@pytest.fixture
def unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets do not pass the test."""

    def refuse(*arguments: object, **options: object) -> AdmissionVerdict:
        real = admission.admit(*arguments, **options)  # type: ignore[arg-type]
        return replace(real, admitted=False, reasons=("two clients won",))

    monkeypatch.setattr(voters, "admit", refuse)


@pytest.mark.usefixtures("unfit")
def test_bucket_that_cannot_decide_makes_a_store_of_one_machine_and_init_reports_it(
    scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    shell, url = Shell(capfd), scene.cloud("a")
    made = shell("init", url)
    assert "engine sqlite" in made.out
    assert "every other machine is refused" in made.out
    assert "skyhold bucket check a" in made.out
    with Machine(scene.place / "colleague").at_work():
        error = shell("connect", url, "--json", status=6).error
    assert error["code"] == "other_machine"
    assert "skyhold recover URL" not in error["hint"]
    assert "recover ./" not in error["hint"]


def test_machine_that_keeps_the_refs_can_share_the_store_by_the_command_in_the_hint_to_a_colleague(
    scene: Scene,
) -> None:
    url = str(scene.cloud("a"))
    with Machine(scene.place / "ada").at_work():
        skyhold.init([url], engine="sqlite").close()
    with Machine(scene.place / "ben").at_work():
        with pytest.raises(PermissionDenied) as caught:
            skyhold.connect(url)
        assert "skyhold store engine set buckets" in (caught.value.hint or "")
    with Machine(scene.place / "ada").at_work(), skyhold.open(url) as store:
        store.create_repository("team/m")
        store.move_engine("buckets")
    with Machine(scene.place / "ben").at_work(), skyhold.connect(url) as store:
        assert store.repository_names() == ["team/m"]


@pytest.mark.usefixtures("unfit")
def test_engine_that_is_asked_for_is_not_replaced_by_another(scene: Scene) -> None:
    with Machine(scene.place / "ada").at_work(), pytest.raises(InvalidInput) as caught:
        skyhold.init([str(scene.cloud("a"))], engine="buckets")
    assert caught.value.code == "voter_refused"
