"""A store that one process keeps open for weeks."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from weakref import ReferenceType

import pytest

import skyhold

OPERATIONS = int(os.environ.get("SKYHOLD_LONG_OPERATIONS", "1400"))
"""100,000 take some twenty minutes: `SKYHOLD_LONG_OPERATIONS=100000 pytest tests/endtoend/test_long_life.py`"""
TIMES = 20
WARM = 900
"""Operations after which caches hold what they hold of so small a store, and registers as many changes as they keep."""


@pytest.mark.timeout(60 + OPERATIONS // 10)
def test_connection_that_stays_open_grows_in_no_memory_threads_or_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYHOLD_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SKYHOLD_CACHE", str(tmp_path / "cache"))
    model = tmp_path / "model"
    model.mkdir()
    with skyhold.init([str(tmp_path / name) for name in "abc"]) as store:
        repository = store.create_repository("team/m")
        versions = []
        for number in range(3):
            (model / "weights.bin").write_bytes(bytes([number]) * 5000)
            versions.append(repository.push(model, message=str(number)).version)
        middle = (WARM + OPERATIONS) // 2
        held: list[tuple[Counter[type], int, int]] = []
        for number in range(OPERATIONS):
            _operate(store, repository, versions, number)
            if number in {WARM, middle}:
                held.append(_held())
        ends_s = time.monotonic() + 60
        held.append(_held())
        while (held[-1][1] > held[0][1] or held[-1][2] > held[0][2]) and time.monotonic() < ends_s:
            time.sleep(0.1)  # a thread still waits for the third voter
            held[-1] = _held()
        # What grows does so in both halves; an error that is kept, with its frames, until the next one, does not.
        halves = [later[0] - earlier[0] for earlier, later in pairwise(held)]
        assert not {name for name in halves[0] if min(half[name] for half in halves) > (middle - WARM) // 20}
        assert held[-1][1] <= held[0][1]
        assert held[-1][2] <= held[0][2]


@pytest.mark.slow
def test_store_that_is_opened_and_closed_again_and_again_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resident memory grows a while all the same: `docs/decisions/005-threads.md`."""
    monkeypatch.setenv("SKYHOLD_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SKYHOLD_CACHE", str(tmp_path / "cache"))
    clouds, model = [str(tmp_path / name) for name in "abc"], tmp_path / "model"
    model.mkdir()
    skyhold.init(clouds).close()

    def push(number: int) -> None:
        (model / "weights.bin").write_bytes(bytes([number]) * 5000)
        with skyhold.open(clouds[0]) as store:
            store.repository("team/m", create=True).push(model, message=str(number))

    for number in range(5):
        push(number)
    objects, threads, descriptors = _held()
    for number in range(5, 5 + TIMES):
        push(number)
    objects_after, threads_after, descriptors_after = _held()
    assert not {name: count for name, count in (objects_after - objects).items() if count >= TIMES}
    assert threads_after <= threads
    assert descriptors_after <= descriptors


def _operate(store: skyhold.Store, repository: skyhold.Repository, versions: list[str], number: int) -> None:
    match number % 6:
        case 0:
            repository.set_refs({"alias/champion": versions[number // 6 % 3]})
        case 1:
            repository.log(limit=3)
        case 2:
            repository.refs()
        case 3:
            repository.show(versions[number % 3])
        case 4:
            store.repositories()
        case 5:
            repository.history("champion", limit=3)


def _held() -> tuple[Counter[type], int, int]:
    """Objects by type, threads and descriptors of this process."""
    gc.collect()
    objects = Counter(type(item) for item in gc.get_objects())
    del objects[ReferenceType]  # of those to cursors `sqlite3` keeps up to 200 in each connection that are dead
    return objects, threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
