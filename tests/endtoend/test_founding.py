"""Making a store, opening it again, and taking it over: what dies half-way, moves, or is away."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import skyhold
from skyhold.buckets import open as opening_of_buckets
from skyhold.buckets.folder import FolderBucket
from skyhold.buckets.location import parse_location
from skyhold.buckets.retry import RetryPolicy
from skyhold.errors import (
    AlreadyExists,
    Conflict,
    InvalidInput,
    OutcomeUnknown,
    PermissionDenied,
    SkyholdError,
    Unavailable,
)
from skyhold.registry.store import Store
from skyhold.security.keys import Passphrase
from skyhold.store import opening
from skyhold.store.settings import BucketSettings, Settings
from skyhold.store.state import RememberedStore, open_state
from tests.cli.models import contents, write_model
from tests.endtoend.killing import Fuse, in_child, insert_fuse
from tests.endtoend.machines import Machine, Scene


def init_in_child(scene: Scene, kill_at: int | None, engine: str | None = None) -> int | None:
    """Calls that making the store takes, or None where it was killed."""

    def init() -> int:
        fuse = Fuse(kill_at)
        insert_fuse(fuse)
        with skyhold.init(scene.clouds(), engine=engine):
            return len(fuse.calls)

    ended = in_child(init)
    assert ended.signal in {0, signal.SIGKILL}
    return None if ended.signal else int(ended.result)


@pytest.mark.parametrize("engine", ["sqlite", "buckets"])
def test_init_killed_at_any_bucket_call_can_be_run_again(scene: Scene, engine: str) -> None:
    """At each of them; most calls of `buckets` try the voters and are alike, so of these every 40th."""
    scene.keep("fresh")
    calls = init_in_child(scene, None, engine)
    assert calls is not None
    for number in range(1, calls + 1, 1 if engine == "sqlite" else 40):
        scene.put_back("fresh")
        survived = init_in_child(scene, number, engine) is not None
        assert not survived or engine == "buckets", "its calls come in another order each time, and may be fewer"
        if survived:
            continue
        with skyhold.init(scene.clouds(), engine=engine) as made:
            assert made.verify(deep=True).sound
        with skyhold.open(scene.clouds()[1]) as opened:
            assert opened.id == made.id
        assert list((scene.machine.folder / "state" / "founding").iterdir()) == []


def test_killed_init_is_undone_bucket_by_bucket_in_whatever_stores_they_go(scene: Scene) -> None:
    calls = init_in_child(scene, None)
    assert calls is not None
    for number in range(calls, calls - 50, -1):  # at its last call, of which there are not always as many
        shutil.rmtree(scene.place / "clouds")
        if init_in_child(scene, number) is None:
            break
    else:
        pytest.fail(f"no init of some {calls} calls was killed")
    a, b, c = scene.clouds()
    skyhold.init([a]).close()
    skyhold.init([c, b]).close()


def test_init_that_runs_elsewhere_on_this_machine_is_not_undone(scene: Scene) -> None:
    def init_again() -> str:
        with pytest.raises(AlreadyExists) as refused:
            skyhold.init(scene.clouds())
        return refused.value.code

    def founding(*_: object) -> None:
        codes.append(in_child(init_again).result)

    codes: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skyhold.store.founding.encode_configuration", _before(founding))
        skyhold.init(scene.clouds()).close()
    assert codes == ["store_exists"]


def _before(action: object) -> object:
    from skyhold.store.configuration import encode_configuration

    def wrapped(configuration: object) -> bytes:
        action()  # type: ignore[operator]
        return encode_configuration(configuration)  # type: ignore[arg-type]

    return wrapped


def test_refused_init_leaves_nothing_behind(scene: Scene) -> None:
    scene.cloud("c").mkdir(parents=True)
    (scene.cloud("c") / "diary.txt").write_text("mine")
    with pytest.raises(InvalidInput) as refused:
        skyhold.init(scene.clouds())
    assert refused.value.code == "folder_not_empty"
    for name in "ab":
        assert [key for key in contents(scene.cloud(name)) if not key.startswith(".skyhold/")] == []
    assert list((scene.machine.folder / "state" / "founding").iterdir()) == []
    skyhold.init(scene.clouds()[:2]).close()


def test_refused_init_that_cannot_be_undone_is_undone_by_the_next(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_bucket: FolderBucket, _key: str) -> None:
        raise Unavailable("away for a moment")

    scene.cloud("c").mkdir(parents=True)
    (scene.cloud("c") / "diary.txt").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(opening_of_buckets, "DEFAULT_POLICY", RetryPolicy(attempts_max=1))
        patch.setattr(FolderBucket, "delete", away)
        with pytest.raises(InvalidInput):
            skyhold.init(scene.clouds())
    assert (scene.cloud("a") / "store.json").exists()
    skyhold.init(scene.clouds()[:2]).close()


def test_bucket_that_went_away_when_init_wrote_to_it_is_undone_by_the_next(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_if, away = FolderBucket.write_if, list[str]()

    def written_and_away(bucket: FolderBucket, key: str, body: bytes, **condition: object) -> str:
        tag = write_if(bucket, key, body, **condition)  # type: ignore[arg-type]
        if bucket.name == "b" and key == "store.json":
            away.append(bucket.name)
            raise OutcomeUnknown("no answer came")
        return tag

    def unless_away(call: Callable[..., object]) -> Callable[..., object]:
        def called(bucket: FolderBucket, *arguments: object, **named: object) -> object:
            if bucket.name in away:
                raise Unavailable("away for a moment")
            return call(bucket, *arguments, **named)

        return called

    with monkeypatch.context() as patch:
        patch.setattr(opening_of_buckets, "DEFAULT_POLICY", RetryPolicy(attempts_max=1))
        patch.setattr(FolderBucket, "write_if", written_and_away)
        for name in ("list", "read", "read_range", "read_stream", "read_tagged"):
            if hasattr(FolderBucket, name):
                patch.setattr(FolderBucket, name, unless_away(getattr(FolderBucket, name)))
        with pytest.raises(Unavailable, match="away for a moment"):
            skyhold.init(scene.clouds())
    assert (scene.cloud("b") / "store.json").exists()
    skyhold.init(scene.clouds()).close()


def test_store_made_anew_in_the_same_places_is_met_as_the_new_one(scene: Scene) -> None:
    for _ in range(3):  # ids are random, and so is which note is found first
        shutil.rmtree(scene.place / "clouds", ignore_errors=True)
        with skyhold.init(scene.clouds()) as made:
            pass
        for url in scene.clouds():
            with skyhold.open(url) as opened:
                assert opened.id == made.id


def test_other_store_in_a_known_place_is_refused_until_it_is_connected(scene: Scene, store: Store) -> None:
    with Machine(scene.place / "other").at_work():
        shutil.rmtree(scene.cloud("a"))
        with skyhold.init([scene.clouds()[0]], engine="sqlite") as foreign:
            pass
    with pytest.raises(InvalidInput) as refused:
        skyhold.open(scene.clouds()[0])
    assert refused.value.code == "other_store"
    with pytest.raises(PermissionDenied) as elsewhere:
        skyhold.connect(scene.clouds()[0])
    assert elsewhere.value.code == "other_machine"
    assert foreign.id != store.id


def test_store_is_opened_by_the_url_of_a_bucket_that_is_away(scene: Scene, store: Store) -> None:
    scene.lose("a")
    with skyhold.open(scene.clouds()[0]) as opened:
        assert opened.id == store.id


@pytest.mark.parametrize("damage", ["flipped", "emptied", "huge"])
def test_store_is_opened_by_the_url_of_a_bucket_whose_document_is_damaged(
    damage: str, scene: Scene, store: Store
) -> None:
    document = scene.cloud("a") / "store.json"
    body = bytearray(document.read_bytes())
    body[len(body) // 2] ^= 1
    document.write_bytes({"flipped": bytes(body), "emptied": b"", "huge": b" " * (2 << 20)}[damage])
    with skyhold.open(scene.clouds()[0]) as opened:
        assert opened.id == store.id
        report = opened.verify()
        assert not report.sound
        assert list(report.unreachable) == ["a"]
        assert opened.status().buckets[0].error is not None
        assert opened.repair().sound
        assert opened.verify(deep=True).sound


def test_whole_locations_are_remembered_and_used_to_find_the_other_buckets(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket of a lab's own S3 server is found again, with its settings on this machine, which name it."""
    lab = parse_location("s3://models?endpoint=https://minio.lab&region=lab&credentials=env:LAB&name=lab")
    away = parse_location("s3://models?name=public")
    open_state().store("5" * 32).remember(RememberedStore((away, lab), False, "c" * 16))
    asked = []

    def opened(location: object) -> object:
        asked.append(location)
        raise Unavailable("away")

    monkeypatch.setattr(opening, "open_bucket", opened)
    settings = Settings(buckets={"lab": BucketSettings(credentials="env:MINE")})
    with pytest.raises(SkyholdError):
        skyhold.open("s3://models", settings=settings)
    mine = parse_location("s3://models?endpoint=https://minio.lab&region=lab&credentials=env:MINE&name=lab")
    assert asked == [away, mine]
    asked.clear()
    with pytest.raises(SkyholdError):
        skyhold.open("s3://models?endpoint=https://minio.lab", settings=settings)
    assert asked == [mine, away]


