"""What the tests of shared stores do with one, and read from it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import skyhold
from skyhold.consensus.buckets import BucketRegisters
from skyhold.consensus.register import Registers
from skyhold.store import engine_status as voting
from skyhold.store.engine_status import is_caught_up
from tests.cli.models import write_model
from tests.endtoend.killing import Call, Ended, Fuse, in_child, insert_fuse
from tests.endtoend.machines import Scene


def push(store: skyhold.Store, scene: Scene, seed: int, name: str = "team/m") -> str:
    return store.repository(name, create=True).push(write_model(scene.place / f"model-{seed}", seed=seed)).version


def head(store: skyhold.Store, name: str = "team/m") -> str:
    return store.repository(name).show("main").digest


def catch_up(store: skyhold.Store) -> None:
    """Bring every voter that answers up to the last change of every register."""
    store.sync()
    catch_up_voters(store._connection.registers.current)


def catch_up_voters(registers: Registers) -> None:
    """As `catch_up`, in one epoch, which may have ended. What a test takes from a voter that stays one, it may have had
    with one other alone."""
    assert isinstance(registers, BucketRegisters)
    for _ in range(20):
        voting.catch_up(registers)
        if all(is_caught_up(registers.inspect(key)) for key in registers.list()):
            return
        time.sleep(0.1)
    raise AssertionError("a voter stays lagging")


def epoch_of(folder: Path) -> int:
    return int(json.loads((folder / "store.json").read_bytes())["engine"]["term"])


def epoch_in(folder: Path) -> tuple[int, list[str]]:
    engine = json.loads((folder / "store.json").read_bytes())["engine"]
    return engine["term"], [name for name, _ in engine["voters"]]


def move_in_child(scene: Scene, engine: str, kill_at: int | Callable[[Call], bool] | None = None) -> Ended:
    """Let a child of this machine move the registers, and kill it as `Fuse` does. Its result is how many calls to
    buckets it made."""

    def move() -> int:
        fuse = Fuse(kill_at)
        insert_fuse(fuse)
        with skyhold.open(str(scene.cloud("a"))) as store:
            store.move_engine(engine)
        return len(fuse.calls)

    return in_child(move)
