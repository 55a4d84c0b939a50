"""One node of a persistent map: its JSON, where it is cut, and how new ones are written (format.md, 10)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from skyhold import error_codes
from skyhold.errors import QuotaExceeded
from skyhold.storage.blobs import Blobs
from skyhold.storage.canonical import canonical, decode, malformed

NODE_BYTES_MAX: Final = 128 * 1024
NODE_BYTES_OVER_ENTRIES: Final = 64
KEY_BYTES_MAX: Final = 512
NODE_ENTRIES_MIN: Final = 8
LEVEL_MAX: Final = 15
_CUT_BELOW: Final = 4  # of 256: about 64 entries after the least number
_NAME: Final = re.compile(r"[0-9a-f]{64}")
_NAME_SHAPE: Final = "0" * 64

Entry = tuple[str, object]


@dataclass(frozen=True, slots=True)
class Node:
    """At level 0 the entries of the map; above, the least key of each child with its name."""

    level: int
    entries: tuple[Entry, ...]
    keys: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", tuple(key for key, _ in self.entries))


@dataclass(slots=True)
class Draft:
    """A node that is not written yet. Its entries may name drafts a level below."""

    level: int
    entries: list[Entry]


def decode_node(body: bytes, what: str, *, level: int, first_key: str | None) -> Node:
    """The node in a blob, checked against its place in the tree. Raises `Corrupt`."""
    if len(body) > NODE_BYTES_MAX + NODE_BYTES_OVER_ENTRIES:
        malformed(what, f"it has {len(body)} bytes")
    node = parse_node(decode(body, what), what)
    if node.level != level or not node.entries or (first_key is not None and node.keys[0] != first_key):
        malformed(what, "it is not the node that its parent names")
    return node


def parse_node(value: object, what: str) -> Node:
    """The node that is this JSON value. Raises `Corrupt` unless its keys increase and its values fit its level."""
    level, entries = (value.get("level"), value.get("entries")) if isinstance(value, dict) else (None, None)
    if type(level) is not int or not 0 <= level <= LEVEL_MAX or not isinstance(entries, list):
        malformed(what, "it lacks a level or entries")
    previous = ""
    for entry in entries:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)) or entry[1] is None:
            malformed(what, "an entry is not a pair of key and value")
        if len(entry[0]) > KEY_BYTES_MAX or (not entry[0].isascii() and len(entry[0].encode()) > KEY_BYTES_MAX):
            malformed(what, "a key is too long")
        if entry[0] <= previous:
            malformed(what, f"key {entry[0]!r} does not sort after {previous!r}")
        if level and not (isinstance(entry[1], str) and _NAME.fullmatch(entry[1])):
            malformed(what, f"{entry[1]!r} is not the name of a node")
        previous = entry[0]
    return Node(level, tuple((key, item) for key, item in entries))


def cut(level: int, entries: list[Entry]) -> tuple[list[list[Entry]], list[Entry]]:
    """Entries of a level as complete nodes, and the rest, which no cut has closed yet."""
    groups: list[list[Entry]] = []
    group: list[Entry] = []
    group_bytes = 0
    fits = size_bytes(entries) <= NODE_BYTES_MAX  # all of them, and so each node: it need not be measured by entries
    for entry in entries:
        entry_bytes = 0 if fits else size_bytes([entry])
        if group and group_bytes + entry_bytes > NODE_BYTES_MAX:
            groups.append(group)
            group, group_bytes = [], 0
        group.append(entry)
        group_bytes += entry_bytes
        if len(group) >= NODE_ENTRIES_MIN and _cuts(level, entry[0]):
            groups.append(group)
            group, group_bytes = [], 0
    return groups, group


def size_bytes(entries: Iterable[Entry]) -> int:
    """Bytes of the canonical JSON of entries."""
    return len(canonical([(key, _NAME_SHAPE if isinstance(value, Draft) else value) for key, value in entries]))


def write_drafts(blobs: Blobs, entries: list[Entry]) -> list[Entry]:
    """Write all drafts under `entries` at once, named from the lowest level up; returns the entries with names."""
    levels: dict[int, list[Draft]] = {}
    _collect(entries, levels)
    if not levels:
        return entries
    names: dict[int, str] = {}
    batch = blobs.batch()
    for level in sorted(levels):
        for draft in levels[level]:
            names[id(draft)] = batch.add("nodes", _encode(draft.level, _named(draft.entries, names)))
    batch.write()
    return _named(entries, names)


def _collect(entries: list[Entry], levels: dict[int, list[Draft]]) -> None:
    for _, value in entries:
        if isinstance(value, Draft):
            levels.setdefault(value.level, []).append(value)
            _collect(value.entries, levels)


def _named(entries: list[Entry], names: dict[int, str]) -> list[Entry]:
    return [(key, names[id(value)] if isinstance(value, Draft) else value) for key, value in entries]


def _encode(level: int, entries: list[Entry]) -> bytes:
    if not 0 <= level <= LEVEL_MAX:
        raise QuotaExceeded(f"A map has at most {LEVEL_MAX} levels", code=error_codes.MAP_TOO_DEEP)
    return canonical({"level": level, "entries": [[key, value] for key, value in entries]})


@lru_cache(maxsize=4096)
def _cuts(level: int, key: str) -> bool:
    return hashlib.sha256(bytes([level]) + key.encode()).digest()[0] < _CUT_BELOW