def test_recovered_store_refuses_the_machine_that_had_it(scene: Scene, machine_store: Store, model: Path) -> None:
    with Machine(scene.place / "other").at_work():
        recovered, report = skyhold.recover(scene.clouds()[1])
        with recovered:
            assert (report.epoch, report.majority, report.failed) == (2, True, {})
            recovered.repository("fraud/scorer").push(model, message="On the other machine")
    with pytest.raises(Conflict) as refused:
        machine_store.repository("fraud/scorer").push(model, message="On the old one")
    assert refused.value.code == "store_recovered_elsewhere"
    with pytest.raises(PermissionDenied) as closed:
        skyhold.open(scene.clouds()[0])
    assert closed.value.code == "other_machine"
    with Machine(scene.place / "other").at_work(), skyhold.open(scene.clouds()[0]) as opened:
        messages = [entry.message for entry in opened.repository("fraud/scorer").log()]
        assert messages == ["On the other machine", "One"]


def test_minority_recovers_only_where_that_is_allowed(scene: Scene, machine_store: Store, model: Path) -> None:
    scene.lose("b")
    scene.lose("c")
    with Machine(scene.place / "other").at_work():
        before = contents(scene.cloud("a"))
        with pytest.raises(Unavailable) as refused:
            skyhold.recover(scene.clouds()[0])
        assert refused.value.code == "minority"
        assert contents(scene.cloud("a")) == before
        recovered, report = skyhold.recover(scene.clouds()[0], minority=True)
        with recovered:
            assert not report.majority
            assert [view.name for view in recovered.repository("fraud/scorer").refs()] == [
                "alias/champion", "branch/main", "tag/v1"
            ]  # fmt: skip
            recovered.remove_bucket("b", "c", force=True)
            recovered.repository("fraud/scorer").push(model, message="Alone")
            assert recovered.verify(deep=True).sound
        with skyhold.open(scene.clouds()[0]) as opened:
            assert opened.repository("fraud/scorer").log()[0].message == "Alone"


