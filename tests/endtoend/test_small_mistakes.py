"""What a user does in passing: a dry run into nothing, a name that is the same, a store made twice."""

from pathlib import Path

import pytest

import skyhold
from skyhold.errors import AlreadyExists, InvalidInput, PermissionDenied


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> skyhold.Store:
    monkeypatch.setenv("SKYHOLD_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SKYHOLD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(bytes(range(256)) * 64)
    return skyhold.init([str(tmp_path / "a"), str(tmp_path / "b")])


def test_dry_run_into_a_repository_that_does_not_exist_reports_and_creates_nothing(
    store: skyhold.Store, tmp_path: Path
) -> None:
    with store:
        planned = store.repository("team/m", create=True).push(tmp_path / "model", dry_run=True)
        assert planned.stored_bytes > 0
        assert not hasattr(planned, "version")  # it has none before it is made
        assert store.repositories() == []
        assert not list((tmp_path / "a" / "packs").rglob("*")) if (tmp_path / "a" / "packs").exists() else True


def test_rename_to_the_same_name_is_refused(store: skyhold.Store) -> None:
    with store:
        store.create_repository("team/m")
        with pytest.raises(InvalidInput, match="already"):
            store.rename_repository("team/m", "team/m")


def test_a_bucket_of_a_store_is_distinguished_from_one_with_other_objects(store: skyhold.Store, tmp_path: Path) -> None:
    with store:
        store.repository("team/m", create=True).push(tmp_path / "model")
    with pytest.raises(AlreadyExists, match="belongs to another Skyhold store"):
        skyhold.init([str(tmp_path / "a")])


def test_an_empty_url_is_no_bucket(store: skyhold.Store) -> None:
    store.close()
    with pytest.raises(InvalidInput, match="empty"):
        skyhold.init([""])


def test_state_folder_where_nothing_can_be_made_is_named(store: skyhold.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.close()
    monkeypatch.setenv("SKYHOLD_STATE", "/proc/1")
    with pytest.raises(PermissionDenied, match="/proc/1"):
        skyhold.init(["memory://nowhere"])
