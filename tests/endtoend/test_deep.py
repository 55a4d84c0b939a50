"""What `verify --deep` promises: every version is restored byte for byte from each bucket on its own, every register is
read in each bucket that votes, and every object of a bucket is accounted for. Each test damages one thing."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

import skyhold
from skyhold.errors import Corrupt
from skyhold.registry.store import Store
from tests.cli.models import contents, write_model
from tests.endtoend.machines import CLOUDS, Machine, Scene
from tests.endtoend.stores import catch_up, epoch_of
from tests.endtoend.tampering import (
    change_map,
    change_version_entry,
    forge_pack,
    forge_segment,
    forge_sha256,
    shift_place,
)


def flipped(body: bytes) -> bytes:
    return body[: len(body) // 2] + bytes([body[len(body) // 2] ^ 1]) + body[len(body) // 2 + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "flipped": flipped,
    "cut short": lambda body: body[: len(body) // 2],
    "emptied": lambda _: b"",
    "extended": lambda body: body + b"\0",
    "doubled": lambda body: body + body,
}


def register_of(scene: Scene, cloud: str, register: str) -> Path:
    """The object of a register (`config`, `names`, `repository-*`) of the newest epoch in a cloud."""
    (path,) = (scene.cloud(cloud) / "registers" / f"{epoch_of(scene.cloud(cloud)):08x}").glob(register)
    return path


def named(scene: Scene, cloud: str, path: Path) -> str:
    return path.relative_to(scene.cloud(cloud)).as_posix()


# ---- registers


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("register", ["config", "names", "repository-*"])
def test_damaged_register_of_one_bucket_is_named_and_mended(
    register: str, damage: str, scene: Scene, store: Store, model: Path, tmp_path: Path
) -> None:
    catch_up(store)
    path = register_of(scene, "b", register)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with skyhold.open(scene.clouds()[0]) as opened:
        report = opened.verify(deep=True)
        assert [(f.bucket, f.key, f.problem) for f in report.findings] == [("b", named(scene, "b", path), "damaged")]
        assert not report.sound
        planned = opened.repair(dry_run=True)
        assert [finding.key for finding in planned.mended] == [named(scene, "b", path)]
        repaired = opened.repair()
        assert repaired.sound, repaired
        assert [finding.key for finding in repaired.mended] == [named(scene, "b", path)]
        assert opened.verify(deep=True).sound
    catch_up(store)
    scene.lose("a")
    with Machine(scene.place / "other").at_work(), skyhold.connect(scene.clouds()[1]) as others:
        others.repository("fraud/scorer").pull("champion", tmp_path / "pulled")
        others.repository("fraud/scorer").set_refs({"alias/next": "main"})
    assert contents(tmp_path / "pulled") == contents(model)


def test_registers_damaged_in_several_buckets_are_mended_where_each_has_a_majority(scene: Scene, store: Store) -> None:
    catch_up(store)
    names = {"a": "config", "b": "names", "c": "repository-*"}
    damaged = [register_of(scene, cloud, register) for cloud, register in names.items()]
    for path in damaged:
        path.write_bytes(flipped(path.read_bytes()))
    with skyhold.open(scene.clouds()[0]) as opened:
        assert {f.bucket for f in opened.verify(deep=True).findings} == set(CLOUDS)
        assert opened.repair().sound
        assert opened.verify(deep=True).sound


def test_register_that_no_majority_has_intact_stops_neither_verify_nor_the_mending_of_others(
    scene: Scene, store: Store, model: Path
) -> None:
    store.repository("fraud/other", create=True).push(model, message="Other")
    catch_up(store)
    other = store.repository("fraud/other").id
    for cloud in "ab":
        path = register_of(scene, cloud, f"repository-{other}")
        path.write_bytes(flipped(path.read_bytes()))
    pack = next(path for path in sorted((scene.cloud("c") / "packs").rglob("*")) if path.is_file())
    whole = pack.read_bytes()
    pack.write_bytes(flipped(whole))
    epoch = epoch_of(scene.cloud("a"))
    with skyhold.open(scene.clouds()[0]) as opened:
        report = opened.verify(deep=True)
        assert {(f.bucket, f.key.split("/")[0]) for f in report.findings} == {
            ("a", "registers"), ("b", "registers"), ("c", "packs")
        }  # fmt: skip
        assert [sentence for sentence in report.damage if "fraud/other" in sentence]
        assert not [sentence for sentence in report.damage if "fraud/scorer" in sentence]
        assert report.restored == dict.fromkeys("ab", 1) | {"c": 0}
        repaired = opened.repair()
        assert not repaired.sound
        assert [finding.key for finding in repaired.mended] == [named(scene, "c", pack)]
        assert {finding.bucket for finding in repaired.failed} == {"a", "b"}
    assert pack.read_bytes() == whole
    assert epoch_of(scene.cloud("a")) == epoch, "sealing a register that cannot be read would lock out the others"


def test_last_copy_of_a_register_that_two_buckets_lost_outlives_sync_and_repair(
    scene: Scene, store: Store, model: Path
) -> None:
    """A voter without the object is one that has promised nothing: two of them could decide that there is nothing."""
    other = store.repository("fraud/other", create=True)
    other.push(model, message="Other")
    catch_up(store)
    for cloud in "ab":
        register_of(scene, cloud, f"repository-{other.id}").unlink()
    last = register_of(scene, "c", f"repository-{other.id}")
    kept = last.read_bytes()
    for _ in range(3):
        with Machine(scene.place / "other").at_work(), skyhold.connect(scene.clouds()[2]) as opened:
            assert not opened.sync().sound
            assert not opened.repair().sound
            report = opened.verify(deep=True)
            assert any("fraud/other" in sentence for sentence in report.damage)
            assert {f.bucket for f in report.findings} == {"a", "b"}
            assert report.restored == dict.fromkeys(CLOUDS, 1)
    assert last.read_bytes() == kept
    assert epoch_of(scene.cloud("c")) == 1


def test_register_that_a_voter_lacks_is_missing_and_one_that_lags_is_no_damage(scene: Scene, store: Store) -> None:
    catch_up(store)
    scene.keep("before")
    store.repository("fraud/scorer").set_refs({"alias/next": "main"})
    catch_up(store)
    old = register_of(scene, "b", "repository-*")
    key = named(scene, "b", old)
    kept = scene._kept("before") / old.relative_to(scene.place)
    old.write_bytes(kept.read_bytes())
    with (
        Machine(scene.place / "other").at_work(),
        skyhold.connect(scene.clouds()[0]) as opened,
    ):  # one that saw no newer
        report = opened.verify(deep=True)
        assert report.sound
        assert report.lagging["b"].registers == (key,)
        old.unlink()
        report = opened.verify(deep=True)
        assert [(f.bucket, f.key, f.problem) for f in report.findings] == [("b", key, "damaged")]  # it was seen there
        with Machine(scene.place / "eve").at_work(), skyhold.connect(scene.clouds()[0]) as met:
            assert [(f.bucket, f.key, f.problem) for f in met.verify(deep=True).findings] == [("b", key, "missing")]
        assert opened.repair().sound
        assert opened.verify(deep=True).lagging == {}
    assert register_of(scene, "b", "repository-*").is_file()


def test_damaged_checkpoint_of_a_store_that_moved_its_registers_is_named(scene: Scene, machine_store: Store) -> None:
    machine_store.move_engine("buckets")
    checkpoint = next(path for path in sorted((scene.cloud("a") / "checkpoints").rglob("*-*")))
    checkpoint.write_bytes(flipped(checkpoint.read_bytes()))
    with skyhold.open(scene.clouds()[0]) as opened:
        findings = opened.verify(deep=True).findings
        assert [(f.bucket, f.key, f.problem) for f in findings] == [("a", named(scene, "a", checkpoint), "damaged")]


# ---- versions


def test_file_that_differs_from_its_version_is_named(store: Store) -> None:
    digest = store.repository("fraud/scorer").show("main").digest
    forged = forge_sha256(store, "fraud/scorer", digest)
    assert store.verify().sound
    report = store.verify(deep=True)
    (sentence,) = report.damage
    assert forged[:10] in sentence
    assert "SHA-256" in sentence
    assert not report.sound
    assert report.restored == dict.fromkeys(CLOUDS, 1)
    assert report.versions == 2


def test_layout_whose_place_is_shifted_is_named(store: Store, tmp_path: Path) -> None:
    second = store.repository("fraud/scorer").push(write_model(tmp_path / "second", seed=9), message="Two")
    shift_place(store, "fraud/scorer", second.version)
    assert store.verify().sound
    report = store.verify(deep=True)
    (sentence,) = report.damage
    assert second.version[:10] in sentence
    assert report.restored == dict.fromkeys(CLOUDS, 1)


def test_parents_that_are_not_those_of_the_document_are_named_and_a_cycle_ends_every_log(
    store: Store, tmp_path: Path
) -> None:
    repository = store.repository("fraud/scorer")
    first = repository.show("main").digest
    second = repository.push(write_model(tmp_path / "second", seed=9), message="Two").version
    events = len(repository.events())
    change_version_entry(store, "fraud/scorer", first, parents=[[second, events]])
    change_version_entry(store, "fraud/scorer", second, parents=[[first, events + 1]])
    for first_parent in (False, True):
        with pytest.raises(Corrupt) as refused:
            list(repository.log(first_parent=first_parent))
        assert refused.value.code == "history_cycle"
    assert len(repository.log(first_parent=True, limit=2)) == 2
    with pytest.raises(Corrupt):
        repository.show("main~99999")
    for deep in (False, True):
        damage = store.verify(deep=deep).damage
        assert any(first[:10] in sentence and "parents" in sentence for sentence in damage)


def test_parent_and_ref_that_name_no_version_are_named(store: Store) -> None:
    digest = store.repository("fraud/scorer").show("main").digest
    change_version_entry(store, "fraud/scorer", digest, parents=[["0" * 64, 1]])
    assert any("parents" in sentence for sentence in store.verify().damage)
    change_map(store, "fraud/scorer", {f"version/{digest}": None})
    assert any("branch/main" in sentence for sentence in store.verify().damage)


def test_every_version_of_every_repository_is_restored_from_each_bucket(
    scene: Scene, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that no ref reaches; and no pack is fetched more than once from any bucket."""
    from skyhold.buckets.folder import FolderBucket

    repository = store.repository("fraud/scorer")
    repository.push(write_model(tmp_path / "tuned", rows=64, noise=0.001), message="Two", branch="other")
    repository.set_refs({"branch/other": None})
    store.repository("fraud/gone", create=True).push(write_model(tmp_path / "gone", seed=4), message="Gone")
    store.delete_repository("fraud/gone")
    read: list[tuple[str, str]] = []
    read_stream, read_range = FolderBucket.read_stream, FolderBucket.read

    def counted_stream(bucket: FolderBucket, key: str, *arguments: int) -> object:
        read.append((bucket.name, key))
        return read_stream(bucket, key, *arguments)

    def counted(bucket: FolderBucket, key: str, start: int = 0, length: int | None = None) -> object:
        read.append((bucket.name, key))
        return read_range(bucket, key, start, length)

    monkeypatch.setattr(FolderBucket, "read_stream", counted_stream)
    monkeypatch.setattr(FolderBucket, "read", counted)
    report = store.verify(deep=True)
    assert report.sound
    assert (report.versions, report.restored) == (3, dict.fromkeys(CLOUDS, 3))
    packs = [place for place in read if place[1].startswith("packs/")]
    assert (
        len(packs)
        == len(set(packs))
        == 3 * len([path for path in (scene.cloud("a") / "packs").rglob("*") if path.is_file()])
    )