def test_a_lost_bucket_that_leaves_alone_names_those_that_have_to_leave_with_it(
    scene: Scene, machine_store: Store
) -> None:
    """Of the two buckets that stay, the one that is lost, too, cannot take the change."""
    scene.lose("b")
    scene.lose("c")
    with Machine(scene.place / "other").at_work():
        recovered, _ = skyhold.recover(scene.clouds()[0], minority=True)
        with recovered:
            with pytest.raises(OutcomeUnknown) as pending:
                recovered.remove_bucket("b", force=True)
            assert pending.value.code == "checkpoint_pending"
            assert "a, c" in str(pending.value.hint)
            assert "bucket remove" in str(pending.value.hint)
            recovered.remove_bucket("c", force=True)
            assert recovered.bucket_names == ["a"]
        with skyhold.open(scene.clouds()[0]) as opened:
            assert opened.bucket_names == ["a"]


def test_sealed_store_recovers_with_its_passphrase_and_not_without(scene: Scene, tmp_path: Path) -> None:
    settings = Settings(passphrase="correct horse")
    keks = [Passphrase("correct horse")]
    with skyhold.init(scene.clouds(), settings=settings, encrypt_with=keks, engine="sqlite") as made:
        made.repository("fraud/scorer", create=True).push(write_model(tmp_path / "model", rows=64))
    with Machine(scene.place / "other").at_work():
        for wrong in (Settings(), Settings(passphrase="battery staple")):
            with pytest.raises(PermissionDenied):
                skyhold.recover(scene.clouds()[2], settings=wrong)
        recovered, _ = skyhold.recover(scene.clouds()[2], settings=settings)
        with recovered:
            recovered.repository("fraud/scorer").pull("main", tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(tmp_path / "model")
