"""A policy that is changed while a push is under way: the push follows it, or moves no ref."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import skyhold
from skyhold.buckets.memory import MemoryBucket
from skyhold.errors import Conflict, QuotaExceeded, SkyholdError
from skyhold.registry import committing
from skyhold.registry.repository import Repository
from skyhold.storage.policy import Policy
from skyhold.store.connection import Connection
from skyhold.store.settings import load_settings


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[skyhold.Store]:
    monkeypatch.setenv("SKYHOLD_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SKYHOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SKYHOLD_KEY_FILE", raising=False)
    monkeypatch.delenv("SKYHOLD_PASSPHRASE", raising=False)
    urls = [f"memory://{tmp_path.name}-{region}?region={region}" for region in ("eu-1", "eu-2", "us-1")]
    with skyhold.init(urls, settings=load_settings()) as opened:
        yield opened


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "weights.bin").write_bytes(b"weights" * 1000)
    return path


def during_commits(monkeypatch: pytest.MonkeyPatch, *changes: Callable[[], None]) -> None:
    """Each change happens after the packs of one attempt to commit are durable, and before the ref moves."""
    waiting = list(changes)
    write_segments = committing.write_segments

    def wrapped(*arguments: object) -> None:
        write_segments(*arguments)  # type: ignore[arg-type]
        if waiting:
            waiting.pop(0)()

    monkeypatch.setattr(committing, "write_segments", wrapped)


def packs(store: skyhold.Store) -> dict[str, int]:
    """How many packs each bucket holds."""
    return {name: len(list(store._connection.bucket(name).list("packs/"))) for name in store.bucket_names}


def refuse_packs(monkeypatch: pytest.MonkeyPatch, *regions: str) -> Callable[[], None]:
    """Buckets that take no packs, until the function that is returned is called."""
    write = MemoryBucket.write

    def refusing(bucket: MemoryBucket, key: str, body: bytes, **_options: object) -> None:
        if key.startswith("packs/") and bucket.name.endswith(regions):
            raise QuotaExceeded("the bucket is full", code="no_space", bucket=bucket.name)
        write(bucket, key, body)

    monkeypatch.setattr(MemoryBucket, "write", refusing)
    return lambda: monkeypatch.setattr(MemoryBucket, "write", write)


def test_a_stricter_policy_is_met_before_the_ref_moves(
    store: skyhold.Store, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = store.create_repository("team/model", policy=Policy(copies=1))
    healthy_again = refuse_packs(monkeypatch, "us-1")

    def stricter() -> None:
        healthy_again()
        repository.set_policy(Policy(copies=3))

    during_commits(monkeypatch, stricter)
    pushed = repository.push(model)
    assert set(packs(store).values()) == {1}
    status = next(item for item in store.status().repositories if item.name == "team/model")
    assert status.durable
    assert repository.show().digest == pushed.version
    lacking = {finding.key.split("/", 1)[0] for finding in store.verify(deep=True).findings}
    assert lacking == {"indexes"}, "only the segment that was written before"


def test_a_stricter_policy_that_cannot_be_met_moves_no_ref(
    store: skyhold.Store, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = store.create_repository("team/model", policy=Policy(copies=1))
    healthy_again = refuse_packs(monkeypatch, "us-1")
    during_commits(monkeypatch, lambda: repository.set_policy(Policy(copies=3)))
    with pytest.raises(SkyholdError) as caught:
        repository.push(model)
    assert caught.value.code == "not_durable"
    assert repository.refs() == []
    healthy_again()
    pushed = repository.push(model)
    assert pushed.stored_bytes == 0, "what was sent is found again"


def test_other_regions_let_the_push_begin_again_in_their_class(
    store: skyhold.Store, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = store.create_repository("team/model", policy=Policy(copies=1))
    during_commits(monkeypatch, lambda: repository.set_policy(Policy(copies=1, regions=("eu-*",))))
    repository.push(model)
    held = packs(store)
    assert [held[name] for name in sorted(held)] == [2, 2, 1], "the pack of the new class went to Europe only"
    assert store.verify(deep=True).sound


def test_a_policy_that_changes_all_the_time_is_reported(
    store: skyhold.Store, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = store.create_repository("team/model")
    policies = [Policy(delta=delta) for delta in ("off", "egress", "storage")] * 4
    during_commits(monkeypatch, *((lambda policy=policy: repository.set_policy(policy)) for policy in policies))
    with pytest.raises(Conflict) as caught:
        repository.push(model)
    assert caught.value.code == "policy_changed"
    assert repository.refs() == []


def test_a_push_opens_one_session(store: skyhold.Store, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has threads of its own."""
    repository: Repository = store.create_repository("team/model")
    opened: list[Policy] = []
    session = Connection.session

    def counted(connection: Connection, policy: Policy) -> object:
        opened.append(policy)
        return session(connection, policy)

    monkeypatch.setattr(Connection, "session", counted)
    repository.push(model)
    assert len(opened) == 1


def test_a_bucket_that_lacks_reused_packs_is_reported_and_left_to_sync(
    store: skyhold.Store, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = store.create_repository("team/model")
    healthy_again = refuse_packs(monkeypatch, "us-1")
    (lagging,) = repository.push(model).lagging
    healthy_again()
    (model / "more.txt").write_bytes(b"one more")
    second = repository.push(model)
    assert list(second.lagging) == [lagging]
    assert "lacks 1 of the reused packs" in second.lagging[lagging]
    assert packs(store)[lagging] == 1, "what is new went there; what is reused waits for a sync"
    assert store.sync().sound
    (model / "more.txt").write_bytes(b"and more")
    assert repository.push(model).lagging == {}
