"""Clouds that are lost, emptied, put back as they were, read-only or damaged: reading goes on, the damage is named, and
a repair mends it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import skyhold
from skyhold.buckets.bucket import ObjectInfo
from skyhold.consensus.checkpoint import parse_checkpoint_key
from skyhold.errors import AlreadyExists, Conflict, Corrupt, Unavailable
from skyhold.registry.repositories import Repositories
from skyhold.registry.store import Store
from skyhold.storage.canonical import Json, canonical
from skyhold.storage.object_keys import pack_id_of
from skyhold.storage.policy import Policy
from skyhold.store.connection import new_operation_id, pause
from tests.cli.models import contents, write_model
from tests.endtoend.machines import CLOUDS, Machine, Scene
from tests.endtoend.stores import catch_up
from tests.endtoend.tampering import change_event

KINDS = ("packs", "indexes", "versions", "layouts", "pages", "tensors", "nodes")


@pytest.fixture(autouse=True)
def without_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every read goes to the clouds."""
    monkeypatch.setattr("skyhold.storage.cache.PackCache.get", lambda *_: None)
    monkeypatch.setattr("skyhold.storage.linked_files.LinkedFiles.has", lambda *_: False)
    monkeypatch.setattr("skyhold.storage.linked_files.LinkedFiles.read", lambda *_: None)


