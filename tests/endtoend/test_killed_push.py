"""A push is killed (SIGKILL) at every bucket call, and each bucket is lost in turn, before it or after.

Then another, empty machine that knows one surviving URL recovers the store, or joins it where its registers live in the
buckets: every ref comes back byte for byte, all of them as they were before the push or all as after it. The same push,
run again where it was killed, completes and sends nothing twice that had arrived.

A plain run takes a sample of the points. `SKYHOLD_REQUIRE_ALL=1` takes all, and a larger sample where the registers
live in the buckets, whose calls come in another order each time. `SKYHOLD_SEED` repeats a sample.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from safetensors.numpy import save_file

import skyhold
from skyhold.registry.history import verify_history
from skyhold.registry.repositories import Repositories
from skyhold.registry.store import Store
from skyhold.storage import packer as packing
from skyhold.storage.object_keys import pack_id_of
from skyhold.storage.pack import check_pack
from tests.cli.models import contents, write_model
from tests.endtoend.killing import Call, Fuse, in_child, insert_fuse
from tests.endtoend.machines import CLOUDS, Machine, Scene

EVERY = os.environ.get("SKYHOLD_REQUIRE_ALL") == "1"
SAMPLE = 4
LARGE_SAMPLE = 100
PACK_BYTES = 100 << 10
REPOSITORY = "fraud/scorer"
OLD, NEW = "Old", "New"


@dataclass(frozen=True)
class Loss:
    """A bucket that is lost, before the push begins or after it was killed."""

    bucket: str
    before: bool

    def __str__(self) -> str:
        return f"{self.bucket} lost {'before' if self.before else 'after'}"


LOSSES = [Loss(bucket, before) for before in (False, True) for bucket in CLOUDS]


@dataclass(frozen=True)
class World:
    """A store of three clouds with one version, kept as `ready`; the next version, and the calls of its push."""

    scene: Scene
    models: dict[str, Path]
    shared: bool
    calls: int

    @property
    def pulled(self) -> Path:
        return self.scene.place.with_name("pulled")


@pytest.fixture(scope="module", params=["sqlite", "buckets"])
def world(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> World:
    root = tmp_path_factory.mktemp("killed")
    scene = Scene(root / "scene")
    models = {OLD: write_model(root / OLD, rows=64), NEW: write_model(root / NEW, rows=64, noise=0.001, steps=2)}
    layers = np.random.default_rng(7).normal(size=(3, 64, 256)).astype(np.float32)
    save_file({f"layer.{number}": layer for number, layer in enumerate(layers)}, models[NEW] / "layers.safetensors")
    with scene.machine.at_work(), skyhold.init(scene.clouds(), engine=request.param) as store:
        repository = store.repository(REPOSITORY, create=True)
        repository.push(models[OLD], message=OLD, tags=["v1"], aliases=["champion"])
    scene.keep("ready")
    ended = push_in_child(World(scene, models, request.param == "buckets", calls=0), None)
    assert ended is not None
    assert sum(call.verb == "write" and call.key.startswith("packs/") for call in ended.calls) > len(CLOUDS)
    assert ended.push["delta_bytes"] > 0, "the push has to make a delta"
    assert ended.push["reused_bytes"] > 0, "and reuse a chunk"
    scene.put_back("ready")
    return World(scene, models, request.param == "buckets", calls=len(ended.calls))


@dataclass(frozen=True)
class Pushed:
    """The result of a push that was not killed, and the calls it made."""

    push: dict[str, int]
    calls: list[Call]


def push_in_child(world: World, kill_at: int | None) -> Pushed | None:
    """Push the new version, in packs of a chunk or two, in a process that is killed at a call; None where it was."""

    def push() -> Pushed:
        fuse = Fuse(kill_at)
        insert_fuse(fuse)
        vars(packing)["PACK_BYTES_TARGET"] = PACK_BYTES
        with skyhold.open(world.scene.clouds()[0]) as store:
            result = store.repository(REPOSITORY).push(
                world.models[NEW], message=NEW, tags=["v2"], aliases=["champion"]
            )
        return Pushed({"delta_bytes": result.delta_bytes, "reused_bytes": result.reused_bytes}, fuse.calls)

    with world.scene.machine.at_work():
        ended = in_child(push)
    assert ended.signal in {0, signal.SIGKILL}
    return cast(Pushed | None, ended.result)


def points(world: World) -> list[tuple[int, Loss]]:
    every = [(number, loss) for loss in LOSSES for number in range(1, world.calls + 3)]
    if EVERY and not world.shared:
        return every
    seed = int(os.environ.get("SKYHOLD_SEED") or random.randrange(10**6))
    print(f"SKYHOLD_SEED={seed}")
    return random.Random(seed).sample(every, LARGE_SAMPLE if EVERY else SAMPLE)


@pytest.mark.timeout(900)
def test_push_killed_at_any_bucket_call_leaves_old_or_new_and_completes_when_run_again(world: World) -> None:
    for number, loss in points(world):
        print(f"killed at call {number} of {world.calls}, {loss}")
        world.scene.put_back("ready")
        if loss.before:
            world.scene.lose(loss.bucket)
        acknowledged = push_in_child(world, number) is not None
        if not loss.before:
            world.scene.lose(loss.bucket)
        world.scene.keep("killed")
        survivor = next(str(world.scene.cloud(name)) for name in CLOUDS if name != loss.bucket)
        with Machine(world.scene.place / "other").at_work(), met(survivor, world) as store:
            message = check_refs(store, world)
        assert message == NEW or not acknowledged, "an acknowledged push survives"
        world.scene.put_back("killed")
        check_rerun(world, loss)


def met(survivor: str, world: World) -> Store:
    """The store, opened by a machine that never saw it."""
    if world.shared:
        return skyhold.connect(survivor)
    store, report = skyhold.recover(survivor)
    assert report.majority
    return store


def check_refs(store: Store, world: World) -> str:
    """Every ref pulls byte for byte, and all are consistent; returns the message of the version that they point to."""
    repository = store.repository(REPOSITORY)
    refs = {view.name: view.message for view in repository.refs()}
    message = refs["branch/main"]
    expected = {"alias/champion": message, "branch/main": message, "tag/v1": OLD}
    assert refs == expected | ({"tag/v2": NEW} if message == NEW else {})
    for name, pushed in refs.items():
        shutil.rmtree(world.pulled, ignore_errors=True)
        repository.pull(name.partition("/")[2], world.pulled)
        assert contents(world.pulled) == contents(world.models[pushed])
    check_history(store)
    return message


def check_history(store: Store) -> None:
    connection = store._connection
    with connection.session(store.configuration.policy) as session:
        assert verify_history(Repositories(connection.registers, session.blobs).open(REPOSITORY).read()) > 0


def check_rerun(world: World, loss: Loss) -> None:
    """The push completes on the machine where it was killed, and what the surviving buckets hold is not sent again."""
    arrived = {name: packs_of(world, name) for name in CLOUDS if name != loss.bucket}
    rerun = push_in_child(world, None)
    assert rerun is not None
    chunks = {chunk for packs in arrived.values() for held in packs.values() for chunk in held}
    for call in rerun.calls:
        if call.verb == "write" and pack_id_of(call.key) is not None and call.bucket != loss.bucket:
            assert call.key not in arrived[call.bucket], f"{call} sent what was there"
            if not any(call.key in packs for packs in arrived.values()):
                assert chunks.isdisjoint(packs_of(world, call.bucket)[call.key]), f"{call} sent chunks again"
    with world.scene.machine.at_work(), skyhold.open(world.scene.clouds()[0]) as store:
        assert check_refs(store, world) == NEW
        left = store.verify(deep=True).findings  # a segment that the killed push had not brought to every bucket
        assert {(finding.problem, finding.key.split("/")[0]) for finding in left} <= {("missing", "indexes")}
        world.scene.empty(loss.bucket)
        assert store.repair().sound
        assert store.verify(deep=True).sound


def packs_of(world: World, name: str) -> dict[str, set[bytes]]:
    """The ids of the chunks in each pack that a cloud holds."""
    with world.scene.machine.at_work(), skyhold.open(world.scene.clouds()[0]) as store:
        connection = store._connection
        found = {}
        for info in connection.bucket(name).list("packs/"):
            pack_id = pack_id_of(info.key)
            assert pack_id is not None
            body = connection.bucket(name).read(info.key)
            found[info.key] = {
                place.chunk_id for place, _ in check_pack(body, pack_id, bytes.fromhex(store.id), connection.keys)
            }
        return found
