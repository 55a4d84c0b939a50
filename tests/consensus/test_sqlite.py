from __future__ import annotations

import gc
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyhold.consensus.register import CHANGES_KEPT, Registers, Versioned
from skyhold.consensus.sqlite import SqliteRegisters
from skyhold.errors import Conflict, Corrupt, InvalidInput, PermissionDenied, QuotaExceeded, Unavailable
from tests.consensus.conformance import KEY, RegistersConformance

INCREMENT = """
import sys
from pathlib import Path
from skyhold.consensus.sqlite import SqliteRegisters
from skyhold.errors import Conflict

path, racer, increments = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
registers = SqliteRegisters(path)
for increment in range(increments):
    while True:
        current = registers.read("names")
        version, count = (current.version, int(current.data)) if current else (0, 0)
        try:
            registers.compare_and_set("names", version, b"%d" % (count + 1), f"{racer}-{increment}")
            break
        except Conflict:
            pass
"""


class TestSqliteRegisters(RegistersConformance):
    @pytest.fixture
    def registers(self, tmp_path: Path) -> Iterator[Registers]:  # type: ignore[override]
        registers = SqliteRegisters(tmp_path / "state" / "registers.sqlite")
        yield registers
        registers.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registers.sqlite"


def test_processes_that_race_lose_no_update(path: Path) -> None:
    """Also the creation of the file is raced for."""
    processes = [
        subprocess.Popen([sys.executable, "-c", INCREMENT, str(path), f"racer-{racer}", "25"]) for racer in range(4)
    ]
    assert [process.wait(120) for process in processes] == [0] * 4
    assert SqliteRegisters(path).read("names") == Versioned(100, b"100")


def test_watch_misses_no_change_that_comes_between_two_of_its_statements(path: Path) -> None:
    """The torture found a watcher that got a resync although every change was kept."""
    registers, others = SqliteRegisters(path), SqliteRegisters(path)
    others.compare_and_set(KEY, 0, b"1", "1")
    statements = 0

    def count(statement: str) -> None:
        nonlocal statements
        statements += 1
        if statements == 2:
            others.compare_and_set(KEY, 1, b"2", "2")

    registers.read(KEY)
    with registers._connection.opened() as connection:
        connection.set_trace_callback(count)
    assert [registers.watch(KEY, 1, timeout_s=0) for _ in range(2)] == [[], [Versioned(2, b"2")]]


def test_repeated_operation_is_recognised_by_another_opener(path: Path) -> None:
    first = SqliteRegisters(path)
    first.compare_and_set(KEY, 0, b"one", "a")
    first.close()
    assert SqliteRegisters(path).compare_and_set(KEY, 0, b"one", "a") == Versioned(1, b"one")


