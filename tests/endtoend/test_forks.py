"""A store in a forked child: refused there, and the parent goes on (docs/decisions/031-fork.md)."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import skyhold
from skyhold.errors import InvalidInput
from skyhold.registry.store import Store
from tests.cli.models import contents, write_model
from tests.endtoend.killing import in_child
from tests.endtoend.machines import Scene


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture(params=["buckets", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path, model: Path) -> Iterator[Store]:
    """A store in which everything is open: registers, chunk index, cache, sightings, buckets."""
    scene = Scene(tmp_path / "scene")
    with scene.machine.at_work(), skyhold.init(scene.clouds(), engine=request.param) as opened:
        repository = opened.repository("team/model", create=True)
        repository.push(model, message="One")
        repository.pull("main", tmp_path / "before")
        yield opened


def code_of(use: Callable[[], object]) -> str:
    try:
        use()
    except InvalidInput as error:
        return error.code
    return ""


def check_parent(store: Store, model: Path, folder: Path) -> None:
    repository = store.repository("team/model")
    repository.push(model, message="In the parent")
    repository.pull("main", folder / "after")
    assert contents(folder / "after") == contents(model)
    assert [entry.message for entry in repository.log()] == ["In the parent", "One"]
    assert store.verify(deep=True).sound


def test_every_use_of_a_store_in_a_forked_child_is_refused(store: Store, model: Path, tmp_path: Path) -> None:
    repository = store.repository("team/model")
    uses: list[Callable[[], object]] = [
        lambda: store.repository("team/model"),
        store.repository_names,
        store.repositories,
        store.status,
        store.verify,
        lambda: store.check_bucket(store.bucket_names[0]),
        lambda: list(store.events()),
        lambda: next(iter(store.watch())),
        repository.log,
        repository.refs,
        lambda: repository.push(model, message="In the child"),
        lambda: repository.pull("main", tmp_path / "child"),
    ]
    ended = in_child(lambda: [code_of(use) for use in uses])
    assert ended.result == ["store_forked"] * len(uses)
    assert not (tmp_path / "child").exists()
    check_parent(store, model, tmp_path)


def test_refusal_has_a_hint_what_to_do_instead(store: Store) -> None:
    def use() -> tuple[str, str | None]:
        with pytest.raises(InvalidInput) as caught:
            store.repository_names()
        return caught.value.message, caught.value.hint

    message, hint = in_child(use).result
    assert f"process {os.getpid()}" in message
    assert hint == "Open it in the child, or start workers by `spawn` or `forkserver`"


def test_child_that_closes_what_it_inherited_does_its_parent_no_harm(store: Store, model: Path, tmp_path: Path) -> None:
    in_child(store.close)
    check_parent(store, model, tmp_path)


def test_child_that_drops_what_it_inherited_does_its_parent_no_harm(store: Store, model: Path, tmp_path: Path) -> None:
    def drop() -> None:
        vars(store._connection).clear()
        gc.collect()

    in_child(drop)
    check_parent(store, model, tmp_path)


def test_child_opens_the_store_for_itself(store: Store, model: Path, tmp_path: Path) -> None:
    url = store.configuration.locations[0].url

    def open_and_pull() -> None:
        with skyhold.open(url) as own:
            own.repository("team/model").pull("main", tmp_path / "child")

    in_child(open_and_pull)
    assert contents(tmp_path / "child") == contents(model)
    check_parent(store, model, tmp_path)


def test_child_is_refused_at_once_where_another_thread_of_its_parent_was_at_work(store: Store) -> None:
    locked, done = threading.Event(), threading.Event()

    def work() -> None:
        with store._connection._lock:
            locked.set()
            done.wait(20)

    working = threading.Thread(target=work)
    working.start()
    locked.wait(20)
    try:
        assert in_child(lambda: [code_of(store.repository_names), store.close()]).result == ["store_forked", None]
    finally:
        done.set()
        working.join()
