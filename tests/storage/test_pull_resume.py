"""A pull that was killed (SIGKILL) goes on: what it had fetched is not fetched again."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from skyhold.storage.fetch_plan import BATCH_BYTES, LOAD_BYTES
from skyhold.storage.pack import PACK_BYTES_TARGET
from skyhold.storage.pull import BUFFERS, FETCHERS
from tests.endtoend.killing import in_child
from tests.storage.fixtures import FlakyBucket, Setup
from tests.storage.test_push_pull import tree_of, write_tree


def test_what_a_killed_pull_had_fetched_is_not_fetched_again(tmp_path: Path) -> None:
    """The child notes each range in a file as its bytes leave the bucket, and dies in the middle of the pull. Batches
    that were under way may have to come again."""
    data = {"w.bin": os.urandom(6 * PACK_BYTES_TARGET)}
    bucket = FlakyBucket("a")
    setup = Setup(tmp_path / "state", [bucket])
    version, _ = setup.push(write_tree(tmp_path / "in", data))
    ledger = os.open(tmp_path / "ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    count, lock = 0, threading.Lock()

    def noted(body: bytes) -> bytes:
        nonlocal count
        with lock:
            count += len(body)
            if count > 5 * PACK_BYTES_TARGET:
                os.kill(os.getpid(), signal.SIGKILL)
            os.write(ledger, f"{len(body)}\n".encode())
        return body

    def pull() -> None:
        bucket.damage = noted
        Setup(tmp_path / "child", [bucket]).pull(version, tmp_path / "out")

    assert in_child(pull).signal == signal.SIGKILL
    fetched_bytes = sum(map(int, (tmp_path / "ledger").read_text().split()))
    assert not (tmp_path / "out" / "w.bin").exists()
    (folder,) = (tmp_path / "out").iterdir()
    (part,) = (path for path in folder.iterdir() if path.name != "lock")
    kept_bytes = part.stat().st_blocks * 512
    assert kept_bytes > PACK_BYTES_TARGET

    again: list[int] = []
    bucket.damage = lambda body: again.append(len(body)) or body  # type: ignore[func-returns-value]
    pulled = setup.pull(version, tmp_path / "out")
    assert tree_of(tmp_path / "out") == data
    assert pulled.kept_bytes >= kept_bytes * 0.95
    under_way_bytes = (FETCHERS + 1) * LOAD_BYTES + BUFFERS * BATCH_BYTES
    assert sum(again) + fetched_bytes < len(data["w.bin"]) * 1.02 + under_way_bytes
    assert sum(again) < len(data["w.bin"]) * 1.02 - pulled.kept_bytes
    setup.close()