def test_acknowledged_change_survives_the_kill_of_its_process(path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from skyhold.consensus.sqlite import SqliteRegisters\n"
        "SqliteRegisters(Path(sys.argv[1])).compare_and_set('names', 0, b'one', 'a'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)], timeout=60, check=False).returncode == -9
    assert SqliteRegisters(path).read("names") == Versioned(1, b"one")


CHANGE = (
    "import os, sys; from pathlib import Path; from skyhold.consensus.sqlite import SqliteRegisters\n"
    "registers = SqliteRegisters(Path(sys.argv[1]))\n"
    "for version in range(1, 50): registers.compare_and_set('names', version, b'x' * 1000, f'other-{version}')\n"
    "os.kill(os.getpid(), 9)"
)


def test_child_that_drops_what_it_inherited_loses_no_change_of_another_process(path: Path) -> None:
    """SQLite's own connection does: closed in the child, it takes the log of the others for its own, which is over."""
    registers = SqliteRegisters(path)
    registers.compare_and_set("names", 0, b"one", "parent")
    waiting, going = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(waiting, 1)
        registers._connection.close()
        del registers
        gc.collect()
        os._exit(0)
    registers.close()
    assert subprocess.run([sys.executable, "-c", CHANGE, str(path)], timeout=60, check=False).returncode == -9
    os.write(going, b"!")
    assert os.waitpid(child, 0)[1] == 0
    held = SqliteRegisters(path).read("names")
    assert held is not None
    assert held.version == 50


def test_fork_waits_for_the_transaction_of_another_thread(path: Path) -> None:
    registers = SqliteRegisters(path)
    inside, going = threading.Event(), threading.Event()

    def change() -> None:
        with registers._transaction() as connection:
            inside.set()
            going.wait(20)
            connection.execute("INSERT INTO changes VALUES ('names', 1, x'00', NULL, 'a')")

    changing = threading.Thread(target=change)
    changing.start()
    inside.wait(20)
    threading.Timer(0.05, going.set).start()
    child = os.fork()
    if child == 0:
        os._exit(0 if going.is_set() else 1)
    assert os.waitpid(child, 0)[1] == 0
    changing.join(20)
    assert registers.read("names") == Versioned(1, b"\0")


def test_only_the_last_changes_are_kept(path: Path) -> None:
    registers = SqliteRegisters(path)
    for version in range(2 * CHANGES_KEPT):
        registers.compare_and_set(KEY, version, b"x", f"o{version}")
    rows = sqlite3.connect(path).execute("SELECT count(*) FROM changes").fetchone()
    assert rows == (CHANGES_KEPT,)


def test_file_that_is_not_sqlite_is_named_as_damaged(path: Path) -> None:
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(Corrupt, match=str(path)) as caught:
        SqliteRegisters(path)
    assert "recover" in str(caught.value.hint)


def test_overwritten_pages_are_named_as_damaged(path: Path) -> None:
    registers = SqliteRegisters(path)
    for version in range(20):
        registers.compare_and_set(KEY, version, os.urandom(4000), f"o{version}")
    registers.close()
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(Corrupt, match="damaged"):
        SqliteRegisters(path).read(KEY)


def test_file_of_another_program_is_left_alone(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()
    with pytest.raises(InvalidInput, match="left as it is"):
        SqliteRegisters(path)
    assert sqlite3.connect(path).execute("SELECT name FROM sqlite_schema").fetchall() == [("theirs",)]


def test_lock_that_is_held_too_long_is_unavailable(path: Path) -> None:
    registers = SqliteRegisters(path, busy_timeout_s=0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked by another process"):
        registers.compare_and_set(KEY, 0, b"x", "a")
    other.execute("ROLLBACK")
    assert registers.compare_and_set(KEY, 0, b"x", "a").version == 1


def test_folder_without_permission_is_denied(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    user = os.geteuid()
    if user == 0:  # root may write everywhere
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionDenied, match="closed"):
            SqliteRegisters(folder / "deeper" / "registers.sqlite")
    finally:
        os.seteuid(user)


def test_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidInput, match="file"):
        SqliteRegisters(tmp_path / "file" / "registers.sqlite")


def test_read_only_file_is_denied(path: Path) -> None:
    registers = SqliteRegisters(path)
    with registers._open() as connection:
        connection.execute("PRAGMA query_only = ON")
    with pytest.raises(PermissionDenied, match="cannot be written"):
        registers.compare_and_set(KEY, 0, b"x", "a")


def test_full_disk_is_named_and_changes_nothing(path: Path) -> None:
    registers = SqliteRegisters(path)
    registers.compare_and_set(KEY, 0, b"x", "a")
    with registers._open() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(QuotaExceeded, match="no space"):
        registers.compare_and_set(KEY, 1, os.urandom(16000), "b")
    assert registers.read(KEY) == Versioned(1, b"x")
    with pytest.raises(Conflict):
        registers.compare_and_set(KEY, 7, b"x", "c")


def test_change_is_pending_until_its_checkpoint_is_noted(path: Path) -> None:
    registers = SqliteRegisters(path)
    registers.compare_and_set(KEY, 0, b"x", "a")
    registers.compare_and_set("names", 0, b"x", "a")
    registers.note_checkpoint(KEY, 1, "d1", 0)
    assert registers.pending_checkpoints() == ("names",)
    registers.compare_and_set(KEY, 1, b"y", "b")
    registers.note_checkpoint("names", 1, "d1", 0)
    registers.note_checkpoint(KEY, 1, "d1", 0)
    assert registers.pending_checkpoints() == (KEY,)
    assert registers.last_checkpoint(KEY) == (1, "d1")
    registers.note_checkpoint(KEY, 2, "d2", 0)
    registers.note_checkpoint(KEY, 1, "late", 0)
    assert registers.last_checkpoint(KEY) == (2, "d2")
    assert registers.pending_checkpoints() == ()