def test_version_is_not_restored_from_a_bucket_whose_pack_is_damaged_or_missing(scene: Scene, store: Store) -> None:
    for cloud, body in (("a", flipped), ("b", None)):
        path = next(path for path in sorted((scene.cloud(cloud) / "packs").rglob("*")) if path.is_file())
        path.unlink() if body is None else path.write_bytes(body(path.read_bytes()))
    report = store.verify(deep=True)
    assert report.restored == {"a": 0, "b": 0, "c": 1}
    assert report.damage == ()
    layout = next(path for path in sorted((scene.cloud("c") / "layouts").rglob("*")) if path.is_file())
    layout.unlink()
    assert store.verify(deep=True).restored == dict.fromkeys(CLOUDS, 0)


def test_pack_that_was_written_anew_with_the_keys_of_the_store_is_found_and_replaced(
    scene: Scene, store: Store, tmp_path: Path
) -> None:
    """As an attacker can who controls one bucket of an open store: every MAC in it matches, and the bytes differ."""
    folder = tmp_path / "noise"
    folder.mkdir()
    (folder / "noise.bin").write_bytes(bytes(range(256)) + random.Random(1).randbytes(5000))
    before = set((scene.cloud("b") / "packs").rglob("*"))
    store.repository("fraud/noise", create=True).push(folder)
    (pack,) = (path for path in set((scene.cloud("b") / "packs").rglob("*")) - before if path.is_file())
    whole = pack.read_bytes()
    pack.write_bytes(forge_pack(store, whole))
    assert pack.read_bytes() != whole
    (scene.cloud("c") / named(scene, "b", pack)).unlink()  # the forged one must not be what c gets
    report = store.verify(deep=True)
    assert [(f.bucket, f.problem) for f in report.findings] == [("b", "damaged"), ("c", "missing")]
    assert report.restored == {"a": 2, "b": 1, "c": 1}
    assert report.damage == ()
    repaired = store.repair()
    assert repaired.sound
    assert pack.read_bytes() == (scene.cloud("c") / named(scene, "b", pack)).read_bytes() == whole
    assert store.verify(deep=True).sound


