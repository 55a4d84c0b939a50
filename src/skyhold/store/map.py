"""The persistent map of a register (format.md, 10): a search tree whose nodes are immutable blobs.

The top node is inside the register, so that a change of any number of entries is one compare-and-set. An update
rewrites the nodes on the way to what it changes and shares all others with the map before. Nodes are cut where the hash
of a key is below a bound (as in Noms' prolly trees), so that an insertion does not shift the cuts after it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Final

from skyhold import error_codes
from skyhold.errors import Corrupt, InvalidInput, NotFound
from skyhold.storage.blobs import Blobs
from skyhold.storage.canonical import Json, canonical
from skyhold.store.node import (
    KEY_BYTES_MAX,
    Draft,
    Entry,
    Node,
    cut,
    decode_node,
    parse_node,
    size_bytes,
    write_drafts,
)

TOP_BYTES_MAX: Final = 10 * 1024
"""A top node past this becomes a blob. The rest of the 16 KiB of a register is for the root's other fields."""
_LAST: Final = "\U0010ffff"
"""The greatest code point sorts after whatever can follow a prefix in a key."""
VALUE_BYTES_MAX: Final = 2 * 1024
NODES_KEPT: Final = 16
"""Decoded nodes that a map keeps: a client that lists all refs, or moves them one by one, reads the same few again and
again."""


class Map:
    """An immutable handle of one state of a map: strings to JSON values, ordered by key.

    Reads fetch nodes from `blobs` as they need them, and keep the last `NODES_KEPT`. Raises `Corrupt` for a node that
    is malformed, or that is gone.
    """

    __slots__ = ("_blobs", "_read", "_top")

    def __init__(self, blobs: Blobs, top: Node = Node(0, ())) -> None:  # noqa: B008 (a node is immutable)
        self._blobs = blobs
        self._top = top
        self._read: Callable[[str, int, str | None], Node] = lru_cache(NODES_KEPT)(partial(_read_node, blobs))

    @classmethod
    def from_json(cls, blobs: Blobs, top: object) -> Map:
        """The map whose top node is this JSON value of a register. Raises `Corrupt`."""
        return cls(blobs, parse_node(top, "top node of a map"))

    def to_json(self) -> Json:
        """The top node, as it is stored in the register."""
        return {"level": self._top.level, "entries": [[key, value] for key, value in self._top.entries]}

    @property
    def level(self) -> int:
        """Height of the top node: 0 where all entries are in it."""
        return self._top.level

    def node_names(self) -> Iterator[str]:
        """Names of all blobs of the map: what must be there for it to be readable whole."""
        pending = [self._top]
        while pending:
            node = pending.pop()
            if node.level > 0:
                for place, (_, name) in enumerate(node.entries):
                    yield str(name)
                    if node.level > 1:
                        pending.append(self._child(node, place))

    def leaves(self) -> Iterator[tuple[str | None, Callable[[], tuple[Entry, ...]]]]:
        """The leaves in order, each with its name (None: it is the top node) and a function that reads its entries."""
        yield from self._leaves(self._top)

    def _leaves(self, node: Node) -> Iterator[tuple[str | None, Callable[[], tuple[Entry, ...]]]]:
        if node.level == 0:
            yield None, lambda: node.entries
        for place in range(len(node.entries) if node.level else 0):
            if node.level == 1:
                yield str(node.entries[place][1]), partial(self._entries_at, node, place)
            else:
                yield from self._leaves(self._child(node, place))

    def _entries_at(self, node: Node, place: int) -> tuple[Entry, ...]:
        return self._child(node, place).entries

    def get(self, key: str) -> object | None:
        """The value of a key, or None. (A value is never JSON's null.)"""
        node = self._top
        while node.level:
            place = bisect_right(node.keys, key) - 1
            if place < 0:
                return None
            node = self._child(node, place)
        place = bisect_right(node.keys, key) - 1
        found = place >= 0 and node.entries[place][0] == key
        return node.entries[place][1] if found else None

    def way_to(self, key: str) -> list[str]:
        """Names of the blobs that are read to find the key."""
        names, node = [], self._top
        while node.level:
            place = max(0, bisect_right(node.keys, key) - 1)
            names.append(str(node.entries[place][1]))
            node = self._child(node, place)
        return names

    def scan(self, prefix: str = "", *, after: str = "") -> Iterator[Entry]:
        """The entries whose keys start with `prefix` and sort after `after`, in ascending order."""
        for key, value in self._ascend(self._top, max(prefix, after), prefix + _LAST):
            if key.startswith(prefix):
                if key > after or not after:
                    yield key, value
            elif key > prefix:
                return

    def scan_reverse(self, prefix: str = "", *, before: str | None = None) -> Iterator[Entry]:
        """The entries whose keys start with `prefix` and sort before `before`, in descending order."""
        end = prefix + _LAST if before is None else min(before, prefix + _LAST)
        for key, value in self._descend(self._top, end, prefix):
            if key.startswith(prefix):
                yield key, value
            elif key < prefix:
                return

    def last(self, prefix: str = "") -> Entry | None:
        """The entry with the greatest key of a prefix, or None."""
        return next(self.scan_reverse(prefix), None)

    def update(self, changes: Mapping[str, object | None]) -> Map:
        """A new map with these entries set (None: deleted). The nodes that are new are durable when it returns.

        They are written at once, since a name follows from the bytes. Raises `InvalidInput` code
        `map_entry_size` for a key over 512 bytes or a value over 2 KiB; values are canonical JSON values.
        """
        for key, value in changes.items():
            _check_entry(key, value)
        if not changes:
            return self
        level, entries = self._top.level, self._apply(self._top, sorted(changes.items()))
        while level and len(entries) <= 1:
            # A lone child comes up into the register, if it fits.
            lower = self._entries_of(entries[0][1], level - 1) if entries else []
            if size_bytes(lower) > TOP_BYTES_MAX:
                break
            level, entries = level - 1, lower
        while size_bytes(entries) > TOP_BYTES_MAX:
            groups, rest = cut(level, entries)
            drafts = [Draft(level, group) for group in (*groups, rest) if group]
            entries = [(draft.entries[0][0], draft) for draft in drafts]
            level += 1
        return Map(self._blobs, Node(level, tuple(write_drafts(self._blobs, entries))))

    def _apply(self, node: Node, changes: list[tuple[str, object | None]]) -> list[Entry]:
        """The entries of `node` after the changes; those of new children are drafts."""
        if node.level == 0:
            merged = dict(node.entries)
            for key, value in changes:
                if value is None:
                    merged.pop(key, None)
                else:
                    merged[key] = value
            return sorted(merged.items())
        result: list[Entry] = []
        carry: list[Entry] = []  # entries of children that were not closed by a cut, and so flow into the next child
        for place, (first_key, name) in enumerate(node.entries):
            end = node.keys[place + 1] if place + 1 < len(node.keys) else None
            own = _below(changes, end)
            if not own and not carry:
                result.append((first_key, name))
                continue
            child = self._child(node, place)
            entries = self._apply(child, own) if own else list(child.entries)
            if not carry and entries == list(child.entries):
                result.append((first_key, name))
                continue
            groups, carry = cut(child.level, carry + entries)
            result += [(group[0][0], Draft(child.level, group)) for group in groups]
        if carry:
            result.append((carry[0][0], Draft(node.level - 1, carry)))
        return result

    def _entries_of(self, child: object, level: int) -> list[Entry]:
        return child.entries if isinstance(child, Draft) else list(self._read(str(child), level, None).entries)

    def _child(self, node: Node, place: int) -> Node:
        first_key, name = node.entries[place]
        return self._read(str(name), node.level - 1, first_key)

    def _ascend(self, node: Node, start: str, end: str) -> Iterator[Entry]:
        """The entries from the key `start` on. A child that begins beyond `end` is not read."""
        place = bisect_right(node.keys, start) - 1
        if node.level == 0:
            yield from node.entries[place if place >= 0 and node.keys[place] == start else place + 1 :]
            return
        for child in range(max(place, 0), len(node.entries)):
            if node.keys[child] > end:
                return
            yield from self._ascend(self._child(node, child), start, end)

    def _descend(self, node: Node, end: str, start: str) -> Iterator[Entry]:
        """The entries before the key `end`, in descending order. A child that ends before `start` is not read."""
        for place in range(len(node.entries) - 1, -1, -1):
            if node.keys[place] >= end:
                continue
            if node.level == 0:
                yield node.entries[place]
                continue
            yield from self._descend(self._child(node, place), end, start)
            if node.keys[place] < start:  # what is before this child is so, too
                return


