"""Several processes work with one store at once."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import skyhold
from skyhold.errors import AlreadyExists, Conflict, SkyholdError
from skyhold.registry.history import verify_history
from skyhold.registry.repositories import Repositories
from skyhold.registry.store import Store
from tests.cli.models import contents, write_model
from tests.endtoend.machines import Scene

PROCESSES = 6


def together(actions: list[Callable[[], object]]) -> list[Any]:
    """Run each action in a process of its own, all released at one moment; their results, or the errors they raised."""
    gate_out, gate_in = os.pipe()
    children = []
    for action in actions:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(gate_in)
            os.read(gate_out, 1)  # ends when the parent closes its end
            try:
                outcome: object = action()
            except SkyholdError as error:
                outcome = (type(error).__name__, error.code, error.hint)
            except BaseException as error:  # noqa: BLE001 - reported to the parent, which compares it
                outcome = repr(error)
            os.write(writing, pickle.dumps(outcome))
            os._exit(0)
        os.close(writing)
        children.append((child, reading))
    os.close(gate_out)
    os.close(gate_in)
    results = []
    for child, reading in children:
        with os.fdopen(reading, "rb") as pipe:
            results.append(pickle.loads(pipe.read()))
        assert os.waitpid(child, 0)[1] == 0
    return results


def history_length(store: Store, name: str) -> int:
    """The events of a repository, the whole chain over them checked."""
    connection = store._connection
    with connection.session(store.configuration.policy) as session:
        return verify_history(Repositories(connection.registers, session.blobs).open(name).read())


def test_of_many_pushes_to_one_branch_one_wins_and_the_others_get_a_hint(
    scene: Scene, store: Store, tmp_path: Path
) -> None:
    models = [write_model(tmp_path / f"m{number}", rows=64, seed=number) for number in range(PROCESSES)]
    parent = store.repository("fraud/scorer").log()[0].digest

    def pusher(number: int) -> Callable[[], object]:
        def push() -> str:
            with skyhold.open(scene.clouds()[0]) as own:
                own.repository("fraud/scorer").push(models[number], message=f"{number}", expected_parent=parent)
            return "won"

        return push

    results = together([pusher(number) for number in range(PROCESSES)])
    assert results.count("won") == 1
    for result in results:
        if result != "won":
            kind, code, hint = result
            assert (kind, code) == (Conflict.__name__, "ref_moved")
            assert "skyhold" in hint
    log = store.repository("fraud/scorer").log()
    assert [entry.message for entry in log] == [str(results.index("won")), "One"]
    store.repository("fraud/scorer").pull("main", tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(models[results.index("won")])
    assert history_length(store, "fraud/scorer") == 3
    # The way out: the losers push again, on top of the winner.
    for number in range(PROCESSES):
        if results[number] != "won":
            store.repository("fraud/scorer").push(models[number], message=f"{number}")
    assert len(store.repository("fraud/scorer").log()) == PROCESSES + 1


def test_many_pushes_to_branches_and_repositories_all_arrive(scene: Scene, store: Store, tmp_path: Path) -> None:
    """Half of the processes push to branches of one repository, half to repositories of their own."""
    models = [write_model(tmp_path / f"m{number}", rows=64, seed=number % 2) for number in range(PROCESSES)]
    targets = [("fraud/scorer", f"b{n}") if n % 2 else (f"team/model-{n}", "main") for n in range(PROCESSES)]

    def pusher(number: int) -> Callable[[], object]:
        name, branch = targets[number]

        def push() -> str:
            with skyhold.open(scene.clouds()[0]) as own:
                own.repository(name, create=True).push(models[number], message=f"{number}", branch=branch)
            return "pushed"

        return push

    assert together([pusher(number) for number in range(PROCESSES)]) == ["pushed"] * PROCESSES
    for number, (name, branch) in enumerate(targets):
        store.repository(name).pull(branch, tmp_path / f"pulled{number}")
        assert contents(tmp_path / f"pulled{number}") == contents(models[number])
    assert history_length(store, "fraud/scorer") == 2 + PROCESSES // 2
    assert {info.name for info in store.repositories()} == {name for name, _ in targets}
    report = store.verify(deep=True)
    assert [finding for finding in report.findings if finding.problem == "damaged"] == []
    assert store.sync().sound
    assert store.verify(deep=True).sound


def test_one_repository_is_made_once_by_many_that_push_to_it_first(scene: Scene, store: Store, model: Path) -> None:
    def push(number: int) -> str:
        with skyhold.open(scene.clouds()[0]) as own:
            return own.repository("team/new", create=True).push(model, message=f"{number}", branch=f"b{number}").branch

    results = together([lambda number=number: push(number) for number in range(PROCESSES)])  # type: ignore[misc]
    assert sorted(results) == [f"b{number}" for number in range(PROCESSES)]
    assert len(store.repository("team/new").refs()) == PROCESSES


def test_several_refs_move_as_one(scene: Scene, store: Store, model: Path) -> None:
    """A reader, while two aliases are moved back and forth, sees both at one version."""
    repository = store.repository("fraud/scorer")
    repository.push(model, message="Two")
    repository.set_refs({"alias/champion": "v1", "alias/production": "v1"})
    watched, moving = os.pipe()
    mover = os.fork()
    if mover == 0:
        with skyhold.open(scene.clouds()[0]) as own:
            os.write(moving, b"!")
            for number in range(10_000):
                target = ("main", "v1")[number % 2]
                own.repository("fraud/scorer").set_refs({"alias/champion": target, "alias/production": target})
        os._exit(0)
    try:
        os.read(watched, 1)
        seen = set()
        for _ in range(60):
            refs = {view.name: view.version for view in repository.refs()}
            assert refs["alias/champion"] == refs["alias/production"]
            seen.add(refs["alias/champion"])
        assert len(seen) == 2, "the aliases moved meanwhile"
    finally:
        os.kill(mover, signal.SIGKILL)
        os.waitpid(mover, 0)


def test_refused_change_of_one_ref_moves_none(store: Store, model: Path) -> None:
    repository = store.repository("fraud/scorer")
    repository.push(model, message="Two")
    before = repository.refs()
    with pytest.raises(AlreadyExists) as refused:
        repository.set_refs({"alias/champion": "main", "tag/v1": "main"})
    assert refused.value.code == "tag_exists"
    assert repository.refs() == before
