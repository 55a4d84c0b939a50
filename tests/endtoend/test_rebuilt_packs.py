"""Packs that are damaged or lost in every bucket are built anew out of other copies of their chunks, once the same
files are pushed again: every version of every repository that needs them works again."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from safetensors.numpy import save_file

import skyhold
from skyhold.codec import squeeze
from skyhold.errors import Corrupt
from skyhold.registry.store import Store
from skyhold.security.keys import KeyFile
from tests.cli.models import contents
from tests.endtoend.machines import CLOUDS, Machine, Scene
from tests.endtoend.test_damage import objects
from tests.endtoend.test_damaged_reuse import overwrite, overwrite_packs, without_cache

__all__ = ["without_cache"]


def delete_packs(scene: Scene, clouds: str) -> None:
    for cloud in clouds:
        for path in objects(scene, cloud, "packs"):
            path.unlink()


def spoil_footers(scene: Scene, clouds: str) -> None:
    for cloud in clouds:
        for path in objects(scene, cloud, "packs"):
            overwrite(path)
            body = path.read_bytes()
            path.write_bytes(body[:-40] + os.urandom(32) + body[-8:])


LOSSES: dict[str, Callable[[Scene, str], None]] = {
    "overwritten": overwrite_packs,
    "footers overwritten": spoil_footers,
    "deleted": delete_packs,
}


def family(folder: Path) -> list[Path]:
    """A base, and a fine-tune of it that is stored as a difference."""
    generator = np.random.default_rng(7)
    base = generator.standard_normal((512, 1024)).astype(np.float32)
    tuned = (base * (1 + 0.0005 * generator.standard_normal(base.shape))).astype(np.float32)
    paths = []
    for name, weights in (("base", base), ("tuned", tuned)):
        paths.append(folder / name)
        paths[-1].mkdir(parents=True)
        save_file({"weight": weights}, paths[-1] / "model.safetensors")
        (paths[-1] / "config.json").write_text(f'{{"name": "{name}"}}')
    return paths


@pytest.fixture(params=["open", "sealed"])
def filled(request: pytest.FixtureRequest, scene: Scene, tmp_path: Path) -> Store:
    """Two repositories: one has the base and the fine-tune, the other one both as other versions."""
    base, tuned = family(tmp_path / "family")
    keys = []
    if request.param == "sealed":
        os.environ["SKYHOLD_KEY_FILE"] = str(scene.place / "key")
        keys.append(KeyFile.generate(scene.place / "key"))
    store = skyhold.init(scene.clouds(), encrypt_with=keys)
    scorer = store.repository("fraud/scorer", create=True)
    scorer.push(base, message="Base", tags=["base"])
    assert scorer.push(tuned, message="Tuned", tags=["tuned"]).delta_bytes > 0
    other = store.repository("fraud/other", create=True)
    other.push(base, message="The same base", tags=["base"])
    other.push(tuned, message="The same fine-tune", tags=["tuned"])
    return store


def restored(store: Store, to: Path, base: Path, tuned: Path) -> dict[str, bool]:
    found = {}
    for repository in ("fraud/scorer", "fraud/other"):
        for tag, path in (("base", base), ("tuned", tuned)):
            shutil.rmtree(to, ignore_errors=True)
            try:
                store.repository(repository).pull(tag, to)
            except Corrupt:
                found[f"{repository}@{tag}"] = False
            else:
                found[f"{repository}@{tag}"] = contents(to) == contents(path)
    return found


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("where", ["this machine", "another machine"])
def test_repair_builds_lost_packs_from_what_was_pushed_again(
    loss: str, where: str, scene: Scene, filled: Store, tmp_path: Path
) -> None:
    base, tuned = tmp_path / "family" / "base", tmp_path / "family" / "tuned"
    LOSSES[loss](scene, "abc")
    machine = scene.machine if where == "this machine" else Machine(scene.place / "other")
    filled.close()
    key = os.environ.get("SKYHOLD_KEY_FILE")
    with machine.at_work():
        if key:
            os.environ["SKYHOLD_KEY_FILE"] = key
        with skyhold.open(scene.clouds()[0]) as store:
            assert not any(restored(store, tmp_path / "out", base, tuned).values())
            again = store.repository("fraud/again", create=True)
            again.push(base, message="Base, again")
            again.push(tuned, message="Fine-tune, again")
            report = store.repair()
            assert report.sound, report
            assert all(restored(store, tmp_path / "out", base, tuned).values())
            deep = store.verify(deep=True)
            assert (deep.sound, deep.restored) == (True, dict.fromkeys(CLOUDS, 6))
            pushed = store.repository("fraud/again").push(tuned, message="Fine-tune, again")
            assert (pushed.unchanged, pushed.stored_bytes) == (True, 0)


@pytest.mark.parametrize("loss", ["overwritten", "deleted"])
def test_versions_that_are_lost_are_named_with_their_files(
    loss: str, scene: Scene, filled: Store, tmp_path: Path
) -> None:
    tips = {name: filled.repository(f"fraud/{name}").show("tuned").digest for name in ("scorer", "other")}
    LOSSES[loss](scene, "abc")
    checked = filled.verify(deep=True)
    assert checked.remedy == "skyhold repair"  # which builds them out of other copies, if there are any
    repaired = filled.repair()
    assert str(repaired.remedy).endswith(": skyhold push fraud/other PATH")
    for losses in (checked.losses, repaired.losses):
        for name, tip in tips.items():
            (named,) = [loss for loss in losses if (loss.repository, loss.version) == (f"fraud/{name}", tip)]
            assert (named.what, {*named.files} >= {"config.json", "model.safetensors"}) == ("files", True)
        assert len(losses) == 4


def test_what_is_not_pushed_again_stays_lost_and_is_named(scene: Scene, filled: Store, tmp_path: Path) -> None:
    base, tuned = tmp_path / "family" / "base", tmp_path / "family" / "tuned"
    names = ("fraud/other", "fraud/scorer")
    tips = {name: filled.repository(name).show("tuned").digest for name in names}
    overwrite_packs(scene, "abc")
    filled.repository("fraud/again", create=True).push(base, message="Base, again")
    report = filled.repair()
    assert not report.sound
    assert {loss.repository: loss.version for loss in report.losses} == tips
    assert len(report.losses) == len(tips)
    assert restored(filled, tmp_path / "out", base, tuned) == {
        "fraud/scorer@base": True, "fraud/scorer@tuned": False, "fraud/other@base": True, "fraud/other@tuned": False
    }  # fmt: skip
    assert not filled.repair().mended


def test_nothing_is_built_anew_while_a_bucket_is_away_that_may_have_it(
    scene: Scene, filled: Store, tmp_path: Path
) -> None:
    """An object has the same bytes in each bucket that has it."""
    intact = {path: path.read_bytes() for path in objects(scene, "c", "packs")}
    scene.keep("before")
    overwrite_packs(scene, "ab")
    scene.lose("c")
    filled.repository("fraud/again", create=True).push(tmp_path / "family" / "base", message="Base, again")
    damaged = {path: path.read_bytes() for path in objects(scene, "a", "packs")}
    report = filled.repair()
    assert list(report.unreachable) == ["c"]
    assert {path: path.read_bytes() for path in objects(scene, "a", "packs")} == damaged
    scene.put_back("before", cloud="c")
    assert filled.repair().sound
    assert {path: path.read_bytes() for path in objects(scene, "c", "packs")}.items() >= intact.items()


@pytest.mark.parametrize("level", [-3, 1, 12])
def test_packs_of_a_version_that_compresses_differently_are_built_anew(
    level: int, scene: Scene, filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings of an encoder are not part of the format; the places of its chunks are."""
    base, tuned = tmp_path / "family" / "base", tmp_path / "family" / "tuned"
    delete_packs(scene, "abc")
    monkeypatch.setattr(squeeze, "_ENTROPY", zstandard.ZstdCompressionParameters.from_level(level))
    monkeypatch.setattr(squeeze, "_GENERAL_LEVEL", level)
    again = filled.repository("fraud/again", create=True)
    again.push(base, message="Base, again")
    again.push(tuned, message="Fine-tune, again")
    assert filled.repair().sound
    assert filled.verify(deep=True).sound
    assert all(restored(filled, tmp_path / "out", base, tuned).values())


