"""One connection to an SQLite file for all threads of a process, which does not cross a fork.

SQLite keeps its locks per process and the index of its write-ahead log in shared memory. So a child does harm by merely
closing the connection that it has inherited, as the end of its interpreter does: it throws away what other processes
have committed since, and damages a file in which its parent is in the middle of a transaction
(https://www.sqlite.org/howtocorrupt.html, 2.6; `docs/decisions/031-fork.md`). So the connection is closed before each
fork, once no thread uses it, and opened again when it is needed next.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class SqliteConnection:
    """`connect` opens the file. `lock` is held by the thread that uses the connection."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self.lock = threading.RLock()
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        _all.add(self)

    @contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time."""
        with self.lock:
            if self._connection is None:
                self._connection = self._connect()
            yield self._connection

    def close(self) -> None:
        """Close the connection; `opened` opens it again."""
        with self.lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


_all: weakref.WeakSet[SqliteConnection] = weakref.WeakSet()
_closed_for_fork: list[SqliteConnection] = []


def _before_fork() -> None:
    _closed_for_fork[:] = sorted(_all, key=id)  # in one order in all threads that fork
    for connection in _closed_for_fork:
        connection.lock.acquire()
        connection.close()


def _after_fork() -> None:
    """In the parent and in the child, where the thread that has forked holds the locks."""
    for connection in _closed_for_fork:
        connection.lock.release()
    _closed_for_fork.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
