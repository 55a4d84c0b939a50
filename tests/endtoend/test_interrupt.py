"""Ctrl-C while buckets stall: the command ends soon, reports that it continues when run again, and it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests import servers
from tests.cli.models import contents
from tests.cli.running import PROGRAM
from tests.endtoend.machines import Scene
from tests.faults.proxy import READS, WRITES, Fault, FaultProxy, fault_proxy

CONTINUES = "running the same command again continues"
WITHOUT_GRACE = (
    sys.executable,
    "-c",
    "import skyhold.cli.interrupt as it; it.GRACE_S = 600.0; from skyhold.cli.main import main; main()",
)
"""`skyhold` with a grace that outlasts the test: it ends by the second Ctrl-C alone."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """24 MiB that neither compress nor repeat: two packs."""
    (tmp_path / "model").mkdir()
    noise = np.random.default_rng(0).integers(0, 2**32, 6 << 20, dtype=np.uint32)
    save_file({"w": noise}, tmp_path / "model" / "model.safetensors")
    return tmp_path / "model"


@pytest.fixture
def proxy(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The way to a real S3 server, for all the commands of the test."""
    server = servers.versitygw().with_bucket("interrupted")
    with fault_proxy(server.port) as made:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.ACCESS_KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.SECRET_KEY)
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        run("init", f"s3://interrupted/{os.urandom(8).hex()}")
        (scene.place / "small").write_bytes(b"small")
        run("push", "fraud/scorer", scene.place / "small")
        yield made


def run(*arguments: object) -> str:
    ended = subprocess.run(
        [*PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=60, env=dict(os.environ), check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def interrupt(*arguments: object, when: Callable[[], bool], times: int = 1, program: Sequence[str] = PROGRAM) -> None:
    """Start a command and send it Ctrl-C once `when` holds. It ends, whatever stalls."""
    process = subprocess.Popen(
        [*program, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=dict(os.environ), start_new_session=True,
    )  # fmt: skip
    try:
        deadline_s = time.monotonic() + 30
        while not when():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        for _ in range(times):
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
        _, output = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, output
    assert output.count(CONTINUES) == 1
    assert "Traceback" not in output


def packs(proxy: FaultProxy, methods: frozenset[str]) -> set[str]:
    """The packs that were asked for, or sent."""
    return {seen.target for seen in list(proxy.seen) if seen.method in methods and "/packs/" in seen.target}


def test_interrupted_push_ends_though_a_server_stalls_and_the_next_one_continues(
    proxy: FaultProxy, model: Path, tmp_path: Path
) -> None:
    proxy.inject(Fault("delay", times=1, methods=WRITES), Fault("stall", methods=WRITES))
    interrupt("push", "fraud/scorer", model, when=lambda: len(packs(proxy, WRITES)) == 2)
    proxy.inject()
    run("push", "fraud/scorer", model)
    assert len(packs(proxy, WRITES)) == 1, "what had arrived was sent again"
    run("pull", "fraud/scorer@main", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(model)


def test_interrupted_pull_ends_though_a_server_stalls_and_the_next_one_continues(
    proxy: FaultProxy, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("push", "fraud/scorer", model)
    monkeypatch.setenv("SKYHOLD_CACHE", str(tmp_path / "empty"))
    proxy.inject(Fault("stall_body", methods=READS, target="/packs/"))
    interrupt("pull", "fraud/scorer@main", tmp_path / "out", when=lambda: bool(packs(proxy, READS)))
    proxy.inject()
    run("pull", "fraud/scorer@main", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(model)


def test_second_interrupt_ends_at_once(proxy: FaultProxy, model: Path) -> None:
    proxy.inject(Fault("stall", methods=WRITES))
    interrupt("push", "fraud/scorer", model, when=lambda: bool(packs(proxy, WRITES)), times=2, program=WITHOUT_GRACE)
