from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import skyhold
from skyhold.registry.store import Store
from tests.cli.models import write_model
from tests.endtoend.machines import Machine, Scene


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Three empty folders for clouds, and a machine at work without any state."""
    made = Scene(tmp_path / "scene")
    made.place.mkdir()
    with made.machine.at_work():
        yield made


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", rows=64)


@pytest.fixture
def machine_store(scene: Scene, model: Path) -> Iterator[Store]:
    """As `store`, with its registers on the machine at work."""
    with skyhold.init(scene.clouds(), engine="sqlite") as made:
        made.repository("fraud/scorer", create=True).push(model, message="One", aliases=["champion"], tags=["v1"])
        yield made


@pytest.fixture
def store(scene: Scene, model: Path) -> Iterator[Store]:
    """A store of three clouds; `fraud/scorer` has one version, to which `main`, `champion` and `v1` point."""
    with skyhold.init(scene.clouds()) as made:
        made.repository("fraud/scorer", create=True).push(model, message="One", aliases=["champion"], tags=["v1"])
        yield made


@pytest.fixture
def ada(scene: Scene) -> Iterator[Machine]:
    machine = Machine(scene.place / "ada")
    with machine.at_work():
        skyhold.init(scene.clouds()).close()
        yield machine


@pytest.fixture
def ben(scene: Scene, ada: Machine) -> Machine:
    machine = Machine(scene.place / "ben")
    with machine.at_work():
        skyhold.connect(str(scene.cloud("c"))).close()
    return machine
