"""One of three buckets lies about sizes, listings or time: every command goes on with the other two."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import skyhold
from skyhold.registry.store import Store
from tests.cli.models import write_model
from tests.endtoend.machines import Scene
from tests.faults.lies import LISTS, READS, Kind, Lie
from tests.faults.lying_s3 import CREDENTIALS, LyingS3, lying_s3

BOUND_S = 100.0
MEMORY_BYTES_MAX = 400 << 20


@pytest.fixture
def server(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[LyingS3]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with lying_s3() as server:
        yield server


@pytest.fixture
def store(server: LyingS3, scene: Scene) -> Iterator[Store]:
    urls = [f"s3://{name}?endpoint={server.url}&credentials=env:LYING" for name in ("aaa", "bbb", "ccc")]
    with skyhold.init(urls) as made:
        made.repository("team/m", create=True).push(write_model(scene.place / "one", rows=64), message="One")
        yield made


def commands(store: Store, place: Path) -> dict[str, Callable[[], object]]:
    def pull() -> None:
        store.repository("team/m").pull("main", place / "out")
        assert (place / "out").is_dir()

    return {
        "log": lambda: list(store.repository("team/m").log()),
        "list": store.repositories,
        "pull": pull,
        "push": lambda: store.repository("team/m").push(write_model(place / "two", rows=64, seed=7), message="Two"),
        "status": store.status,
        "verify": lambda: store.verify(deep=True),
    }


@pytest.mark.parametrize("command", ["log", "list", "pull", "push", "status", "verify"])
@pytest.mark.parametrize("kind", ["oversize", "sparse", "endless", "endless_empty", "repeating", "drip", "truncate"])
def test_command_goes_on_without_a_bucket_that_lies(
    server: LyingS3, store: Store, scene: Scene, kind: Kind, command: str
) -> None:
    call = commands(store, scene.place)[command]
    server.inject(Lie(kind, bucket="aaa", size_bytes=3 << 30, calls=READS | LISTS))
    began_s, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    print(kind, command, round(time.monotonic() - began_s, 1))
    assert time.monotonic() - began_s < BOUND_S
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < MEMORY_BYTES_MAX
