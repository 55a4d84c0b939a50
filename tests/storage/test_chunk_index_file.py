"""The file of the chunk index, closed while other threads use it: the thread of a push that still waits for a slow
bucket when the store is closed."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from skyhold.errors import Unavailable
from skyhold.storage.chunk_index_file import ChunkIndexFile

SCHEMA = "CREATE TABLE IF NOT EXISTS numbers (number INTEGER)"
CLOSED_UNDER_THREADS = f"""
import sys, threading
from pathlib import Path
from skyhold.errors import SkyholdError
from skyhold.storage.chunk_index_file import ChunkIndexFile

def use(file, started):
    try:
        while True:
            file.execute("SELECT count(*), sum(number) FROM numbers, (SELECT 1 UNION SELECT 2)", ())
            started.set()
    except SkyholdError as error:
        if error.code != "chunk_index_closed":
            print(error)

for _ in range(50):
    file, started = ChunkIndexFile(Path(sys.argv[1]), {SCHEMA!r}), threading.Event()
    with file.transaction() as database:
        database.executemany("INSERT INTO numbers VALUES (?)", [(number,) for number in range(100)])
    threads = [threading.Thread(target=use, args=(file, started)) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait(10)
    file.close()
    for thread in threads:
        thread.join()
"""


def test_close_waits_for_the_thread_that_uses_the_file_and_others_meet_an_error(tmp_path: Path) -> None:
    file = ChunkIndexFile(tmp_path, SCHEMA)
    began, go_on = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def use() -> None:
        try:
            with file.transaction() as database:
                began.set()
                go_on.wait(10)
                database.execute("INSERT INTO numbers VALUES (7)")
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)

    user, closer = threading.Thread(target=use), threading.Thread(target=file.close)
    user.start()
    assert began.wait(10)
    closer.start()
    closer.join(0.2)
    assert closer.is_alive(), "it was closed under the thread that uses it"
    go_on.set()
    user.join(10)
    closer.join(10)
    assert not failures
    with pytest.raises(Unavailable, match="was closed"):
        file.execute("SELECT 1", ())
    again = ChunkIndexFile(tmp_path, SCHEMA)
    assert again.execute("SELECT number FROM numbers", ()) == [(7,)]
    again.close()


def test_a_process_that_closes_the_file_under_its_threads_does_not_crash(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "faulthandler", "-c", CLOSED_UNDER_THREADS, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
