"""What the leaves of the maps of repositories reach, cached on this machine: an inventory then reads only what has
changed since. Rebuildable; a leaf is an immutable blob, so what it reaches does not change while the events stay the
same."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Collection, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from skyhold.storage.object_keys import PACKS

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS repositories(
    id TEXT PRIMARY KEY, events INTEGER NOT NULL, chain TEXT NOT NULL) WITHOUT ROWID;  -- whose history was verified
CREATE TABLE IF NOT EXISTS leaves(
    repository TEXT NOT NULL, name TEXT NOT NULL, versions INTEGER NOT NULL, keys BLOB NOT NULL,
    PRIMARY KEY(repository, name)) WITHOUT ROWID;
PRAGMA user_version = 1;
"""


@dataclass(slots=True)
class Reached:
    """What the entries of a leaf reach: how many versions, and the keys of blobs and packs."""

    versions: int
    blobs: set[str]
    packs: set[str]


class ReachedFile:
    """The SQLite file `path`. An unusable file counts as empty: the whole inventory is then read from the buckets."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def recall(self, repository_id: str) -> tuple[tuple[int, str] | None, dict[str, Reached]]:
        """Up to which event the history of a repository was verified, with the chain after it, and what is known of its
        leaves, by name."""
        with suppress(sqlite3.Error), closing(self._open()) as database:
            place = database.execute("SELECT events, chain FROM repositories WHERE id = ?", (repository_id,)).fetchone()
            rows = database.execute(
                "SELECT name, versions, keys FROM leaves WHERE repository = ?", (repository_id,)
            ).fetchall()
            with suppress(zlib.error, UnicodeDecodeError):
                return place, {name: Reached(versions, *_keys(keys)) for name, versions, keys in rows}
        return None, {}

    def note(
        self, repository_id: str, events: int, chain: str, added: Mapping[str, Reached], gone: Collection[str]
    ) -> None:
        """Record what a complete inventory of a repository found."""
        with suppress(sqlite3.Error), closing(self._open()) as database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany(
                "DELETE FROM leaves WHERE repository = ? AND name = ?", [(repository_id, name) for name in gone]
            )
            database.executemany(
                "INSERT OR REPLACE INTO leaves VALUES (?, ?, ?, ?)",
                [(repository_id, name, leaf.versions, _packed(leaf)) for name, leaf in added.items()],
            )
            database.execute("INSERT OR REPLACE INTO repositories VALUES (?, ?, ?)", (repository_id, events, chain))
            database.execute("COMMIT")

    def forget(self, repository_id: str) -> None:
        """Forget all of a repository whose history was replaced."""
        with suppress(sqlite3.Error), closing(self._open()) as database:
            database.execute("DELETE FROM leaves WHERE repository = ?", (repository_id,))
            database.execute("DELETE FROM repositories WHERE id = ?", (repository_id,))

    def _open(self) -> sqlite3.Connection:
        try:
            return _opened(self._path)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
                self._path.unlink(missing_ok=True)
            return _opened(self._path)


def _opened(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=5, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.executescript(_SCHEMA)
    except BaseException:
        database.close()
        raise
    return database


def _packed(leaf: Reached) -> bytes:
    return zlib.compress("\n".join(sorted(leaf.blobs | leaf.packs)).encode(), 1)


def _keys(packed: bytes) -> tuple[set[str], set[str]]:
    keys = set(zlib.decompress(packed).decode().split()) if packed else set()
    packs = {key for key in keys if key.startswith(f"{PACKS}/")}
    return keys - packs, packs
