"""Where credentials go by the word of a bucket, or a folder, of another party needs consent, which is remembered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import skyhold
from skyhold.buckets.location import BucketLocation, parse_location
from skyhold.buckets.open import open_bucket
from skyhold.cli.main import main
from skyhold.errors import PermissionDenied, SkyholdError
from skyhold.store.bootstrap import overwrite_store_document, read_store_document
from skyhold.store.settings import load_settings
from skyhold.store.store_document import ETCD, Engine
from tests import servers
from tests.buckets.catching_server import CatchingServer, catching
from tests.cli.running import run_on_terminal
from tests.endtoend.machines import Machine, Scene
from tests.endtoend.stores import head, push

CLOUDS = {"aws": "s3://models", "google": "gs://models", "azure": "az://account/models"}


@pytest.fixture
def attacker(monkeypatch: pytest.MonkeyPatch) -> Iterator[CatchingServer]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-ada")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-ada")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-ada")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sig=of-ada")
    monkeypatch.setenv("ETCDCTL_USER", "ada:secret")
    with catching() as server:
        yield server


def at(url: str, endpoint: str | None, name: str = "evil", **more: object) -> BucketLocation:
    provider = next(provider for provider, place in CLOUDS.items() if url.startswith(place[:3]))
    return BucketLocation.from_json({"name": name, "url": url, "provider": provider, "endpoint": endpoint, **more})


def forge(scene: Scene, cloud: str, **changes: object) -> None:
    """What an attacker does with write access to one bucket of an open store, whose MAC any reader can compute."""
    with open_bucket(parse_location(str(scene.cloud(cloud)))) as bucket:
        document, keys = read_store_document(bucket, ())
        overwrite_store_document(bucket, replace(document, **changes), keys)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", CLOUDS.values())
@pytest.mark.usefixtures("ada")
def test_hint_of_one_bucket_gets_no_credentials(scene: Scene, attacker: CatchingServer, url: str) -> None:
    with open_bucket(parse_location(str(scene.cloud("a")))) as bucket:
        hints = read_store_document(bucket, ())[0].hints
    forge(scene, "a", hints=(at(url, attacker.url, "b"), hints[1]))
    with Machine(scene.place / "eve").at_work():
        with pytest.raises(PermissionDenied) as caught:
            skyhold.connect(str(scene.cloud("a")))
        assert caught.value.code == "endpoint_not_trusted"
        assert caught.value.fields["destinations"] == [f"{url[:5]}?endpoint={attacker.url}"]
        with skyhold.open(str(scene.cloud("a"))) as store:  # by the others, which are a majority
            store.create_repository("team/m")
    assert attacker.caught == []


@pytest.mark.usefixtures("ada")
def test_etcd_cluster_of_one_bucket_gets_no_credentials(scene: Scene, attacker: CatchingServer) -> None:
    cluster = f"etcd://{attacker.url.removeprefix('http://')}/skyhold"
    forge(scene, "a", engine=Engine("", 9, ETCD, cluster=cluster))
    with Machine(scene.place / "eve").at_work():
        for opening in (skyhold.connect, skyhold.open):
            with pytest.raises(PermissionDenied) as caught:
                opening(str(scene.cloud("a"))).repository_names()
            assert caught.value.code == "endpoint_not_trusted"
    assert attacker.caught == []


@pytest.mark.parametrize("setting", ["endpoint", "credentials", "ca_file"])
def test_settings_file_that_was_found_in_a_folder_gets_no_credentials(
    scene: Scene,
    attacker: CatchingServer,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = scene.place / "cloned"
    folder.mkdir()
    value = {"endpoint": attacker.url, "credentials": "profile:prod", "ca_file": "evil.pem"}[setting]
    (folder / "skyhold.toml").write_text(f'store = "s3://models"\n[buckets.models]\n{setting} = "{value}"\n')
    monkeypatch.chdir(folder)
    assert main(["list", "--json"]) == 6
    error = json.loads(capfd.readouterr().err)["error"]
    assert error["code"] == "endpoint_not_trusted"
    assert attacker.caught == []
    if setting == "endpoint":  # following the hint works as described
        assert main(["connect", "s3://models", "--trust", error["fields"]["destinations"][0], "--json"]) == 6
        assert attacker.caught


def test_store_is_made_with_settings_of_a_folder_once_their_file_is_named(
    scene: Scene, attacker: CatchingServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = scene.place / "cloned"
    folder.mkdir()
    (folder / "skyhold.toml").write_text(f'[buckets.models]\nendpoint = "{attacker.url}"\n')
    monkeypatch.chdir(folder)
    assert main(["init", "s3://models", "--json"]) == 6
    error = json.loads(capfd.readouterr().err)["error"]
    assert (error["code"], attacker.caught) == ("endpoint_not_trusted", [])
    assert "--config" in error["hint"]
    assert main(["init", "s3://models", "--config", "skyhold.toml", "--json"]) == 6
    assert attacker.caught


def test_store_of_a_settings_file_that_was_found_gets_no_credentials(
    scene: Scene, attacker: CatchingServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = scene.place / "cloned"
    folder.mkdir()
    (folder / "skyhold.toml").write_text(f'store = "s3://models?endpoint={attacker.url}"\n')
    monkeypatch.chdir(folder)
    for command in (["list"], ["recover", f"s3://models?endpoint={attacker.url}", "--yes"], ["doctor"]):
        assert main([*command, "--json"]) in {1, 6}
    assert attacker.caught == []
    capfd.readouterr()
    assert load_settings({"SKYHOLD_CONFIG": "skyhold.toml"}, folder).store_is_users
    assert not load_settings({}, folder).store_is_users


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The URLs of three empty buckets at two S3 services, with the credentials of each in the environment."""
    urls = {}
    for name, access_key in (("x", "of-x"), ("y", "of-y"), ("z", "of-y")):
        server = servers.versitygw(access_key, "secret").with_bucket("models")
        monkeypatch.setenv(f"{access_key[-1].upper()}_ACCESS_KEY_ID", access_key)
        monkeypatch.setenv(f"{access_key[-1].upper()}_SECRET_ACCESS_KEY", "secret")
        place = f"s3://models/{id(urls):x}-{name}"
        urls[name] = f"{place}?endpoint={server.url}&credentials=env:{access_key[-1].upper()}"
    return urls


