"""The SQLite file of the chunk index: used by several threads and processes, and which sessions are alive."""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from skyhold import error_codes
from skyhold.consensus.sqlite_connection import SqliteConnection
from skyhold.errors import Corrupt, PermissionDenied, QuotaExceeded, SkyholdError, Unavailable


class ChunkIndexFile:
    """`chunks.db` in the folder given, with this schema. Thread-safe."""

    def __init__(self, folder: Path, schema: str) -> None:
        self._path = folder / "chunks.db"
        self._sessions = folder / "sessions"
        self._schema = schema
        self._closed = False
        self.session = secrets.token_hex(8)
        """What the packs that this process is sending are marked with."""
        self._session_file = _lock_session(self._sessions, self.session)
        self._connection = SqliteConnection(self._connect)
        with self._here():
            pass

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=30, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        # A chunk index lost to a power cut is rebuilt from the buckets; a kill −9 loses nothing.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(self._schema)
        return connection

    def close(self) -> None:
        with self._connection.lock:  # a thread may still wait for a slow bucket, and use the connection afterwards
            self._closed = True
            self._connection.close()
        (self._sessions / self.session).unlink(missing_ok=True)
        self._session_file.close()

    def runs(self, session: str) -> bool:
        """Whether the process of a session is alive."""
        try:
            with (self._sessions / session).open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def execute(self, statement: str, parameters: tuple[object, ...]) -> list[Any]:
        """The rows of one statement."""
        with self._here() as database:
            return database.execute(statement, parameters).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The connection, for statements that take effect together, or not at all where one raises."""
        with self._here() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")

    @contextmanager
    def _here(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time."""
        with self._connection.lock, _translated(self._path):
            if self._closed:
                raise Unavailable(
                    f"Chunk index {self._path} was closed", code=error_codes.CHUNK_INDEX_CLOSED, hint="Run it again"
                )
            with self._connection.opened() as connection:
                yield connection


class _translated:  # noqa: N801  reads as a verb at its place of use
    """Foreign errors of SQLite become ours at one place."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, sqlite3.Error):
            return
        code = getattr(error, "sqlite_errorcode", 0)
        if code == sqlite3.SQLITE_IOERR_SHMSIZE:  # the file of the shared memory could not be made larger
            code = sqlite3.SQLITE_FULL
        kind_of, hint = _ERRORS.get(code & 0xFF, (Unavailable, "Run it again"))
        raise kind_of(
            f"Chunk index {self._path} cannot be used: {error}", code=error_codes.CHUNK_INDEX_FAILED, hint=hint
        ) from error


_ERRORS: dict[int, tuple[type[SkyholdError], str]] = {
    sqlite3.SQLITE_FULL: (QuotaExceeded, "Free some space on the disk of the state folder"),
    sqlite3.SQLITE_READONLY: (PermissionDenied, "Make the state folder writable"),
    sqlite3.SQLITE_CANTOPEN: (PermissionDenied, "Make the state folder writable"),
    sqlite3.SQLITE_CORRUPT: (Corrupt, "Delete the file: it is rebuilt from the buckets"),
    sqlite3.SQLITE_NOTADB: (Corrupt, "Delete the file: it is rebuilt from the buckets"),
}


def _lock_session(sessions: Path, session: str) -> IO[str]:
    """A locked file that shows other processes that this session is alive."""
    sessions.mkdir(parents=True, exist_ok=True)
    for stale in sessions.iterdir():  # the files of sessions that were killed
        _remove_if_free(stale)
    path = sessions / session
    while True:  # another process that cleans up may remove the file between its making and its lock
        file = path.open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        file.close()


def _remove_if_free(path: Path) -> None:
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    except (BlockingIOError, FileNotFoundError):
        return
