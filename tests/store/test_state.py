"""This machine's state folder."""

from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from skyhold.buckets.location import parse_location
from skyhold.errors import Corrupt, InvalidInput, PermissionDenied, QuotaExceeded
from skyhold.store.state import RememberedStore, cache_folder, clear_errors, open_state

STORE = "a" * 32


def environ(folder: Path) -> dict[str, str]:
    return {"SKYHOLD_STATE": str(folder)}


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_the_machine_id_is_drawn_once_also_by_many_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: open_state(environ(tmp_path / "s")).machine_id, range(32)))
    assert len(ids) == 1
    assert names(tmp_path / "s") == ["machine"]
    assert open_state(environ(tmp_path / "other")).machine_id not in ids


def test_folders_are_private_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        state = open_state(environ(tmp_path / "s"))
        store = state.store(STORE)
        store.remember(RememberedStore((parse_location("memory://a"),), True, "c" * 16))
    finally:
        os.umask(old)
    for path in (state.folder, store.folder.parent, store.folder):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in (state.folder / "machine", store.folder / "store.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_folder_that_others_can_write_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionDenied) as refused:
        open_state(environ(tmp_path))
    assert refused.value.code == "state_not_private"
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o777
    assert names(tmp_path) == []


def test_stores_are_remembered(tmp_path: Path) -> None:
    state = open_state(environ(tmp_path))
    assert state.stores() == ()
    store = state.store(STORE)
    assert store.recall() is None
    for urls in (("memory://a",), ("memory://b", "s3://c?endpoint=https://minio.lab&region=lab&credentials=env:LAB")):
        met = RememberedStore(tuple(map(parse_location, urls)), False, "c" * 16)
        store.remember(met)
        assert store.recall() == met
    assert state.stores() == (store,)
    assert names(store.folder) == ["store.json"]


def test_damaged_notes_are_corrupt_and_ids_are_no_paths(tmp_path: Path) -> None:
    state = open_state(environ(tmp_path))
    store = state.store(STORE)
    for note in (
        "",
        "[]",
        '{"urls":"ab","sealed":true,"key_check":""}',
        '{"urls":[],"sealed":1,"key_check":""}',
        "{}",
        "nonsense",
        '{"urls":1,"sealed":true,"key_check":""}',
    ):
        (store.folder / "store.json").write_text(note)
        with pytest.raises(Corrupt):
            store.recall()
    for store_id in ("..", "../" + STORE, "A" * 32, ""):
        with pytest.raises(InvalidInput):
            state.store(store_id)
    (tmp_path / "machine").write_text("not an id")
    with pytest.raises(Corrupt) as damaged:
        open_state(environ(tmp_path))
    assert damaged.value.code == "machine_id_damaged"


def test_a_file_in_the_way_and_a_full_disk_are_clear_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InvalidInput) as refused:
            open_state(environ(folder))
        assert refused.value.code == "state_not_a_folder"
    with pytest.raises(QuotaExceeded), clear_errors(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionDenied), clear_errors(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_the_cache_is_where_it_is_set(tmp_path: Path) -> None:
    assert cache_folder({"SKYHOLD_CACHE": str(tmp_path)}) == tmp_path
    assert cache_folder({}).name == "skyhold"
