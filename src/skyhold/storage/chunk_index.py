"""The chunk index: which chunks are in which packs, as far as this machine knows. Rebuildable, in the machine's state
folder.

It is a copy of the index segments of the buckets, plus the journal of pushes that have not written theirs yet: a pack
is entered *before* it is sent, so that a push that was killed finds what had arrived and sends nothing twice. SQLite
keeps it bounded in memory; several processes may use it at once.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from skyhold.storage.chunk_index_file import ChunkIndexFile
from skyhold.storage.chunk_record import PackRef, Place
from skyhold.storage.object_keys import pack_id_of
from skyhold.storage.pack import unchecked_entries

_NAMES_AT_ONCE: Final = 500
"""Of one query: the number of parameters is bounded in SQLite."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS packs(
    number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, salt BLOB NOT NULL, class TEXT NOT NULL, size INTEGER NOT NULL,
    segment TEXT,      -- the index segment that lists it; NULL while none does
    session TEXT);     -- the push that is sending it; NULL once a bucket is known to hold it
CREATE INDEX IF NOT EXISTS packs_of_segment ON packs(segment, session, class);
CREATE INDEX IF NOT EXISTS packs_on_their_way ON packs(class) WHERE session IS NOT NULL;
CREATE TABLE IF NOT EXISTS chunks(
    id BLOB NOT NULL, pack INTEGER NOT NULL, place INTEGER NOT NULL, stored INTEGER NOT NULL, raw INTEGER NOT NULL,
    codec INTEGER NOT NULL, base BLOB, PRIMARY KEY(id, pack)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS chunks_of_pack ON chunks(pack);
CREATE TABLE IF NOT EXISTS segments(
    name TEXT PRIMARY KEY, class TEXT NOT NULL, chunks INTEGER NOT NULL,
    replaced INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS segments_in_force ON segments(class, chunks) WHERE NOT replaced;
CREATE TABLE IF NOT EXISTS replacements(
    segment TEXT NOT NULL, contains TEXT NOT NULL, PRIMARY KEY(segment, contains)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS placed(
    pack BLOB PRIMARY KEY, hash BLOB NOT NULL) WITHOUT ROWID;  -- of what the pack itself lists
CREATE TABLE IF NOT EXISTS copies(  -- that were verified: the stamp that each had then, and when that was
    pack BLOB NOT NULL, bucket TEXT NOT NULL, stamp TEXT NOT NULL, checked_s INTEGER NOT NULL,
    PRIMARY KEY(pack, bucket)) WITHOUT ROWID;
PRAGMA user_version = 1;
"""


@dataclass(frozen=True, slots=True)
class KnownPack:
    """A pack of the chunk index; `size_bytes` is that of the whole object."""

    pack: PackRef
    placement_class: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CopyNote:
    """What this machine remembers of a verified copy: the stamp that it had, and when that was (seconds, Unix)."""

    stamp: str
    checked_s: int


class ChunkIndex:
    """The chunk index of one store, in the folder given. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._file = ChunkIndexFile(folder, _SCHEMA)

    @property
    def session(self) -> str:
        """What the packs that this process is sending are marked with."""
        return self._file.session

    def close(self) -> None:
        self._file.close()

    def find(self, chunk_id: bytes, placement_class: str, dead: Collection[bytes] = ()) -> Place | None:
        """A place of the chunk in a pack of the class that is not `dead`: a whole one rather than a delta, and the one
        that was entered last. A pack that another push is still sending does not count: it may never arrive."""
        rows = self._file.execute(
            "SELECT p.id, p.salt, c.place, c.stored, c.raw, c.codec, c.base FROM chunks c"
            " JOIN packs p ON p.number = c.pack WHERE c.id = ? AND p.class = ? AND (p.session IS NULL OR p.session = ?)"
            " ORDER BY c.base IS NOT NULL, p.number DESC",
            (chunk_id, placement_class, self.session),
        )
        return next((Place(chunk_id, PackRef(row[0], row[1]), *row[2:]) for row in rows if row[0] not in dead), None)

    def enter(self, pack: KnownPack, places: Sequence[Place]) -> None:
        """Note a pack that this session is about to send."""
        self._enter([pack], places, self.session)
        with self._file.transaction() as connection:
            _set_placed(connection, pack, places)

    def arrived(self, pack_id: bytes) -> None:
        """Note that at least one bucket holds a pack."""
        with self._file.transaction() as connection:
            connection.execute("UPDATE packs SET session = NULL WHERE id = ?", (pack_id,))

    def abandoned(self, placement_class: str) -> list[KnownPack]:
        """Packs that were being sent by a push that no longer runs: only the buckets can show whether they arrived."""
        rows = self._file.execute(
            "SELECT id, salt, class, size, session FROM packs WHERE session IS NOT NULL AND class = ?",
            (placement_class,),
        )
        return [_known(row) for row in rows if row[4] != self.session and not self._file.runs(row[4])]

    def unlisted(self, placement_class: str) -> list[KnownPack]:
        """Packs that arrived and that no index segment lists yet."""
        rows = self._file.execute(
            "SELECT id, salt, class, size FROM packs WHERE segment IS NULL AND session IS NULL AND class = ?",
            (placement_class,),
        )
        return [_known(row) for row in rows]

    def places(self, pack: PackRef) -> list[Place]:
        """All places in a pack, by offset."""
        rows = self._file.execute(
            "SELECT c.id, c.place, c.stored, c.raw, c.codec, c.base FROM chunks c JOIN packs p ON p.number = c.pack"
            " WHERE p.id = ? ORDER BY c.place",
            (pack.pack_id,),
        )
        return [Place(row[0], pack, *row[1:]) for row in rows]

    def size_bytes(self, pack_id: bytes) -> int | None:
        """Size of the pack's object, or None for an unknown pack."""
        rows = self._file.execute("SELECT size FROM packs WHERE id = ?", (pack_id,))
        return int(rows[0][0]) if rows else None

    def segments(self, placement_class: str, names: Sequence[str]) -> set[str]:
        """The subset of these names whose index segments the chunk index contains."""
        found = set()
        for start in range(0, len(names), _NAMES_AT_ONCE):
            part = names[start : start + _NAMES_AT_ONCE]
            marks = ", ".join("?" * len(part))
            query = f"SELECT name FROM segments WHERE class = ? AND name IN ({marks})"  # noqa: S608 - marks alone
            rows = self._file.execute(query, (placement_class, *part))
            found |= {row[0] for row in rows}
        return found

    def small_segments(self, placement_class: str, chunks_max: int) -> set[str]:
        """Names of the segments in force with at most `chunks_max` chunks."""
        rows = self._file.execute(
            "SELECT name FROM segments WHERE class = ? AND chunks <= ? AND NOT replaced", (placement_class, chunks_max)
        )
        return {row[0] for row in rows}

    def replaced_segments(self) -> set[str]:
        """Names of the segments of which another one contains everything."""
        return {row[0] for row in self._file.execute("SELECT name FROM segments WHERE replaced", ())}

    def packs_in(self, segment: str) -> list[KnownPack]:
        """The packs that this segment lists."""
        rows = self._file.execute("SELECT id, salt, class, size FROM packs WHERE segment = ?", (segment,))
        return [_known(row) for row in rows]

    def contained_in(self, segment: str) -> set[str]:
        """Names of the segments that this one contains, also at second hand."""
        rows = self._file.execute(
            "WITH RECURSIVE contained(name) AS (SELECT contains FROM replacements WHERE segment = ?"
            " UNION SELECT r.contains FROM replacements r JOIN contained c ON r.segment = c.name)"
            " SELECT name FROM contained",
            (segment,),
        )
        return {row[0] for row in rows}

    def add_segment(
        self,
        name: str,
        placement_class: str,
        packs: Sequence[KnownPack],
        places: Sequence[Place],
        replaces: Collection[str],
    ) -> None:
        """Enter a segment as read from a bucket; what is known already stays."""
        self._enter(packs, places, None)
        self.list_in(name, placement_class, [known.pack.pack_id for known in packs], replaces, len(places))

    def list_in(
        self, name: str, placement_class: str, pack_ids: Iterable[bytes], replaces: Collection[str], chunks: int
    ) -> None:
        """Note that a segment of this name lists these packs, in place of the segments that it replaces."""
        with self._file.transaction() as connection:
            connection.execute(
                "INSERT INTO segments(name, class, chunks) VALUES (?, ?, ?)"
                " ON CONFLICT(name) DO UPDATE SET class = excluded.class, chunks = excluded.chunks",
                (name, placement_class, chunks),
            )
            # A replaced segment may be read after its replacer: until then it has a row without a class.
            connection.executemany(
                "INSERT INTO segments(name, class, chunks, replaced) VALUES (?, '', 0, 1)"
                " ON CONFLICT(name) DO UPDATE SET replaced = 1",
                [(old,) for old in replaces],
            )
            connection.executemany(
                "INSERT OR IGNORE INTO replacements VALUES (?, ?)", [(name, old) for old in replaces]
            )
            (replaced,) = connection.execute("SELECT replaced FROM segments WHERE name = ?", (name,)).fetchone()
            connection.executemany(
                "UPDATE packs SET segment = CASE WHEN ? THEN coalesce(segment, ?) ELSE ? END, session = NULL"
                " WHERE id = ?",
                [(replaced, name, name, pack_id) for pack_id in pack_ids],
            )

    def is_placed(self, pack_id: bytes) -> bool:
        """Whether the chunk index's entries of a pack and its chunks are those of the pack itself, as this machine has
        written or read it. (An entry that came from an index segment, or has changed since, is only a hint.)"""
        rows = self._file.execute(
            "SELECT p.salt, p.class, p.size, h.hash FROM packs p JOIN placed h ON h.pack = p.id WHERE p.id = ?",
            (pack_id,),
        )
        if not rows:
            return False
        salt, placement_class, size_bytes, hash_ = rows[0]
        pack = PackRef(pack_id, salt)
        return bool(hash_ == hash_of(KnownPack(pack, placement_class, size_bytes), self.places(pack)))

    def agrees(self, known: KnownPack, places: Sequence[Place]) -> bool:
        """Whether the chunk index's entries of a pack are what the pack itself lists."""
        rows = self._file.execute("SELECT id, salt, class, size FROM packs WHERE id = ?", (known.pack.pack_id,))
        return [_known(row) for row in rows] == [known] and self.places(known.pack) == each_once(places)

    def confirm(self, known: KnownPack, places: Sequence[Place]) -> bool:
        """Note what an intact pack lists; returns False where the index had other entries, which are corrected."""
        pack_id, places = known.pack.pack_id, each_once(places)
        unknown = self.size_bytes(pack_id) is None
        same = self.agrees(known, places)
        with self._file.transaction() as connection:
            if not same:
                connection.execute(
                    "INSERT INTO packs(id, salt, class, size) VALUES (?, ?, ?, ?) ON CONFLICT(id) DO UPDATE SET"
                    " salt = excluded.salt, class = excluded.class, size = excluded.size",
                    (pack_id, known.pack.salt, known.placement_class, known.size_bytes),
                )
                connection.execute(
                    "DELETE FROM chunks WHERE pack = (SELECT number FROM packs WHERE id = ?)", (pack_id,)
                )
                _insert_chunks(connection, places)
            _set_placed(connection, known, places)
        return same or unknown

    def note_copy(self, bucket: str, key: str, stamp: str) -> None:
        """Note that the copy of a pack in the bucket of this URL has been verified now, under this stamp."""
        pack_id = pack_id_of(key)
        if pack_id is not None and stamp:
            with self._file.transaction() as connection:
                connection.execute(
                    "INSERT OR REPLACE INTO copies VALUES (?, ?, ?, ?)", (pack_id, bucket, stamp, int(time.time()))
                )

    def doubt(self, key: str) -> None:
        """Note that some copy of a pack is damaged: each is read back before it is relied on again."""
        with self._file.transaction() as connection:
            connection.execute("UPDATE copies SET stamp = '' WHERE pack = ?", (pack_id_of(key),))

    def copies(self, key: str) -> dict[str, CopyNote]:
        """What is noted of the copies of a pack, by the URLs of the buckets."""
        rows = self._file.execute("SELECT bucket, stamp, checked_s FROM copies WHERE pack = ?", (pack_id_of(key),))
        return {row[0]: CopyNote(row[1], row[2]) for row in rows}

    def forget(self, pack_ids: Iterable[bytes]) -> None:
        """Drop packs that no bucket holds any more (or yet)."""
        with self._file.transaction() as connection:
            for pack_id in pack_ids:
                connection.execute(
                    "DELETE FROM chunks WHERE pack = (SELECT number FROM packs WHERE id = ?)", (pack_id,)
                )
                for table, column in (("packs", "id"), ("placed", "pack"), ("copies", "pack")):
                    connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (pack_id,))  # noqa: S608 - our names

    def _enter(self, packs: Iterable[KnownPack], places: Iterable[Place], session: str | None) -> None:
        with self._file.transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO packs(id, salt, class, size, session) VALUES (?, ?, ?, ?, ?)",
                ((k.pack.pack_id, k.pack.salt, k.placement_class, k.size_bytes, session) for k in packs),
            )
            _insert_chunks(connection, places)


def each_once(places: Sequence[Place]) -> list[Place]:
    """The first place of each chunk, by offset: what the chunk index keeps of a pack that contains one twice."""
    first = {place.chunk_id: place for place in reversed(places)}
    return sorted(first.values(), key=lambda place: place.offset)


def _insert_chunks(connection: sqlite3.Connection, places: Iterable[Place]) -> None:
    connection.executemany(
        "INSERT OR IGNORE INTO chunks SELECT ?, number, ?, ?, ?, ?, ? FROM packs WHERE id = ?",
        ((p.chunk_id, p.offset, p.stored_length, p.raw_length, p.codec, p.base_id, p.pack_id) for p in places),
    )


def _set_placed(connection: sqlite3.Connection, known: KnownPack, places: Sequence[Place]) -> None:
    connection.execute("INSERT OR REPLACE INTO placed VALUES (?, ?)", (known.pack.pack_id, hash_of(known, places)))


def hash_of(known: KnownPack, places: Sequence[Place]) -> bytes:
    """A digest of what a pack is and of its places, each chunk once."""
    hasher = blake3(f"{known.pack.salt.hex()} {known.placement_class} {known.size_bytes} ".encode())
    return hasher.update(unchecked_entries(places)).digest()


def _known(row: Sequence[Any]) -> KnownPack:
    return KnownPack(PackRef(row[0], row[1]), row[2], row[3])
