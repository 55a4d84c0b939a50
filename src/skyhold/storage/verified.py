"""Which copies of an object that lies in the buckets already are verified (concepts.md, Durability).

A copy is verified where this machine wrote it, or read it back, and its stamp is still the one from then: nobody has
written to it since. All others are read back, as many as a policy needs; a copy whose stamp has changed always is. What
changes bytes without a write, a disk that forgets, has no stamp: so the copies that were checked longest ago are read
back again, a few by each push, and one that turns out damaged takes the trust from all of its bucket.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from skyhold.buckets.bucket import ObjectInfo
from skyhold.errors import Corrupt, NotFound, SkyholdError
from skyhold.storage.catalogue import Catalogue, KnownPack
from skyhold.storage.names import pack_id_of
from skyhold.storage.objects import ObjectChecker
from skyhold.storage.pack import Place
from skyhold.storage.replicas import Replicas
from skyhold.units import Buffer

SAMPLE_AGE_S: Final = 7 * 24 * 3600.0
"""A copy that was checked less long ago is not sampled."""
SAMPLED_SHARE: Final = 1 / 16
SAMPLES_MAX: Final = 4
"""Of the verified copies that a push relies on, this share is read back again, at most so many: 64 MiB of packs."""

Held = Mapping[str, Mapping[str, ObjectInfo]]
"""What listings say of each object, by key and by the name of the bucket."""


@dataclass(slots=True)
class Checked:
    """What was found of one object. `body` is that of an intact copy, where one was read, and `contents` what it says
    of itself. `misplaced`: this machine's catalogue said something else, and has been corrected. `contradictory`:
    copies that are sound in themselves contain different things, so that one of them was made up."""

    intact: set[str]
    damaged: set[str] = field(default_factory=set)
    body: Buffer | None = None
    contents: tuple[KnownPack, list[Place]] | None = None
    misplaced: bool = False
    contradictory: bool = False


class CopyCheck:
    """The copies of the packs that one push uses again. Thread-safe for different packs."""

    def __init__(self, replicas: Replicas, checker: ObjectChecker, catalogue: Catalogue, held: Held) -> None:
        self._replicas, self._checker, self._catalogue, self._held = replicas, checker, catalogue, held
        self._trusted: dict[str, set[str]] = {key: set() for key in held}
        self._suspected: dict[str, set[str]] = {key: set() for key in held}
        self._checked_s: dict[tuple[str, str], int] = {}
        self._placed = {key for key in held if catalogue.is_placed(_pack_id(key))}
        for name, bucket in replicas.buckets.items():
            here = [key for key, names in held.items() if name in names]
            for key, note in catalogue.copies(bucket.url, here).items():
                if note.stamp != held[key][name].stamp or not note.stamp:
                    self._suspected[key].add(name)
                elif key in self._placed:
                    self._trusted[key].add(name)
                    self._checked_s[key, name] = note.checked_s

    def sample(self, run: Callable[[Callable[[tuple[str, str]], None], Iterable[tuple[str, str]]], object]) -> None:
        """Read the copies back that were checked longest ago; `run` applies a function to each, several at once."""
        oldest_s = time.time() - SAMPLE_AGE_S
        due = sorted((checked_s, copy) for copy, checked_s in self._checked_s.items() if checked_s < oldest_s)
        count = min(SAMPLES_MAX, math.ceil(SAMPLED_SHARE * len(self._checked_s)))
        lost: set[str] = set()

        def read(copy: tuple[str, str]) -> None:
            key, name = copy
            found = Checked(set())
            self._read_back(key, name, found)
            if name in found.damaged:
                lost.add(name)
            elif name in found.intact:
                self._note(key, name)

        run(read, [copy for _, copy in due[:count]])
        for key, trusted in self._trusted.items():
            self._suspected[key] |= trusted & lost
            self._trusted[key] = trusted - lost

    def distrust(self, key: str) -> None:
        """Rely on no copy of this object before it has been read back."""
        self._suspected[key] |= self._held[key].keys()
        self._trusted[key].clear()

    def verify(self, key: str) -> Checked:
        """Find verified copies of a pack that are enough, and every damaged one among those that are suspected. Where
        too few are verified, all that hold it have been read back."""
        trusted = self._trusted[key]
        found = Checked(set(trusted))
        suspected = self._suspected[key]
        unknown = [name for name in self._replicas.buckets if name in self._held[key] and name not in trusted]
        for name in sorted(unknown, key=lambda name: name not in suspected):
            if name not in found.intact and (name in suspected or not self._replicas.enough(frozenset(found.intact))):
                self._read_back(key, name, found)
        if found.contents is not None and not found.contradictory:
            found.misplaced = not self._catalogue.confirm(*found.contents)
            for name in found.intact - trusted:
                self._note(key, name)
        return found

    def _read_back(self, key: str, name: str, found: Checked) -> None:
        checker = self._checker
        try:
            body = self._replicas.first(key, lambda bucket: checker.read_checked(bucket, key), only=[name])
        except (Corrupt, NotFound):
            found.damaged.add(name)
            return
        except SkyholdError:
            return  # it does not answer: neither intact nor damaged
        contents = checker.contents(key, body)
        if key in self._placed and not self._catalogue.says(*contents):
            found.damaged.add(name)  # sound in itself, but not what was written
        elif found.contents not in (None, contents):
            found.contradictory = True
        else:
            found.contents, found.body = contents, body
            found.intact |= {name, *self._same(key, body)}

    def _same(self, key: str, body: Buffer) -> list[str]:
        """The buckets that give the MD5 of this intact copy as that of their own, which need not be read then."""
        given = {name: info.md5 for name, info in self._held[key].items() if info.md5}
        digest = hashlib.md5(body, usedforsecurity=False).digest() if given else b""
        return [name for name, md5 in given.items() if md5 == digest]

    def _note(self, key: str, name: str) -> None:
        self._catalogue.note_copy(self._replicas.buckets[name].url, key, self._held[key][name].stamp)


def _pack_id(key: str) -> bytes:
    pack_id = pack_id_of(key)
    if pack_id is None:
        raise AssertionError(f"{key} is no pack")
    return pack_id
