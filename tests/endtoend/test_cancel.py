"""Long operations that are ended before they are done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import skyhold
from skyhold.errors import Cancelled
from tests.cli.models import contents, write_model
from tests.endtoend.machines import Scene


class CancelsAt:
    """Progress that cancels its own operation once so many reports have come."""

    def __init__(self, reports: int) -> None:
        self.cancel = skyhold.Cancel()
        self._left = reports
        self._lock = threading.Lock()

    def begin(self, phase: str, total_bytes: int | None) -> None:
        self._count()

    def advance(self, done_bytes: int, *, stored_bytes: int = 0) -> None:
        self._count()

    def note(self, message: str) -> None:
        pass

    def end(self) -> None:
        pass

    def _count(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self.cancel.cancel()


@pytest.mark.parametrize("reports", [1, 2])
def test_push_that_is_cancelled_moves_nothing_and_goes_on_when_it_is_run_again(
    store: skyhold.Store, tmp_path: Path, reports: int
) -> None:
    repository = store.repository("fraud/scorer")
    before = [entry.digest for entry in repository.log()]
    model, watching = write_model(tmp_path / "second", seed=2), CancelsAt(reports)
    with pytest.raises(Cancelled) as caught:
        repository.push(model, message="Two", progress=watching, cancel=watching.cancel)
    assert caught.value.code == "cancelled"
    assert [entry.digest for entry in repository.log()] == before
    pushed = repository.push(model, message="Two")
    assert [entry.digest for entry in repository.log()] == [pushed.version, *before]


def test_pull_that_is_cancelled_leaves_no_file_that_is_not_whole(
    store: skyhold.Store, scene: Scene, model: Path
) -> None:
    watching, target = CancelsAt(2), scene.place / "pulled"
    with pytest.raises(Cancelled):
        store.repository("fraud/scorer").pull("main", target, progress=watching, cancel=watching.cancel)
    whole = contents(model)
    assert all(whole[name] == body for name, body in contents(target).items() if not name.endswith(".part"))
    store.repository("fraud/scorer").pull("main", target)
    assert contents(target) == whole


@pytest.mark.parametrize("verb", ["verify", "sync", "repair"])
def test_upkeep_is_cancelled(store: skyhold.Store, verb: str) -> None:
    watching = CancelsAt(1)
    run: Callable[..., object] = getattr(store, verb)
    options = {"deep": True} if verb == "verify" else {}
    with pytest.raises(Cancelled):
        run(progress=watching, cancel=watching.cancel, **options)
    run(**options)


def test_operation_whose_deadline_has_passed_does_not_begin(store: skyhold.Store, scene: Scene) -> None:
    over = skyhold.Cancel(timeout_s=0)
    for run in (
        lambda: store.repository("fraud/scorer").pull("main", scene.place / "out", cancel=over),
        lambda: store.verify(cancel=over),
        lambda: store.sync(cancel=over),
    ):
        with pytest.raises(Cancelled) as caught:
            run()
        assert caught.value.code == "deadline_passed"
    assert not (scene.place / "out").exists()


def test_token_that_is_not_cancelled_changes_nothing(store: skyhold.Store, scene: Scene, model: Path) -> None:
    store.repository("fraud/scorer").pull("main", scene.place / "out", cancel=skyhold.Cancel(timeout_s=300))
    assert contents(scene.place / "out") == contents(model)
