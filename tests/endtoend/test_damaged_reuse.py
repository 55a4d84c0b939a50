"""A push that reuses objects in the buckets: damaged copies are detected before it is acknowledged, and mended."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

import skyhold
from skyhold.errors import Corrupt
from skyhold.registry.store import Store
from skyhold.storage.progress import Silence
from tests.cli.models import contents, write_model
from tests.endtoend.machines import CLOUDS, Machine, Scene
from tests.endtoend.test_damage import objects


@pytest.fixture(autouse=True)
def without_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every read goes to the clouds."""
    monkeypatch.setattr("skyhold.storage.cache.PackCache.get", lambda *_: None)
    monkeypatch.setattr("skyhold.storage.linked_files.LinkedFiles.has", lambda *_: False)
    monkeypatch.setattr("skyhold.storage.linked_files.LinkedFiles.read", lambda *_: None)


def overwrite(path: Path) -> None:
    """Nine bytes in the middle, the size kept."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"overwrite")


def overwrite_packs(scene: Scene, clouds: str) -> None:
    for cloud in clouds:
        for path in objects(scene, cloud, "packs"):
            overwrite(path)


def restores(store: Store, model: Path, to: Path, ref: str = "main") -> bool:
    shutil.rmtree(to, ignore_errors=True)
    store.repository("fraud/scorer").pull(ref, to)
    return contents(to) == contents(model)


class Notes(Silence):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def note(self, message: str) -> None:
        self.heard.append(message)


MACHINES = ("the same machine", "another machine")


@pytest.fixture(params=MACHINES)
def pusher(request: pytest.FixtureRequest, scene: Scene, store: Store) -> Machine:
    """The machine that made the first push, or one without any state of the store."""
    store.close()
    return scene.machine if request.param == MACHINES[0] else Machine(scene.place / "other")


def test_push_of_what_is_damaged_in_all_buckets_restores_it(
    scene: Scene, pusher: Machine, model: Path, tmp_path: Path
) -> None:
    overwrite_packs(scene, "abc")
    with pusher.at_work(), skyhold.open(scene.clouds()[0]) as store:
        pushed = store.repository("fraud/scorer").push(model, message="One")
        assert pushed.stored_bytes > 0
        assert restores(store, model, tmp_path / "pulled")
        assert restores(store, model, tmp_path / "champion", "champion"), "the version itself has been restored"
        again = store.repository("fraud/scorer").push(model, message="One")
        assert (again.stored_bytes, again.unchanged) == (0, True)


def test_push_of_other_files_upon_what_is_damaged_in_all_buckets_is_restorable(
    scene: Scene, pusher: Machine, model: Path, tmp_path: Path
) -> None:
    overwrite_packs(scene, "abc")
    (model / "notes.txt").write_text("one file more")
    with pusher.at_work(), skyhold.open(scene.clouds()[0]) as store:
        store.repository("fraud/scorer").push(model, message="Two")
        assert restores(store, model, tmp_path / "pulled")


@pytest.mark.parametrize("lost", CLOUDS)
@pytest.mark.parametrize("message", ["One", "Two"])
def test_push_over_two_damaged_buckets_survives_the_loss_of_one(
    lost: str, message: str, scene: Scene, pusher: Machine, model: Path, tmp_path: Path
) -> None:
    """`message` decides whether the push makes a version or finds that it is there."""
    overwrite_packs(scene, "".join(cloud for cloud in CLOUDS if cloud != lost))
    with pusher.at_work():
        with skyhold.open(scene.clouds()[0]) as store:
            store.repository("fraud/scorer").push(model, message=message)
        scene.lose(lost)
        with skyhold.open(str(scene.cloud(next(cloud for cloud in CLOUDS if cloud != lost)))) as store:
            assert restores(store, model, tmp_path / "pulled")


def test_one_damaged_copy_is_mended_by_the_push_that_finds_it(scene: Scene, store: Store, model: Path) -> None:
    intact = {path: path.read_bytes() for path in objects(scene, "b", "packs")}
    overwrite_packs(scene, "b")
    notes = Notes()
    store.repository("fraud/scorer").push(model, message="Two", progress=notes)
    assert notes.heard == [f"Damaged packs in bucket `b`, written anew: {len(intact)}"]
    assert {path: path.read_bytes() for path in objects(scene, "b", "packs")} == intact
    assert store.verify(deep=True).sound


def test_damage_that_keeps_the_times_is_noticed(scene: Scene, store: Store, model: Path, tmp_path: Path) -> None:
    for cloud in CLOUDS:
        for path in objects(scene, cloud, "packs"):
            status = path.stat()
            overwrite(path)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    store.repository("fraud/scorer").push(model, message="One")
    assert restores(store, model, tmp_path / "pulled")


@pytest.mark.parametrize("kind", ["versions", "layouts", "tensors"])
@pytest.mark.parametrize("clouds", ["ab", "bc", "c"])
def test_blobs_of_a_version_that_is_there_already_are_mended(
    kind: str, clouds: str, scene: Scene, pusher: Machine, model: Path, tmp_path: Path
) -> None:
    for cloud in clouds:
        for path in objects(scene, cloud, kind):
            overwrite(path)
    with pusher.at_work(), skyhold.open(scene.clouds()[0]) as store:
        assert store.repository("fraud/scorer").push(model, message="One").unchanged
        assert store.verify(deep=True).sound


@pytest.mark.parametrize("kind", ["layouts", "tensors"])
def test_layout_that_is_damaged_in_all_buckets_is_written_anew_by_a_push_of_the_same_files(
    kind: str, scene: Scene, pusher: Machine, model: Path, tmp_path: Path
) -> None:
    for cloud in CLOUDS:
        for path in objects(scene, cloud, kind):
            overwrite(path)
    with pusher.at_work(), skyhold.open(scene.clouds()[0]) as store:
        pushed = store.repository("fraud/scorer").push(model, message="One")
        assert (pushed.stored_bytes, pushed.unchanged) == (0, True)
        assert restores(store, model, tmp_path / "pulled", "v1")
        assert store.verify().sound


@pytest.mark.parametrize("message", ["One", "Two"])
def test_shifted_place_in_the_chunk_index_of_the_machine_is_not_pushed(
    message: str, scene: Scene, store: Store, model: Path, tmp_path: Path
) -> None:
    store.close()
    (chunk_index,) = (scene.machine.folder / "state").rglob("chunks.db")
    with sqlite3.connect(chunk_index) as database:
        database.execute("UPDATE chunks SET place = place + 1")
    with skyhold.open(scene.clouds()[0]) as opened:
        opened.repository("fraud/scorer").push(model, message=message)
        assert restores(opened, model, tmp_path / "pulled")


def test_push_that_repeats_itself_reads_no_pack_back(
    scene: Scene, store: Store, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this machine wrote a moment ago, and no client has changed since, costs a listing."""
    read: list[str] = []

    def note(bucket: object, key: str, *_: object, **__: object) -> object:
        read.append(key)
        return original(bucket, key, *_, **__)

    from skyhold.buckets.folder import FolderBucket

    original = FolderBucket.read
    monkeypatch.setattr(FolderBucket, "read", note)
    assert store.repository("fraud/scorer").push(model, message="Two").stored_bytes == 0
    assert [key for key in read if key.startswith("packs/")] == []