# ---- trailing bytes


@pytest.mark.parametrize("damage", ["extended", "doubled"])
@pytest.mark.parametrize(
    "kind", ["packs", "indexes", "versions", "layouts", "tensors", "nodes", "checkpoints", "store.json"]
)
def test_object_with_bytes_after_its_end_is_damaged(kind: str, damage: str, scene: Scene, machine_store: Store) -> None:
    machine_store.repository("fraud/scorer").set_refs({f"alias/name-{n:04}-{'x' * 40}": "main" for n in range(60)})
    found = scene.cloud("b") / kind
    path = found if found.is_file() else sorted(path for path in found.rglob("*") if path.is_file())[-1]
    body = path.read_bytes()
    path.write_bytes(DAMAGES[damage](body))
    report = machine_store.verify(deep=True)
    if kind == "store.json":
        assert list(report.unreachable) == ["b"]
    else:
        assert [(f.bucket, f.key, f.problem) for f in report.findings] == [("b", named(scene, "b", path), "damaged")]
    assert machine_store.repair().sound
    assert machine_store.verify(deep=True).sound
    assert kind == "store.json" or path.read_bytes() == body


# ---- every object of a bucket


def test_node_that_no_bucket_has_intact_is_damaged_and_the_other_repositories_are_looked_at(
    scene: Scene, store: Store, model: Path
) -> None:
    repository = store.repository("fraud/scorer")
    repository.set_refs({f"alias/name-{n:04}-{'x' * 40}": "main" for n in range(60)})
    store.repository("fraud/other", create=True).push(model)
    catch_up(store)
    node = sorted(path for path in (scene.cloud("a") / "nodes").rglob("*") if path.is_file())[0]
    for cloud in CLOUDS:
        path = scene.cloud(cloud) / named(scene, "a", node)
        path.write_bytes(flipped(path.read_bytes()))
    with skyhold.open(scene.clouds()[0]) as opened:
        report = opened.verify(deep=True)
        assert [(f.bucket, f.key) for f in report.findings] == [(c, named(scene, "a", node)) for c in CLOUDS]
        assert any("fraud/scorer" in sentence for sentence in report.damage)
        assert not any("fraud/other" in sentence for sentence in report.damage)
        assert all(count >= 1 for count in report.restored.values())