def test_colleague_agrees_once_to_the_other_services_of_a_store(scene: Scene, three: dict[str, str]) -> None:
    with Machine(scene.place / "ada").at_work(), skyhold.init(three.values(), names=list(three)) as store:
        pushed = push(store, scene, 1)
    endpoint = parse_location(three["y"]).endpoint
    with Machine(scene.place / "ben").at_work():
        with pytest.raises(PermissionDenied) as caught:
            skyhold.connect(three["x"])
        assert caught.value.fields["destinations"] == [f"s3://?endpoint={endpoint}"]
        agreed = f"s3://?endpoint={endpoint}&credentials=env:Y"
        with skyhold.connect(three["x"], trust=[agreed]) as store:
            assert head(store) == pushed
        with skyhold.open(three["x"].partition("?")[0]) as store:  # remembered, also for what was typed
            assert all(bucket.error is None for bucket in store.status().buckets)
            push(store, scene, 2)


def test_bucket_that_a_colleague_adds_elsewhere_is_left_out_until_it_is_agreed_to(
    scene: Scene, three: dict[str, str]
) -> None:
    with Machine(scene.place / "ada").at_work(), skyhold.init(scene.clouds()) as of_ada:
        push(of_ada, scene, 1)
        with Machine(scene.place / "ben").at_work():
            skyhold.connect(str(scene.cloud("a"))).close()
        of_ada.add_bucket("y", three["y"])
    with Machine(scene.place / "ben").at_work():
        with skyhold.open(str(scene.cloud("a"))) as of_ben:
            pushed = push(of_ben, scene, 2)
            [found] = [bucket for bucket in of_ben.status().buckets if bucket.error is not None]
            assert found.name == "y"
            assert "skyhold connect" in (found.hint or "")
        wanted = f"s3://?endpoint={parse_location(three['y']).endpoint}&credentials=env:Y"
        with skyhold.connect(str(scene.cloud("a")), trust=[wanted]) as of_ben:
            assert head(of_ben) == pushed
            assert not [bucket for bucket in of_ben.status().buckets if bucket.error is not None]


def test_user_at_a_terminal_is_asked_once(scene: Scene, three: dict[str, str]) -> None:
    endpoint = parse_location(three["y"]).endpoint
    buckets = [str(scene.cloud("a")), str(scene.cloud("b")), three["y"]]
    with Machine(scene.place / "ada").at_work():
        skyhold.init(buckets).close()
    question = "Send credentials there"
    with Machine(scene.place / "ben").at_work():
        refused = run_on_terminal("connect", buckets[0], answers=[(question, "n")])
        assert refused.status == 6
        agreed = run_on_terminal("connect", buckets[0], answers=[(question, "y"), (question, "y")])
        assert agreed.status == 0, agreed.out
        assert f"s3://?endpoint={endpoint}&credentials=env:Y" in agreed.out
        again = run_on_terminal("connect", buckets[0])
        assert (again.status, question in again.out) == (0, False)


def test_machine_that_made_a_store_needs_no_consent(scene: Scene, three: dict[str, str]) -> None:
    with Machine(scene.place / "ada").at_work():
        skyhold.init(three.values(), names=list(three)).close()
        with skyhold.open(three["z"].partition("?")[0]) as store:
            assert all(bucket.error is None for bucket in store.status().buckets)


def test_consent_is_for_one_store(scene: Scene, attacker: CatchingServer) -> None:
    with Machine(scene.place / "ada").at_work():
        skyhold.init([str(scene.cloud("a"))], engine="sqlite").close()
        skyhold.init([str(scene.cloud("b"))], engine="sqlite").close()
        evil = f"s3://?endpoint={attacker.url}"
        forge(scene, "a", hints=(at("s3://models", attacker.url),))
        forge(scene, "b", hints=(at("s3://models", attacker.url),))
        skyhold.connect(str(scene.cloud("a")), trust=[evil]).close()
        with pytest.raises(PermissionDenied):
            skyhold.connect(str(scene.cloud("b")))
    assert attacker.caught == []


def test_damaged_note_of_consents_is_named(scene: Scene, ada: Machine) -> None:
    [folder] = (ada.folder / "state" / "stores").iterdir()
    for damage in (b"", b"{}", b'["https://minio.lab"]', b"[1]", b'{"a": 1}', b"1", b"null"):
        Path(folder / "consents.json").write_bytes(damage)
        if damage == b"{}":
            continue
        with pytest.raises(SkyholdError) as caught:
            skyhold.open(str(scene.cloud("a")))
        assert caught.value.code == "state_damaged"