def _read_node(blobs: Blobs, name: str, level: int, first_key: str | None) -> Node:
    try:
        body = blobs.read("nodes", name)
    except NotFound as error:
        raise Corrupt(
            f"Node {name} of a map is gone", code=error_codes.MAP_NODE_MISSING, hint="Run `skyhold repair`"
        ) from error
    return decode_node(body, f"map node {name}", level=level, first_key=first_key)


def _below(changes: list[tuple[str, object | None]], end: str | None) -> list[tuple[str, object | None]]:
    """Take from the front of the sorted `changes` those whose key sorts before `end` (None: all)."""
    count = len(changes) if end is None else next((i for i, (key, _) in enumerate(changes) if key >= end), len(changes))
    taken = changes[:count]
    del changes[:count]
    return taken


def _check_entry(key: str, value: object | None) -> None:
    key_bytes, value_bytes = len(key.encode()), len(canonical(value))
    if not 1 <= key_bytes <= KEY_BYTES_MAX or value_bytes > VALUE_BYTES_MAX:
        raise InvalidInput(
            f"Entry {key[:80]!r} has a key of {key_bytes} and a value of {value_bytes} bytes; a map takes "
            f"{KEY_BYTES_MAX} and {VALUE_BYTES_MAX}",
            code=error_codes.MAP_ENTRY_SIZE,
            key=key,
        )