def test_push_from_another_machine_reads_each_copy_back_once(scene: Scene, store: Store, tmp_path: Path) -> None:
    store.close()
    model = write_model(tmp_path / "model", rows=64)
    with Machine(scene.place / "other").at_work(), skyhold.open(scene.clouds()[0]) as opened:
        assert opened.repository("fraud/scorer").push(model, message="Two").stored_bytes == 0
        overwrite_packs(scene, "a")
        opened.repository("fraud/scorer").push(model, message="Three")
        assert opened.verify(deep=True).sound


@pytest.mark.parametrize("found_by", ["pull", "verify"])
def test_silent_damage_that_was_met_once_is_mended_by_the_next_push(
    found_by: str, scene: Scene, store: Store, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that forgets changes no time of a file: a push sees it by samples only, or when something has read it."""
    monkeypatch.setattr("skyhold.buckets.folder.stamp_of", lambda _status: "as ever")
    store.repository("fraud/scorer").push(model, message="Two")
    overwrite_packs(scene, "abc")
    assert store.repository("fraud/scorer").push(model, message="Two").unchanged
    if found_by == "pull":
        with pytest.raises(Corrupt):
            store.repository("fraud/scorer").pull("main", tmp_path / "damaged")
    else:
        assert not store.verify(deep=True).sound
    store.repository("fraud/scorer").push(model, message="Two")
    assert restores(store, model, tmp_path / "pulled")
