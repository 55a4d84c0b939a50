"""What this machine has seen of the registers of a store, to detect a bucket that shows an older state as the newest.

Of each register the newest value that was known to be chosen; of each voter the greatest ballot that it has promised. A
voter that shows a smaller one has gone back: it takes no part. Since a chosen value was accepted by a majority, whose
ballots are noted with it, no majority that is left can answer without it. The newest value is compared besides: in
another epoch voters have other ballots.

It is a safeguard, and no part of the store: without it this machine trusts the buckets as a new machine does.
"""

from __future__ import annotations

import hashlib
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from skyhold import error_codes
from skyhold.consensus.acceptor import Ballot
from skyhold.consensus.migration import CONFIG
from skyhold.consensus.operation import Kept, newest, version_of
from skyhold.consensus.sqlite import use_write_ahead_log
from skyhold.consensus.sqlite_connection import SqliteConnection
from skyhold.consensus.sqlite_errors import FileErrors, translated

BUSY_TIMEOUT_S: Final = 15.0
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS registers(
    key TEXT PRIMARY KEY, epoch INTEGER NOT NULL, version INTEGER NOT NULL, digest TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS voters(
    epoch INTEGER NOT NULL, key TEXT NOT NULL, incarnation TEXT NOT NULL, counter INTEGER NOT NULL,
    proposer TEXT NOT NULL, PRIMARY KEY(epoch, key, incarnation)) WITHOUT ROWID;
PRAGMA user_version = 1;
"""
_NOTE_REGISTER: Final = (
    "INSERT INTO registers VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE"
    " SET epoch = excluded.epoch, version = excluded.version, digest = excluded.digest"
    " WHERE (excluded.epoch, excluded.version) > (epoch, version)"
)
_NOTE_VOTER: Final = (
    "INSERT INTO voters VALUES (?, ?, ?, ?, ?) ON CONFLICT (epoch, key, incarnation) DO UPDATE"
    " SET counter = excluded.counter, proposer = excluded.proposer"
    " WHERE (excluded.counter, excluded.proposer) > (counter, proposer)"
)


@dataclass(frozen=True, slots=True)
class Sighting:
    """A value of a register that was chosen in an epoch; the digest is that of its data."""

    epoch: int
    version: int
    digest: str


class Sightings(ABC):
    """See the module. Thread-safe."""

    @abstractmethod
    def newest(self, key: str) -> Sighting | None:
        """The newest value of a register that was noted."""

    @abstractmethod
    def promised(self, epoch: int, key: str) -> Mapping[str, Ballot]:
        """The greatest ballots that the voters of an epoch have promised, by their incarnations."""

    @abstractmethod
    def note(self, key: str, epoch: int, seen: Sighting | None, promised: Mapping[str, Ballot]) -> None:
        """Note what was seen. Nothing that was noted becomes smaller."""


def sighting(epoch: int, kept: Kept) -> Sighting | None:
    """What is noted of a value. A seal is not the final value of its register, and is not noted."""
    value = newest(kept)
    return None if value is None or value.sealed else Sighting(epoch, value.version, _digest(value.data))


def contradiction(key: str, seen: Sighting | None, epoch: int, kept: Kept) -> str | None:
    """Why a value that voters of an epoch show as the newest cannot follow on what was seen before; None if it can."""
    value, version = newest(kept), version_of(kept)
    if seen is None or (value is not None and value.sealed) or (value is None and epoch != seen.epoch):
        return None  # a seal leads on; what is absent may be in another epoch, or this one has not begun
    if epoch < seen.epoch:
        return f"it is shown in epoch {epoch}, and this machine has seen epoch {seen.epoch}"
    if version < seen.version:
        return f"it is shown at version {version}, and this machine has seen version {seen.version}"
    of_then = next((change.value for change in kept if change.value.version == seen.version), None)
    replaced = key == CONFIG and epoch != seen.epoch  # an epoch begins with a configuration of its own
    if of_then is not None and not replaced and _digest(of_then.data) != seen.digest:
        return f"its change {seen.version} is shown with other data than this machine has seen"
    return None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class SightingsFile(Sightings):
    """What is noted, in the SQLite file `path`. Several processes may use it at once.

    Raises `Corrupt` code `sightings_damaged`, `Unavailable`, `PermissionDenied` and `QuotaExceeded`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = SqliteConnection(self._connect)

    def newest(self, key: str) -> Sighting | None:
        with self._open() as connection:
            row = connection.execute("SELECT epoch, version, digest FROM registers WHERE key = ?", (key,)).fetchone()
        return None if row is None else Sighting(*row)

    def promised(self, epoch: int, key: str) -> Mapping[str, Ballot]:
        with self._open() as connection:
            rows = connection.execute(
                "SELECT incarnation, counter, proposer FROM voters WHERE epoch = ? AND key = ?", (epoch, key)
            ).fetchall()
        return {incarnation: Ballot(counter, proposer) for incarnation, counter, proposer in rows}

    def note(self, key: str, epoch: int, seen: Sighting | None, promised: Mapping[str, Ballot]) -> None:
        rows = [(epoch, key, incarnation, ballot.counter, ballot.proposer) for incarnation, ballot in promised.items()]
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                if seen is not None:
                    connection.execute(_NOTE_REGISTER, (key, seen.epoch, seen.version, seen.digest))
                connection.executemany(_NOTE_VOTER, rows)
                connection.execute("DELETE FROM voters WHERE key = ? AND epoch < ?", (key, epoch))
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def forget(self, key: str | None = None) -> None:
        """Take what the buckets show from now on, of one register or of all."""
        with self._open() as connection:
            for table in ("voters", "registers"):
                connection.execute(f"DELETE FROM {table} WHERE ? IS NULL OR key = ?", (key, key))  # noqa: S608

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with (
            translated(self._path, _FILE),
            self._connection.opened() as connection,
        ):
            yield connection

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        use_write_ahead_log(connection, BUSY_TIMEOUT_S)
        # The newest notes may be lost with the power, not with the process: to wait for the disk slows each change.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(_SCHEMA)
        return connection


_FILE: Final = FileErrors(
    "File",
    "Delete the file: this machine then trusts what the buckets show, as a new machine does",
    damaged=error_codes.SIGHTINGS_DAMAGED,
    failed=error_codes.SIGHTINGS_FAILED,
    locked=error_codes.SIGHTINGS_LOCKED,
    not_openable=error_codes.SIGHTINGS_NOT_OPENABLE,
    read_only=error_codes.SIGHTINGS_READ_ONLY,
)
