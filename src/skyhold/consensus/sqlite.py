"""Registers in one SQLite file: the engine of a store that one machine writes.

The file is in write-ahead mode with `synchronous=FULL`: a change that returned is on the disk. Any number of processes
and threads of the machine may use it at once; a change runs in `BEGIN IMMEDIATE`, so that it reads and writes under one
lock.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from skyhold.consensus.migration import CONFIG
from skyhold.consensus.register import (
    CHANGES_KEPT,
    EngineRegisters,
    RegisterChange,
    Resync,
    Versioned,
    check_change,
    check_changes,
    check_data,
    check_expected_version,
    check_next_version,
    check_operation_id,
    check_register_key,
    membership_changed,
    refuse_closed_or_changed,
    register_changed,
)
from skyhold.consensus.sqlite_connection import SqliteConnection
from skyhold.consensus.sqlite_errors import format_unknown, translated

BUSY_TIMEOUT_S: Final = 15.0
WATCH_INTERVAL_S_MIN: Final = 0.01
WATCH_INTERVAL_S_MAX: Final = 0.25
_APPLICATION_ID: Final = 0x536B7948  # "SkyH"
_SCHEMA_VERSION: Final = 1
_SCHEMA: Final = (
    # `data` and `next_configuration` as in Versioned. The greatest version of a key is its current value.
    "CREATE TABLE changes (key TEXT NOT NULL, version INTEGER NOT NULL, data BLOB NOT NULL, next_configuration BLOB,"
    " operation_id TEXT, PRIMARY KEY (key, version)) WITHOUT ROWID",
    "CREATE UNIQUE INDEX operations ON changes (key, operation_id) WHERE operation_id IS NOT NULL",
    "CREATE TABLE checkpointed (key TEXT PRIMARY KEY, version INTEGER NOT NULL, digest TEXT NOT NULL) WITHOUT ROWID",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_SCHEMA_VERSION}",
)
_NEWEST: Final = "SELECT version, data, next_configuration FROM changes WHERE key = ? ORDER BY version DESC LIMIT 1"
_OUTCOME: Final = "SELECT version, data, next_configuration FROM changes WHERE key = ? AND operation_id = ?"
_CHANGES: Final = "SELECT version, data, next_configuration, operation_id FROM changes WHERE key = ? ORDER BY version"
_AFTER_AND_NEWEST: Final = (
    "SELECT version, data, next_configuration FROM changes WHERE key = ?1 AND"
    " (version > ?2 OR version = (SELECT max(version) FROM changes WHERE key = ?1)) ORDER BY version"
)


class SqliteRegisters(EngineRegisters):
    """The registers of a store in the SQLite file `path`, which is created, with its folder, where it is missing.

    Also notes which change of a register has reached the checkpoints (`checkpoint.CheckpointLog`).

    Raises, here and later: `Corrupt` code `registers_damaged`, `Unavailable` code `registers_locked` (another process
    held the lock for `busy_timeout_s`), `PermissionDenied`, `QuotaExceeded` code `disk_full`.
    """

    def __init__(self, path: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.path = path
        self._connection = SqliteConnection(lambda: _connect(path, busy_timeout_s))
        self._closed = False
        with self._open():
            pass

    def read(self, key: str) -> Versioned | None:
        check_register_key(key)
        with self._open() as connection:
            return _value(connection.execute(_NEWEST, (key,)).fetchone())

    def compare_and_set(self, key: str, expected_version: int, data: bytes, operation_id: str) -> Versioned:
        return self.compare_and_set_in(None, key, expected_version, data, operation_id)

    def configured(self) -> int | None:
        with self._open() as connection:
            return _configured(connection)

    def compare_and_set_in(
        self, configured: int | None, key: str, expected_version: int, data: bytes, operation_id: str
    ) -> Versioned:
        check_change(key, expected_version, data, operation_id)
        with self._transaction() as connection:
            earlier = _value(connection.execute(_OUTCOME, (key, operation_id)).fetchone())
            if earlier is not None:
                return earlier
            if configured is not None and _configured(connection) != configured:
                raise membership_changed(key)
            current = _value(connection.execute(_NEWEST, (key,)).fetchone())
            refuse_closed_or_changed(key, expected_version, current)
            return _append(connection, key, Versioned(expected_version + 1, bytes(data)), operation_id)

    def outcome(self, key: str, operation_id: str) -> Versioned | None:
        check_register_key(key)
        check_operation_id(operation_id)
        with self._open() as connection:
            return _value(connection.execute(_OUTCOME, (key, operation_id)).fetchone())

    def watch(self, key: str, after_version: int, *, timeout_s: float) -> Sequence[Versioned] | Resync:
        check_register_key(key)
        check_expected_version(after_version)
        deadline_s = time.monotonic() + timeout_s
        interval_s = WATCH_INTERVAL_S_MIN
        while True:
            changes = self._changes(key, after_version)
            remaining_s = deadline_s - time.monotonic()
            if changes or isinstance(changes, Resync) or remaining_s <= 0:
                return changes
            time.sleep(min(interval_s, remaining_s))
            interval_s = min(2 * interval_s, WATCH_INTERVAL_S_MAX)

    def changes(self, key: str) -> Sequence[RegisterChange]:
        check_register_key(key)
        with self._open() as connection:
            rows = connection.execute(_CHANGES, (key,)).fetchall()
        return [RegisterChange(Versioned(*row[:3]), row[3]) for row in rows]

    def list(self, prefix: str = "") -> list[str]:
        with self._open() as connection:
            rows = connection.execute("SELECT DISTINCT key FROM changes ORDER BY key").fetchall()
        return [key for (key,) in rows if key.startswith(prefix)]

    def seal(self, key: str, expected_version: int, next_configuration: bytes) -> Versioned:
        check_register_key(key)
        check_next_version(expected_version)
        check_data(key, next_configuration)
        with self._transaction() as connection:
            current = _value(connection.execute(_NEWEST, (key,)).fetchone())
            if current is not None and current.next_configuration == next_configuration:
                return current
            refuse_closed_or_changed(key, expected_version, current)
            data = current.data if current else b""
            return _append(connection, key, Versioned(expected_version + 1, data, bytes(next_configuration)), None)

    def restore(self, key: str, changes: Sequence[RegisterChange]) -> None:
        check_changes(key, changes)
        with self._transaction() as connection:
            current = _value(connection.execute(_NEWEST, (key,)).fetchone())
            if current is None:
                for change in changes:
                    _append(connection, key, change.value, change.operation_id)
            elif current != changes[-1].value:
                raise register_changed(key, 0, current)

    def pending_checkpoints(self) -> tuple[str, ...]:
        """The keys, sorted, whose newest change is not known to have reached its checkpoints."""
        with self._open() as connection:
            rows = connection.execute(
                "SELECT key FROM changes GROUP BY key"
                " HAVING max(version) > coalesce((SELECT version FROM checkpointed c WHERE c.key = changes.key), 0)"
                " ORDER BY key"
            ).fetchall()
        return tuple(key for (key,) in rows)

    def last_checkpoint(self, key: str) -> tuple[int, str] | None:
        """Version and digest of the checkpoint of a register that was noted last."""
        with self._open() as connection:
            row = connection.execute("SELECT version, digest FROM checkpointed WHERE key = ?", (key,)).fetchone()
        return None if row is None else (int(row[0]), str(row[1]))

    def note_checkpoint(self, key: str, version: int, digest: str, configured: int) -> bool:
        """Note that the change `version` of a register has reached its checkpoints, in the buckets of the configuration
        of this version. False, and nothing is noted, where there is another by now."""
        with self._transaction() as connection:
            if _configured(connection) != configured:
                return False
            connection.execute(
                "INSERT INTO checkpointed VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE"
                " SET version = excluded.version, digest = excluded.digest WHERE excluded.version > version",
                (key, version, digest),
            )
        return True

    def close(self) -> None:
        with self._connection.lock:
            self._closed = True
            self._connection.close()

    def _changes(self, key: str, after_version: int) -> Sequence[Versioned] | Resync:
        with self._open() as connection:
            # One statement is one snapshot: with two, a change of another process between them would be missed.
            rows = connection.execute(_AFTER_AND_NEWEST, (key, after_version)).fetchall()
        if not rows or rows[-1][0] == after_version:
            return []
        if rows[0][0] != after_version + 1:
            return Resync(Versioned(*rows[-1]))
        return [Versioned(*row) for row in rows]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with self._connection.lock:
            if self._closed:
                raise ValueError(f"the registers in {self.path} are closed")
            with translated(self.path), self._connection.opened() as connection:
                yield connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            with translated(self.path, committing=True):
                connection.execute("COMMIT")


def _value(row: tuple[int, bytes, bytes | None] | None) -> Versioned | None:
    return None if row is None else Versioned(*row)


def _configured(connection: sqlite3.Connection) -> int:
    """The version of the register `config`; 0 where it was never created."""
    return int(
        connection.execute("SELECT coalesce(max(version), 0) FROM changes WHERE key = ?", (CONFIG,)).fetchone()[0]
    )


def _append(connection: sqlite3.Connection, key: str, value: Versioned, operation_id: str | None) -> Versioned:
    connection.execute(
        "INSERT INTO changes VALUES (?, ?, ?, ?, ?)",
        (key, value.version, value.data, value.next_configuration, operation_id),
    )
    connection.execute("DELETE FROM changes WHERE key = ? AND version <= ?", (key, value.version - CHANGES_KEPT))
    return value


def _connect(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    try:
        use_write_ahead_log(connection, busy_timeout_s)
        connection.execute("PRAGMA synchronous = FULL")
        _create_schema(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def use_write_ahead_log(connection: sqlite3.Connection, busy_timeout_s: float) -> None:
    """Switching the mode needs a lock that SQLite does not wait for, so processes that create one file at once do."""
    deadline_s = time.monotonic() + busy_timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline_s:
                raise
            time.sleep(0.005)
        else:
            return


def _create_schema(connection: sqlite3.Connection, path: Path) -> None:
    if _schema_version(connection) == _SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    version = _schema_version(connection)
    if version not in {None, _SCHEMA_VERSION}:
        raise format_unknown(path)
    if version is None:
        for statement in _SCHEMA:
            connection.execute(statement)
    connection.execute("COMMIT")


def _schema_version(connection: sqlite3.Connection) -> int | None:
    """The version of our tables in the file, None for an empty file, and -1 for a file of another program."""
    if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        return None
    if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        return -1
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
