"""A version by its full digest: it needs no majority, and of this machine's cache no bucket."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import skyhold
from skyhold.errors import Corrupt, InvalidInput, NotFound, SkyholdError, Unavailable
from tests.cli.models import contents
from tests.endtoend.machines import Machine, Scene
from tests.endtoend.stores import catch_up, push
from tests.endtoend.tampering import change_version_entry


@pytest.fixture
def versions(scene: Scene, ada: Machine) -> list[str]:
    with skyhold.open(str(scene.cloud("a"))) as store:
        pushed = [push(store, scene, seed) for seed in (1, 2)]
        store.repository("team/m").attach("main", metrics={"auc": 0.5})
        catch_up(store)
    return pushed


def another_machine(scene: Scene) -> Machine:
    """One that knows the store, and has nothing of it."""
    machine = Machine(scene.place / "eve")
    with machine.at_work():
        skyhold.connect(str(scene.cloud("a"))).close()
    return machine


@pytest.mark.parametrize("length", [40, 64])
def test_full_digest_is_pulled_from_one_bucket_that_is_left(scene: Scene, versions: list[str], length: int) -> None:
    with another_machine(scene).at_work():
        scene.lose("a")
        scene.lose("b")
        with skyhold.open(str(scene.cloud("c"))) as store:
            repository = store.repository("team/m")
            with pytest.raises(Unavailable):
                repository.pull("main", scene.place / "by-ref")
            with pytest.raises(Unavailable):
                repository.pull(versions[0][:12], scene.place / "by-prefix")
            pulled = repository.pull(versions[0][:length], scene.place / "out")
            assert (pulled.version, pulled.found_by) == (versions[0], "bucket")
            shown = repository.show(versions[1][:length])
            assert (shown.found_by, shown.metrics) == ("bucket", {"auc": 0.5})
    assert contents(scene.place / "out") == contents(scene.place / "model-1")


def test_majority_is_named_where_one_confirms_it(scene: Scene, versions: list[str]) -> None:
    with another_machine(scene).at_work(), skyhold.open(str(scene.cloud("b"))) as store:
        repository = store.repository("team/m")
        assert repository.pull(versions[0], scene.place / "out").found_by == "majority"
        assert repository.show(versions[0]).found_by == "majority"
        assert repository.pull("main", scene.place / "main").found_by == "majority"


def test_what_this_machine_has_pulled_is_read_without_any_bucket(scene: Scene, versions: list[str]) -> None:
    with another_machine(scene).at_work():
        with skyhold.open(str(scene.cloud("b"))) as store:
            store.repository("team/m").pull("main", scene.place / "first")
        for name in "abc":
            scene.cloud(name).rename(scene.place / f"away-{name}")
        with pytest.raises(SkyholdError):
            skyhold.open(str(scene.cloud("b")))
        with skyhold.open(str(scene.cloud("b")), offline=True) as store:
            repository = store.repository("team/m")
            pulled = repository.pull(versions[1], scene.place / "second")
            assert (pulled.found_by, pulled.version) == ("cache", versions[1])
            assert repository.show(versions[1]).found_by == "cache"
            with pytest.raises(SkyholdError):
                repository.pull(versions[0], scene.place / "never-pulled")
            for refused in (repository.log, repository.refs, lambda: repository.set_refs({"alias/x": "main"})):
                with pytest.raises(SkyholdError):
                    refused()
    assert contents(scene.place / "second") == contents(scene.place / "model-2")


def test_what_this_machine_has_pushed_is_shown_without_any_bucket(scene: Scene, versions: list[str]) -> None:
    with skyhold.open(str(scene.cloud("b"))) as store:
        store.repository("team/m").show("main")
    for name in "abc":
        scene.cloud(name).rename(scene.place / f"away-{name}")
    with skyhold.open(str(scene.cloud("b")), offline=True) as store:
        shown = store.repository("team/m").show(versions[1])
    assert {file.path for file in shown.files} == set(contents(scene.place / "model-2"))


@pytest.mark.parametrize("damage", ["flip", "empty", "other", "link"])
def test_damaged_cache_is_skipped(scene: Scene, versions: list[str], damage: str) -> None:
    eve = another_machine(scene)
    with eve.at_work(), skyhold.open(str(scene.cloud("b"))) as store:
        store.repository("team/m").pull(versions[0], scene.place / "first")
        cached = [path for path in (eve.folder / "cache").rglob("*") if path.is_file()]
        assert {len(path.name) for path in cached} >= {64, len("version-") + 40 + 1 + 16}
        for path in cached:
            body = bytearray(path.read_bytes())
            if damage == "flip":
                body[len(body) // 2] ^= 1
            path.unlink()
            if damage == "link":
                path.symlink_to("/dev/zero")
            else:
                path.write_bytes({"flip": body, "empty": b"", "other": b'{"digest": 1}'}[damage])
        shutil.rmtree(scene.place / "first")
        store.repository("team/m").pull(versions[0], scene.place / "first")
    assert contents(scene.place / "first") == contents(scene.place / "model-1")


def test_cached_note_of_another_version_is_not_trusted(scene: Scene, versions: list[str]) -> None:
    eve = another_machine(scene)
    with eve.at_work(), skyhold.open(str(scene.cloud("b"))) as store:
        for version in versions:
            store.repository("team/m").pull(version, scene.place / version)
        notes = sorted((eve.folder / "cache").rglob("version-*"))
        one, two = (path.read_bytes() for path in notes)
        notes[0].write_bytes(two)
        notes[1].write_bytes(one)
        for seed, version in enumerate(versions, 1):
            shutil.rmtree(scene.place / version)
            assert store.repository("team/m").pull(version, scene.place / version).version == version
            assert contents(scene.place / version) == contents(scene.place / f"model-{seed}")


def test_unknown_digest_is_not_found(scene: Scene, versions: list[str]) -> None:
    with another_machine(scene).at_work(), skyhold.open(str(scene.cloud("b"))) as store:
        with pytest.raises(NotFound):
            store.repository("team/m").pull("0" * 64, Path("x"))
        with pytest.raises(NotFound):
            store.repository("team/other")


def test_place_that_came_with_a_decision_needs_no_voter(scene: Scene, versions: list[str]) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        store.add_bucket("d", str(scene.cloud("d")), role="packs")
        store.sync()
        place = store.repository("team/m").place("main~1")
    with another_machine(scene).at_work():
        for name in "abc":
            scene.lose(name)
        with skyhold.open(str(scene.cloud("d"))) as store:
            repository = store.repository("team/m")
            with pytest.raises(Unavailable):
                repository.pull(versions[0], scene.place / "without")
            pulled = repository.pull(versions[0], scene.place / "out", place=place)
            assert pulled.found_by == "bucket"
            with pytest.raises(SkyholdError):  # the place is that of another version
                repository.pull(versions[1], scene.place / "other", place=place)
            with pytest.raises(InvalidInput, match="full digest"):
                repository.pull("main", scene.place / "ref", place=place)
    assert contents(scene.place / "out") == contents(scene.place / "model-1")
    assert not (scene.place / "other").exists()


def test_cached_version_is_one_of_its_own_repository_alone(scene: Scene, versions: list[str]) -> None:
    with another_machine(scene).at_work(), skyhold.open(str(scene.cloud("b"))) as store:
        store.repository("team/m").pull(versions[0], scene.place / "first")
        push(store, scene, 3, "team/other")
        with pytest.raises(NotFound):
            store.repository("team/other").pull(versions[0], scene.place / "second")


def test_damaged_names_do_not_stop_a_version_that_is_cached(scene: Scene, versions: list[str]) -> None:
    with another_machine(scene).at_work():
        with skyhold.open(str(scene.cloud("b"))) as store:
            store.repository("team/m").pull(versions[0], scene.place / "first")
        for name in "ab":
            (scene.cloud(name) / "registers" / "00000001" / "names").write_bytes(b"nonsense")
        with skyhold.open(str(scene.cloud("c"))) as store:
            repository = store.repository("team/m")
            assert repository.pull(versions[0], scene.place / "again").found_by == "cache"
            with pytest.raises(Corrupt):
                repository.pull("main", scene.place / "main")


@pytest.mark.parametrize("name", ["zz", "../../../../etc/passwd", "\u00e9" * 32, "A" * 64])
def test_forged_name_of_a_blob_is_refused(scene: Scene, versions: list[str], name: str) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        change_version_entry(store, "team/m", versions[1], document=name)
        for reference in ("main", versions[1]):
            with pytest.raises(Corrupt):
                store.repository("team/m").pull(reference, scene.place / "out")
            with pytest.raises(Corrupt):
                store.repository("team/m").show(reference)
        assert not store.verify().sound
