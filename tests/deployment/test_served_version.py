"""A reference of a store is served: pulled, verified, loaded, and swapped when it moves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import skyhold
from skyhold.deployment.served_version import Swapped, Wanted, follow, last_event, update
from skyhold.errors import SkyholdError
from skyhold.serving.metrics import ServerMetrics
from skyhold.serving.models import Models
from skyhold.serving.runtimes.runtime import Permissions
from tests.serving.iris import write_classifier

CHAMPION = "champion"


@pytest.fixture
def clouds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setenv("SKYHOLD_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SKYHOLD_CACHE", str(tmp_path / "cache"))
    return [tmp_path / name for name in "abc"]


@pytest.fixture
def repository(clouds: list[Path], tmp_path: Path) -> Iterator[skyhold.Repository]:
    """`lab/iris` with one version, to which `champion` points."""
    with skyhold.init([str(cloud) for cloud in clouds]) as store:
        made = store.create_repository("lab/iris")
        made.push(write_classifier(tmp_path / "model"), message="One", aliases=[CHAMPION])
        yield made


@pytest.fixture
def models() -> Iterator[Models]:
    made = Models(ServerMetrics())
    yield made
    made.close()


def wanted(repository: skyhold.Repository, folder: Path, reference: str = CHAMPION) -> Wanted:
    return Wanted(repository, reference, "iris", folder / "serving", Permissions())


def push(repository: skyhold.Repository, folder: Path, strength: float) -> str:
    return repository.push(write_classifier(folder, strength), message=str(strength), aliases=[CHAMPION]).id


def answer(models: Models) -> np.ndarray:
    future = models.find("iris").model.submit({"input": np.array([[5.0, 3, 4, 2]])}, None, timeout_s=30)
    return future.result(30)["predict"]


class Follower:
    """`follow` in a thread, and what it reported."""

    def __init__(self, wanted: Wanted, models: Models) -> None:
        self.swapped: list[Swapped] = []
        self.failed: list[SkyholdError] = []
        self._came = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=follow,
            args=(wanted, models, last_event(wanted.repository), self._stop),
            kwargs={"swapped": self._note(self.swapped), "failed": self._note(self.failed), "retry_s": 0.2},
        )
        self._thread.start()

    def _note(self, noted: list) -> object:  # type: ignore[type-arg]
        def note(what: object) -> None:
            with self._came:
                noted.append(what)
                self._came.notify_all()

        return note

    def wait(self, noted: list, count: int = 1) -> None:  # type: ignore[type-arg]
        with self._came:
            assert self._came.wait_for(lambda: len(noted) >= count, 60)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(60)


@pytest.fixture
def follower(repository: skyhold.Repository, models: Models, tmp_path: Path) -> Iterator[Follower]:
    update(wanted(repository, tmp_path), models)
    made = Follower(wanted(repository, tmp_path), models)
    yield made
    made.close()


def test_version_of_a_reference_answers(repository: skyhold.Repository, models: Models, tmp_path: Path) -> None:
    done = update(wanted(repository, tmp_path), models)
    assert done is not None
    assert (done.version, done.was_warm, done.runtime) == (repository.show(CHAMPION).id, False, "sklearn")
    assert answer(models).tolist() == [1]
    assert update(wanted(repository, tmp_path), models) is None


def test_moved_alias_swaps_and_a_rollback_swaps_back_from_the_warm_version(
    repository: skyhold.Repository, models: Models, follower: Follower, tmp_path: Path
) -> None:
    first = repository.show(CHAMPION).id
    second = push(repository, tmp_path / "model", 0.01)
    follower.wait(follower.swapped)
    assert models.answering("iris") == second
    repository.rollback(f"alias/{CHAMPION}")
    follower.wait(follower.swapped, 2)
    assert models.answering("iris") == first
    assert [done.was_warm for done in follower.swapped] == [False, True]
    assert follower.failed == []


def test_version_that_cannot_be_loaded_never_replaces_the_one_that_answers(
    repository: skyhold.Repository, models: Models, follower: Follower, tmp_path: Path
) -> None:
    first = models.answering("iris")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.onnx").write_bytes(b"no model")
    repository.push(tmp_path / "broken", message="Broken", aliases=[CHAMPION])
    follower.wait(follower.failed)
    assert follower.failed[0].code == "load_failed"
    assert models.answering("iris") == first
    assert answer(models).tolist() == [1]
    mended = push(repository, tmp_path / "model", 0.5)
    follower.wait(follower.swapped)
    assert models.answering("iris") == mended


def test_requests_under_way_are_answered_through_every_swap(
    repository: skyhold.Repository, models: Models, tmp_path: Path
) -> None:
    want = wanted(repository, tmp_path)
    update(want, models)
    versions = [repository.show(CHAMPION).id, *(push(repository, tmp_path / "model", 0.1 * n) for n in (1, 2, 3))]
    swaps, answered, ended = 12, [], threading.Event()

    def ask() -> None:
        while not ended.is_set():
            answered.append(answer(models).tolist())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(swaps):
        repository.set_refs({f"alias/{CHAMPION}": versions[number % len(versions)]})
        update(want, models)
    ended.set()
    for thread in threads:
        thread.join()
    assert answered
    assert all(shape == [1] for shape in answered)


def test_damaged_file_of_the_cache_is_fetched_again_before_it_is_loaded(
    repository: skyhold.Repository, tmp_path: Path
) -> None:
    for damage in (False, True):
        made = Models(ServerMetrics())
        done = update(wanted(repository, tmp_path), made)
        assert done is not None
        path = tmp_path / "serving" / done.digest / "model.skops"
        if not damage:
            path.write_bytes(bytes(path.stat().st_size))
        made.close()
    assert done.fetched_bytes > 0


def test_version_named_by_its_id_is_served_from_the_cache_while_every_cloud_is_away(
    repository: skyhold.Repository, clouds: list[Path], models: Models, tmp_path: Path
) -> None:
    version = repository.show(CHAMPION).id
    update(wanted(repository, tmp_path), Models(ServerMetrics()))
    for cloud in clouds:
        cloud.rename(cloud.with_name(f"{cloud.name}-away"))
    with pytest.raises(SkyholdError), skyhold.open(str(clouds[0])) as store:
        update(wanted(store.repository("lab/iris"), tmp_path), models)
    with skyhold.open(str(clouds[0]), offline=True) as store:
        done = update(wanted(store.repository("lab/iris"), tmp_path, version), models)
    assert done is not None
    assert done.version == version
    assert answer(models).tolist() == [1]