def test_what_no_register_reaches_is_accounted_for_and_is_no_damage(scene: Scene, store: Store) -> None:
    packs = scene.cloud("a") / "packs"
    pack = next(path for path in sorted(packs.rglob("*")) if path.is_file())
    left = packs / "00" / ("00" + "1" * 30)  # as a push that died leaves it, and damaged since
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(pack.read_bytes())
    (scene.cloud("a") / "notes.txt").write_text("mine")
    (scene.cloud("a") / "packs" / "README").write_text("also mine")
    report = store.verify(deep=True)
    assert report.sound
    accounted = {name: (found.unreferenced, found.unknown) for name, found in report.accounted.items()}
    assert accounted == {"a": (1, 2), "b": (0, 0), "c": (0, 0)}
    assert report.accounted["a"].referenced == report.accounted["b"].referenced > 0
    assert [(item.bucket, item.key) for item in report.unaccounted] == [
        ("a", "notes.txt"), ("a", named(scene, "a", left)), ("a", "packs/README")
    ]  # fmt: skip
    files = [path for path in scene.cloud("a").rglob("*") if path.is_file() and ".skyhold" not in path.parts]
    found = report.accounted["a"]
    assert found.referenced + found.unreferenced + found.unknown == len(files)


def test_damaged_pack_that_no_version_needs_is_named_as_such_and_the_store_is_sound(
    scene: Scene, store: Store, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A push that was killed has left it in every bucket, and a disk has damaged it in each."""
    catch_up(store)
    before = {path.name for path in (scene.cloud("a") / "packs").rglob("*")}
    (model / "more.bin").write_bytes(random.Random(5).randbytes(100_000))
    with monkeypatch.context() as killed:
        killed.setattr("skyhold.registry.committing.write_segments", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.repository("fraud/scorer").push(model, message="Never acknowledged")
    (left,) = {path.name for path in (scene.cloud("a") / "packs").rglob("*") if path.is_file()} - before
    for cloud in CLOUDS:
        path = scene.cloud(cloud) / "packs" / left[:2] / left
        path.write_bytes(flipped(path.read_bytes()))
    report = store.verify(deep=True)
    assert report.sound
    assert [(item.bucket, item.key, item.kind) for item in report.unaccounted] == [
        (cloud, f"packs/{left[:2]}/{left}", "useless") for cloud in CLOUDS
    ]
    assert all("no version needs it" in item.reason for item in report.unaccounted)
    for cloud in CLOUDS:
        (scene.cloud(cloud) / "packs" / left[:2] / left).unlink()
    again = store.verify(deep=True)
    assert (again.sound, again.unaccounted) == (True, ())
    store.repository("fraud/scorer").push(model, message="Acknowledged")
    assert store.verify(deep=True).sound


@pytest.mark.parametrize("wrong", ["place", "size", "left out"])
def test_index_segment_that_lists_other_places_than_its_pack_is_named_and_replaced(
    wrong: str, scene: Scene, store: Store, model: Path
) -> None:
    catch_up(store)
    forge_segment(store, wrong)
    with skyhold.open(scene.clouds()[0]) as opened:
        report = opened.verify(deep=True)
        assert not report.sound
        (sentence,) = report.damage
        assert "does not list what pack" in sentence
        repaired = opened.repair()
        assert (repaired.sound, repaired.segments) == (True, 1)
        assert opened.verify(deep=True).sound
    with Machine(scene.place / "other").at_work(), skyhold.connect(scene.clouds()[1]) as others:
        (model / "more.bin").write_bytes(random.Random(5).randbytes(100_000))
        others.repository("fraud/scorer").push(model, message="Two")
        assert others.verify(deep=True).sound


def test_packs_that_no_index_segment_lists_are_named_and_listed(scene: Scene, store: Store, model: Path) -> None:
    catch_up(store)
    for cloud in CLOUDS:
        for path in (scene.cloud(cloud) / "indexes").rglob("*"):
            if path.is_file():
                path.unlink()
    with skyhold.open(scene.clouds()[0]) as opened:
        (sentence,) = opened.verify(deep=True).damage
        assert "No index segment lists packs/" in sentence
        repaired = opened.repair()
        assert (repaired.sound, repaired.segments) == (True, 1)
        assert opened.verify(deep=True).sound
    with Machine(scene.place / "other").at_work(), skyhold.connect(scene.clouds()[1]) as others:
        assert others.repository("fraud/scorer").push(model, message="Two").stored_bytes == 0


def test_registers_of_epochs_that_are_over_are_accounted_for_by_the_incarnations_on_record(
    scene: Scene, store: Store
) -> None:
    catch_up(store)
    store.replace_voter("b")  # its copies of epoch 1 are of an incarnation that no bucket has any more
    catch_up(store)
    report = store.verify(deep=True)
    assert report.sound
    assert report.unaccounted == ()
    assert {name: found.unreferenced for name, found in report.accounted.items()} == dict.fromkeys(CLOUDS, 3)
    old = scene.cloud("b") / "registers" / "00000001" / "names"
    old.write_bytes(flipped(old.read_bytes()))
    report = store.verify(deep=True)
    assert report.sound
    assert [(item.bucket, item.key) for item in report.unaccounted] == [("b", named(scene, "b", old))]


def test_lagging_bucket_is_reported_as_lagging_and_not_as_damaged(scene: Scene, store: Store, tmp_path: Path) -> None:
    catch_up(store)
    away = scene.cloud("b").rename(tmp_path / "away")
    tuned = write_model(tmp_path / "tuned", rows=64, noise=0.001)
    with skyhold.open(scene.clouds()[0]) as pushing:
        pushing.repository("fraud/scorer").push(tuned, message="Two", aliases=["champion"])
    away.rename(scene.cloud("b"))
    with skyhold.open(scene.clouds()[0]) as opened:
        report = opened.verify(deep=True)
        assert {finding.problem for finding in report.findings} == {"missing"}
        assert list(report.lagging) == ["b"]
        assert report.lagging["b"].missing == len(report.findings)
        assert report.damage == ()
        assert report.restored == {"a": 2, "b": 1, "c": 2}
        assert opened.sync().sound
        assert opened.verify(deep=True).sound