def test_pack_of_an_open_store_gets_the_bytes_back_that_it_had(
    scene: Scene, store: Store, model: Path, tmp_path: Path
) -> None:
    """But for the salt of its footer, which is in no record."""
    before = {path.name: path.read_bytes() for path in objects(scene, "a", "packs")}
    delete_packs(scene, "abc")
    store.repository("fraud/again", create=True).push(model, message="Again")
    assert store.repair().sound
    for name, body in before.items():
        for cloud in CLOUDS:
            built = (scene.cloud(cloud) / "packs" / name[:2] / name).read_bytes()
            (footer_bytes,) = struct.unpack("<I", body[-8:-4])
            assert built[: -8 - footer_bytes] == body[: -8 - footer_bytes]
            assert len(built) == len(body)


def test_chunks_of_another_placement_class_are_not_used(tmp_path: Path, scene: Scene, model: Path) -> None:
    """What may be in Europe only is not built out of what is elsewhere, nor the other way."""
    urls = {region: f"memory://{tmp_path.name}-{region}?region={region}" for region in ("eu-1", "us-1")}
    with skyhold.init(list(urls.values())) as store:
        store.create_repository("t/eu", policy=skyhold.Policy(copies=1, regions=("eu-*",))).push(model)
        america = store.create_repository("t/us", policy=skyhold.Policy(copies=1, regions=("us-*",)))
        pushed = america.push(model)
        bucket = store._connection.bucket(f"{tmp_path.name}-us-1")
        for info in list(bucket.list("packs/")):
            bucket.delete(info.key)
        report = store.repair()
        assert [(loss.repository, loss.version) for loss in report.losses] == [("t/us", pushed.version)]
        assert list(bucket.list("packs/")) == []


def test_pack_that_a_killed_push_has_left_serves_as_well(
    scene: Scene, store: Store, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No index lists it, and no register reaches it."""
    overwrite_packs(scene, "abc")
    with monkeypatch.context() as killed:
        killed.setattr("skyhold.registry.committing.write_segments", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.repository("fraud/again", create=True).push(model, message="Again")
    assert store.repair().sound
    assert store.verify(deep=True).sound


def test_dry_run_of_a_repair_foresees_what_could_be_built_and_writes_nothing(
    scene: Scene, filled: Store, tmp_path: Path
) -> None:
    delete_packs(scene, "abc")
    filled.repository("fraud/again", create=True).push(tmp_path / "family" / "base", message="Base, again")
    before = [path for cloud in CLOUDS for path in objects(scene, cloud, "packs")]
    planned = filled.repair(dry_run=True)
    assert [path for cloud in CLOUDS for path in objects(scene, cloud, "packs")] == before
    done = filled.repair()
    assert {finding.key for finding in planned.mended} == {finding.key for finding in done.mended}
    assert {finding.key for finding in planned.failed} == {finding.key for finding in done.failed} != set()
    assert planned.damage == done.damage
    assert planned.losses == done.losses != ()