@pytest.fixture
def many_objects(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """With so many moves that the map of the repository has nodes, and a version of so many chunks, in pages of a few
    places, that its layout has pages of its own."""
    repository = store.repository("fraud/scorer")
    long = tmp_path / "long"
    long.mkdir()
    for number in range(50):
        (long / f"part-{number:02}").write_text(f"{number} is a number\n" * 200)
    with monkeypatch.context() as small_pages:
        small_pages.setattr("skyhold.storage.layout.PAGE_BYTES_MAX", 1000)
        repository.push(long, branch="long")
    repository.set_refs({f"alias/name-{number:04}-{'x' * 40}": "main" for number in range(60)})
    return store


def objects(scene: Scene, cloud: str, kind: str) -> list[Path]:
    return sorted(path for path in (scene.cloud(cloud) / kind).rglob("*") if path.is_file())


def flip(path: Path, at: float = 0.5) -> None:
    """Flip a bit of a file, at a share of its length."""
    body = bytearray(path.read_bytes())
    body[int(len(body) * at)] ^= 1
    path.write_bytes(body)


def pulls(store: Store, model: Path, to: Path) -> bool:
    shutil.rmtree(to, ignore_errors=True)
    store.repository("fraud/scorer").pull("champion", to)
    return contents(to) == contents(model)


def test_every_kind_of_object_is_there_to_be_damaged(scene: Scene, many_objects: Store) -> None:
    assert [kind for kind in KINDS if not objects(scene, "a", kind)] == []


@pytest.mark.parametrize("damage", ["flipped", "cut short", "swapped", "gone"])
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_object_is_read_elsewhere_named_and_mended(
    kind: str, damage: str, scene: Scene, many_objects: Store, model: Path, tmp_path: Path
) -> None:
    path = objects(scene, "a", kind)[0]
    key = str(path.relative_to(scene.cloud("a")))
    body = path.read_bytes()
    if damage == "flipped":
        flip(path)
    elif damage == "cut short":
        path.write_bytes(body[: len(body) // 2])
    elif damage == "swapped":  # with another intact object of the store
        other = next(path for kind in KINDS for path in objects(scene, "a", kind) if path.read_bytes() != body)
        path.write_bytes(other.read_bytes())
    else:
        path.unlink()
    with skyhold.open(scene.clouds()[0]) as store:
        assert pulls(store, model, tmp_path / "pulled")
        store.repository("fraud/scorer").pull("long", tmp_path / "pulled-long")
        assert contents(tmp_path / "pulled-long") == contents(tmp_path / "long")
        report = store.verify(deep=True)
        problem = "missing" if damage == "gone" else "damaged"
        assert [(f.bucket, f.key, f.problem) for f in report.findings] == [("a", key, problem)]
        repaired = store.repair()
        assert repaired.sound
        assert [finding.key for finding in repaired.mended] == [key]
        assert store.verify(deep=True).sound
    assert path.read_bytes() == body


def test_pack_damaged_differently_in_every_bucket_is_merged(
    scene: Scene, store: Store, model: Path, tmp_path: Path
) -> None:
    packs = [objects(scene, cloud, "packs")[0] for cloud in CLOUDS]
    intact = packs[0].read_bytes()
    flip(packs[0], 0.3)  # the embedding, which is most of the pack
    flip(packs[1], 0.99)  # its end
    packs[2].unlink()
    assert {finding.bucket for finding in store.verify(deep=True).findings} == set(CLOUDS)
    assert store.repair().sound
    assert store.verify(deep=True).sound
    assert [pack.read_bytes() for pack in packs] == [intact] * 3
    assert pulls(store, model, tmp_path / "pulled")


def test_damage_that_no_bucket_can_mend_is_named_and_not_returned(scene: Scene, store: Store, tmp_path: Path) -> None:
    for cloud in CLOUDS:
        flip(objects(scene, cloud, "packs")[0], 0.2)
    with pytest.raises(Corrupt):
        store.repository("fraud/scorer").pull("champion", tmp_path / "pulled")
    assert [path for path in contents(tmp_path / "pulled") if path.endswith(".safetensors")] == []
    report = store.repair()
    assert not report.sound
    assert {finding.key for finding in report.failed} == {
        str(objects(scene, "a", "packs")[0].relative_to(scene.cloud("a")))
    }


def newest_checkpoints(scene: Scene, cloud: str) -> dict[str, Path]:
    """The newest checkpoint of every register in a cloud, by key."""
    newest = {path.parent.name: path for path in objects(scene, cloud, "checkpoints")}
    found = {str(path.relative_to(scene.cloud(cloud))): path for path in newest.values()}
    assert all(parse_checkpoint_key(key) for key in found)
    assert len(found) == 3  # config, names, and the repository's
    return found


@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_damaged_and_missing_checkpoints_are_named_and_mended(damage: str, scene: Scene, machine_store: Store) -> None:
    newest = newest_checkpoints(scene, "a")
    for path in newest.values():
        if damage == "flipped":
            flip(path)
        else:
            path.unlink()
    problem = "damaged" if damage == "flipped" else "missing"
    findings = machine_store.verify(deep=True).findings
    assert {(finding.bucket, finding.key, finding.problem) for finding in findings} == {
        ("a", key, problem) for key in newest
    }
    repaired = machine_store.repair()
    assert repaired.sound
    assert {finding.key for finding in repaired.mended} == set(newest)
    assert machine_store.verify(deep=True).sound
    scene.lose("b")
    scene.lose("c")
    with Machine(scene.place / "other").at_work():
        recovered, report_of = skyhold.recover(scene.clouds()[0], minority=True)
        with recovered:
            assert report_of.damaged == ()
            assert len(recovered.repository("fraud/scorer").log()) == 1


def test_missing_checkpoint_is_seen_by_listings_and_brought_by_sync(scene: Scene, machine_store: Store) -> None:
    newest = newest_checkpoints(scene, "b")
    for path in newest.values():
        path.unlink()
    assert {bucket.name: bucket.missing for bucket in machine_store.status().buckets} == {"a": 0, "b": 3, "c": 0}
    assert {(finding.bucket, finding.key) for finding in machine_store.verify().findings} == {
        ("b", key) for key in newest
    }
    one = machine_store.verify(repository="fraud/scorer").findings
    assert len(one) == 1
    assert {finding.key for finding in one} < set(newest)
    assert {finding.key for finding in machine_store.sync().mended} == set(newest)
    assert newest_checkpoints(scene, "b").keys() == newest.keys()
    assert machine_store.verify(deep=True).sound


def test_checkpoint_that_no_bucket_has_is_reported_and_written_from_the_registers(
    scene: Scene, machine_store: Store
) -> None:
    for cloud in CLOUDS:
        for path in newest_checkpoints(scene, cloud).values():
            path.unlink()
    damage = machine_store.verify().damage
    assert {sentence.split(" of ")[1].split(";")[0] for sentence in damage} == {
        "register config", "register names", "fraud/scorer"
    }  # fmt: skip
    assert machine_store.status().damage == damage
    planned = machine_store.repair(dry_run=True)
    assert planned.damage == damage
    repaired = machine_store.repair()
    assert (repaired.checkpoints, repaired.sound) == (3, True)
    assert machine_store.verify(deep=True).sound
    with Machine(scene.place / "other").at_work():
        recovered, _ = skyhold.recover(scene.clouds()[0])
        with recovered:
            assert len(recovered.repository("fraud/scorer").log()) == 1


@pytest.mark.parametrize("changes", [1, 20])
def test_refs_that_move_while_checkpoints_are_listed_are_no_damage(
    changes: int, scene: Scene, machine_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By so many changes, too, that the checkpoint of the one before is deleted."""
    from skyhold.buckets.folder import FolderBucket

    list_objects, waiting = FolderBucket.list, [True]

    def move_first(bucket: FolderBucket, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        if prefix == "checkpoints/" and waiting:
            waiting.clear()
            for number in range(changes):
                machine_store.repository("fraud/scorer").set_refs({f"alias/name-{number}": "main"})
        return list_objects(bucket, prefix, after=after)

    with skyhold.open(scene.clouds()[0]) as looking:
        monkeypatch.setattr(FolderBucket, "list", move_first)
        assert looking.verify().sound
    assert not waiting


def test_lost_cloud_leaves_it_open_whether_a_checkpoint_is_lost(scene: Scene, machine_store: Store) -> None:
    for path in newest_checkpoints(scene, "a").values():
        path.unlink()
    for cloud in "bc":
        scene.lose(cloud)
    report = machine_store.verify()
    assert (report.damage, sorted(report.unreachable)) == ((), ["b", "c"])
    assert machine_store.repair().checkpoints == 0


@pytest.mark.parametrize("cloud", CLOUDS)
def test_lost_cloud_is_not_noticed_and_is_filled_when_it_comes_back_empty(
    cloud: str, scene: Scene, store: Store, model: Path, tmp_path: Path
) -> None:
    scene.lose(cloud)
    assert pulls(store, model, tmp_path / "pulled")
    tuned = write_model(tmp_path / "tuned", rows=64, noise=0.001)
    result = store.repository("fraud/scorer").push(tuned, message="Two", aliases=["champion"])
    assert list(result.lagging) == [cloud]
    assert list(store.verify().unreachable) == [cloud]
    scene.cloud(cloud).mkdir()
    report = store.repair()
    assert report.readmitted == (cloud,)
    assert report.sound
    assert store.verify(deep=True).sound
    catch_up(store)
    for other in set(CLOUDS) - {cloud}:
        scene.keep("whole")
        scene.lose(other)
        assert pulls(store, tuned, tmp_path / "pulled")
        scene.put_back("whole", cloud=other)


def test_cloud_put_back_as_it_was_is_brought_up_to_date(scene: Scene, store: Store, tmp_path: Path) -> None:
    catch_up(store)
    scene.keep("before")
    tuned = write_model(tmp_path / "tuned", rows=64, noise=0.001)
    store.repository("fraud/scorer").push(tuned, message="Two", aliases=["champion"])
    catch_up(store)
    scene.put_back("before", cloud="b")
    status = {bucket.name: bucket.missing for bucket in store.status().buckets}
    assert status["b"] > 0
    assert status["a"] == status["c"] == 0
    assert pulls(store, tuned, tmp_path / "pulled")
    assert store.sync().sound
    findings = store.verify().findings  # its voter has gone back, and takes no part in this epoch any more
    assert {(found.bucket, found.key.partition("/")[0], found.problem) for found in findings} == {
        ("b", "registers", "damaged")
    }
    assert store.repair().epoch == 2
    assert store.verify(deep=True).sound


def test_cloud_put_back_as_it_was_before_it_was_readmitted_is_refused(scene: Scene, store: Store) -> None:
    catch_up(store)
    scene.keep("before")
    scene.empty("b")
    assert store.repair().readmitted == ("b",)
    scene.put_back("before", cloud="b")
    report = store.verify()
    assert "not the one that was admitted" in report.unreachable["b"]
    assert "Admit it again: `skyhold store voters replace b`" in report.unreachable["b"]
    hints = {bucket.name: bucket.hint for bucket in store.status().buckets}
    assert (hints["a"], hints["c"]) == (None, None)
    assert "Admit it again: `skyhold store voters replace b`" in str(hints["b"])
    assert not store.repair().sound
    scene.empty("b")
    assert store.repair().sound


def test_read_only_cloud_lags_and_reading_goes_on(
    scene: Scene, store: Store, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skyhold.buckets.folder import FolderBucket
    from skyhold.errors import PermissionDenied

    write = FolderBucket.write

    def refuse(bucket: FolderBucket, key: str, body: bytes, **_options: object) -> None:
        if bucket.name == "b":
            raise PermissionDenied("bucket `b` is read-only", code="read_only")
        write(bucket, key, body)

    monkeypatch.setattr(FolderBucket, "write", refuse)
    tuned = write_model(tmp_path / "tuned", rows=64, noise=0.001)
    result = store.repository("fraud/scorer").push(tuned, message="Two", aliases=["champion"])
    assert list(result.lagging) == ["b"]
    assert pulls(store, tuned, tmp_path / "pulled")
    monkeypatch.undo()
    assert store.sync().sound
    assert store.verify(deep=True).sound


def test_missing_store_document_is_found_and_mended(scene: Scene, store: Store) -> None:
    (scene.cloud("c") / "store.json").unlink()
    assert "store.json" in store.verify().unreachable["c"]
    assert {bucket.name for bucket in store.status().buckets if bucket.error} == {"c"}
    assert store.repair().readmitted == ("c",)
    assert store.verify(deep=True).sound
    with Machine(scene.place / "other").at_work(), skyhold.connect(scene.clouds()[2]) as met:
        assert len(met.repository("fraud/scorer").log()) == 1


@pytest.mark.parametrize("kind", ["flipped", "malformed", "large", "of another store"])
def test_way_out_of_a_bucket_without_proof_that_it_was_admitted_is_true(
    kind: str, scene: Scene, store: Store, tmp_path: Path
) -> None:
    """Its store.json is damaged, and so is each of its registers: what a repair names instead of itself leads back."""
    catch_up(store)  # a put that comes late would make a register whole again
    document = scene.cloud("c") / "store.json"
    if kind == "flipped":
        flip(document, 0.9)
    elif kind == "malformed":
        document.write_bytes(b"{")
    elif kind == "large":
        os.truncate(document, 1 << 30)
    else:
        document.write_bytes(document.read_bytes().replace(store.status().store.encode(), b"f" * 32))
    for path in objects(scene, "c", "registers"):
        flip(path)
    for report in (store.repair(), store.verify(), store.repair()):
        message = report.unreachable["c"]
        assert "If it is the right bucket, admit it again: " in message
        again = message.partition("admit it again: ")[2].partition(". Else")[0]
        assert again == (
            "`skyhold store voters replace c`" if kind == "flipped" else "empty it, then run `skyhold repair`"
        )
        assert message.endswith("Else take it out: skyhold bucket remove c")
    if kind == "flipped":
        store.replace_voter("c")
    else:
        with pytest.raises(AlreadyExists):
            store.replace_voter("c")
        scene.empty("c")
    assert store.repair().sound
    assert store.verify(deep=True).sound


def test_bucket_without_proof_that_it_was_admitted_can_be_taken_out(scene: Scene, store: Store) -> None:
    (scene.cloud("c") / "store.json").write_bytes(b"{")
    for path in objects(scene, "c", "registers"):
        flip(path)
    store.remove_bucket("c")
    assert store.verify(deep=True).sound


@pytest.mark.parametrize("size_bytes", [(1 << 20) + 1, 6 << 30])
def test_too_large_a_store_document_is_mended(size_bytes: int, scene: Scene, store: Store) -> None:
    os.truncate(scene.cloud("c") / "store.json", size_bytes)
    report = store.repair()
    assert report.readmitted == ("c",)
    assert report.sound
    assert store.verify(deep=True).sound


def test_foreign_store_in_a_bucket_is_never_written_to(scene: Scene, store: Store) -> None:
    catch_up(store)  # a put that comes late is refused, but takes a lock of the driver for that
    scene.lose("c")
    with Machine(scene.place / "other").at_work():
        skyhold.init([scene.clouds()[2]]).close()
    before = contents(scene.cloud("c"))
    report = store.repair()
    assert list(report.unreachable) == ["c"]
    assert contents(scene.cloud("c")) == before


@pytest.mark.parametrize("deleted", [False, True])
def test_rewritten_history_of_a_ref_is_named_by_repository_and_ref(store: Store, model: Path, deleted: bool) -> None:
    repository = store.repository("fraud/scorer")
    store.repository("fraud/other", create=True).push(model)
    repository.set_refs({"alias/champion": "main", "alias/next": "v1"}, reason="asked for")
    assert store.verify().sound
    (move,) = repository.history("alias/next")
    change_event(store, "fraud/scorer", move.sequence, author="Eve <eve@example.org>")
    if deleted:
        store.delete_repository("fraud/scorer")
    (sentence,) = store.verify().damage
    assert sentence.startswith("In fraud/scorer: ")
    assert f"is broken at event {move.sequence}, alias/next: its hash does not follow" in sentence
    assert store.verify(deep=True).damage == store.status().damage == (sentence,)
    assert not store.repair().sound
    if not deleted:
        assert store.verify(repository="fraud/other").sound
        assert not store.verify(repository="fraud/scorer").sound


# ---- the fence of garbage collection (format.md, 12); gc itself comes later


def collect(store: Store, packs: list[bytes]) -> None:
    """What a gc does before it deletes: tombstones, the epoch in the names, the epoch in every register."""
    connection = store._connection
    with connection.session(Policy()) as session:
        repositories = Repositories(connection.registers, session.blobs)
        names = repositories.read()
        epoch = names.gc_epoch + 1
        body = canonical({"tombstones": 1, "epoch": epoch, "packs": [pack.hex() for pack in packs], "blobs": []})
        marked = session.blobs.write("tombstones", body)
        origin = connection.origin(reason="gc")
        part: Json = {"kind": "gc", "epoch": epoch, "tombstones": [marked]}
        after = names.after(origin, [part], {}, gc_epoch=epoch, tombstones=(*names.tombstones, marked))
        connection.registers.compare_and_set("names", names.register_version, after.encode(), new_operation_id())
        for key in names.registers():
            if key.startswith("repository/"):
                register = repositories.repository(key.removeprefix("repository/"))
                register.raise_gc_epoch(epoch, origin, new_operation_id(), pause=pause)


def pack_ids(scene: Scene) -> list[bytes]:
    keys = [str(path.relative_to(scene.cloud("a"))) for path in objects(scene, "a", "packs")]
    return [pack_id for key in keys if (pack_id := pack_id_of(key)) is not None]


def test_push_after_a_collection_sends_again_what_is_tombstoned(
    scene: Scene, store: Store, model: Path, tmp_path: Path
) -> None:
    doomed = pack_ids(scene)
    collect(store, doomed)
    result = store.repository("fraud/scorer").push(model, message="Two", branch="other")
    assert result.reused_bytes == 0
    assert result.stored_bytes > 0
    delete_packs(scene, doomed)
    store.repository("fraud/scorer").pull("other", tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(model)


def test_collection_during_a_push_makes_it_send_again_what_it_meant_to_reuse(
    scene: Scene, store: Store, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doomed = pack_ids(scene)
    raced = collect_once(store, doomed)
    monkeypatch.setattr("skyhold.registry.committing.write_segments", raced)
    result = store.repository("fraud/scorer").push(model, message="Two", branch="other")
    assert result.stored_bytes > 0
    delete_packs(scene, doomed)
    store.repository("fraud/scorer").pull("other", tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(model)


def collect_once(store: Store, doomed: list[bytes]) -> Callable[..., None]:
    """`write_segments`, before whose first call a whole gc happens."""
    from skyhold.storage.index_segments import write_segments

    waiting = [doomed]

    def wrapped(*arguments: object) -> None:
        if waiting:
            collect(store, waiting.pop())
        write_segments(*arguments)  # type: ignore[arg-type]

    return wrapped


def delete_packs(scene: Scene, doomed: list[bytes]) -> None:
    for cloud in CLOUDS:
        for path in objects(scene, cloud, "packs"):
            if bytes.fromhex(path.name) in doomed:
                path.unlink()


def test_collection_during_every_attempt_is_reported(
    store: Store, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skyhold.storage.index_segments import write_segments

    def wrapped(*arguments: object) -> None:
        collect(store, [])
        write_segments(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("skyhold.registry.committing.write_segments", wrapped)
    with pytest.raises(Conflict) as refused:
        store.repository("fraud/scorer").push(model, message="Two", branch="other")
    assert refused.value.code == "gc_epoch_risen"
    assert [view.name for view in store.repository("fraud/scorer").refs()] == [
        "alias/champion", "branch/main", "tag/v1"
    ]  # fmt: skip


def test_pack_that_vanished_without_a_collection_is_sent_again(
    scene: Scene, store: Store, model: Path, tmp_path: Path
) -> None:
    delete_packs(scene, pack_ids(scene))
    result = store.repository("fraud/scorer").push(model, message="Two", branch="other")
    assert result.stored_bytes > 0
    store.repository("fraud/scorer").pull("other", tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(model)


def test_push_that_too_few_clouds_take_moves_no_ref(scene: Scene, machine_store: Store, tmp_path: Path) -> None:
    scene.lose("a")
    scene.lose("b")
    tuned = write_model(tmp_path / "tuned", rows=64, seed=5)
    before = contents(scene.cloud("c"))
    with pytest.raises(skyhold.SkyholdError) as refused:
        machine_store.repository("fraud/scorer").push(tuned, message="Two")
    assert refused.value.exit_status in {Unavailable.exit_status, 3}
    assert {key for key in contents(scene.cloud("c")).keys() - before.keys() if key.startswith("checkpoints/")} == set()
    assert len(machine_store.repository("fraud/scorer").log()) == 1
