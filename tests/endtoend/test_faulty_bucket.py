"""What an attacker who controls one bucket, or the network in front of all of them, does to a reader. (`tests/hostile`
has every fault against every command.)"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

import skyhold
from skyhold.buckets import open as opening
from skyhold.buckets.retry import RetryPolicy
from skyhold.errors import Unavailable
from skyhold.registry.store import Store
from tests.cli.models import write_model
from tests.endtoend.machines import Scene
from tests.faults.faulty_s3 import CREDENTIALS, FaultyS3, faulty_s3
from tests.faults.s3_faults import LISTS, READS, Kind, S3Fault

IMPATIENT = RetryPolicy(
    attempts_max=2, total_s=1.0, first_delay_s=0.02, delay_s_max=0.05, connect_timeout_s=0.5, stall_timeout_s=0.5
)
BOUND_S = 60.0


@pytest.fixture
def server(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with faulty_s3() as server:
        yield server


@pytest.fixture
def store(server: FaultyS3, scene: Scene) -> Iterator[Store]:
    urls = [f"s3://{name}?endpoint={server.url}&credentials=env:FAULTY" for name in ("aaa", "bbb", "ccc")]
    with skyhold.init(urls) as made:
        made.repository("team/m", create=True).push(write_model(scene.place / "one", rows=64), message="One")
    with mock.patch.object(opening, "DEFAULT_POLICY", IMPATIENT), skyhold.open(urls[1]) as opened:
        yield opened


@pytest.mark.parametrize("command", ["log", "pull", "push", "status", "verify"])
@pytest.mark.parametrize("kind", ["sparse", "endless_empty", "drip"])
def test_command_continues_without_a_bucket_with_faulty_replies(
    server: FaultyS3, store: Store, scene: Scene, kind: Kind, command: str
) -> None:
    repository, place = store.repository("team/m"), scene.place
    calls: dict[str, Callable[[], object]] = {
        "log": lambda: list(repository.log()),
        "pull": lambda: repository.pull("main", place / "out"),
        "push": lambda: repository.push(write_model(place / "two", rows=64, seed=7), message="Two"),
        "status": store.status,
        "verify": lambda: store.verify(deep=True),
    }
    server.inject(S3Fault(kind, bucket="aaa", size_bytes=3 << 30, calls=READS | LISTS))
    began_s = time.monotonic()
    calls[command]()
    assert time.monotonic() - began_s < BOUND_S


def test_gets_that_the_network_cuts_short_are_no_damage(store: Store, server: FaultyS3, tmp_path: Path) -> None:
    for cached in Path(os.environ["SKYHOLD_CACHE"]).rglob("*"):
        if cached.is_file():
            cached.unlink()
    server.inject(S3Fault("truncate", key="packs/"))
    with pytest.raises(Unavailable) as caught:
        store.repository("team/m").pull("main", tmp_path / "out")
    assert caught.value.exit_status == 8
    server.inject()
    store.repository("team/m").pull("main", tmp_path / "out")
