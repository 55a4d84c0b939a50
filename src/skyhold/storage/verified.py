"""Which copies of an object that is in the buckets already are verified (concepts.md, Durability).

A copy is verified if this machine wrote it, or read it back, and its stamp is unchanged: no client has written to it
since. Of all others as many are read back as a policy needs; a copy whose stamp has changed always is. Silent disk
damage changes no stamp: so each push reads back some of the copies that were checked longest ago, and if one is damaged
no copy in its bucket counts as verified any more.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from skyhold.errors import Corrupt, NotFound, SkyholdError
from skyhold.storage.chunk_index import ChunkIndex, CopyNote, KnownPack
from skyhold.storage.chunk_record import Place
from skyhold.storage.object_check import ObjectChecker
from skyhold.storage.object_keys import pack_id_of
from skyhold.storage.progress import Progress
from skyhold.storage.replicas import Replicas
from skyhold.units import Buffer

SAMPLE_AGE_S: Final = 7 * 24 * 3600.0
"""A copy that was checked less long ago is not sampled."""
SAMPLED_SHARE: Final = 1 / 16
SAMPLES_MAX: Final = 4
"""Of the verified copies that a push reuses, this share is read back again, at most so many: 64 MiB of packs."""

READ_BACK_NOTED: Final = SAMPLES_MAX + 1
"""A push that reads back so many packs, more than a sample, reports it."""

Copy = tuple[str, str]
"""The key of an object and the name of a bucket."""


class Listed(NamedTuple):
    """What a listing gives of a copy, see `ObjectInfo`. A push keeps one for each copy of each pack that it reuses."""

    stamp: str
    md5: bytes


Held = Mapping[str, Mapping[str, Listed]]
"""The copies of each object, by key and by the name of the bucket."""


@dataclass(slots=True)
class Checked:
    """The result of checking one object. `body` is that of an intact copy, where one was read, and `contents` what it
    lists. `misplaced`: this machine's chunk index had other entries, and has been corrected. `contradictory`: copies
    that are sound in themselves contain different things, so that one of them was forged."""

    intact: set[str]
    damaged: set[str] = field(default_factory=set)
    body: Buffer | None = None
    contents: tuple[KnownPack, list[Place]] | None = None
    misplaced: bool = False
    contradictory: bool = False


class CopyCheck:
    """The copies of the packs that one push uses again. Thread-safe for different packs."""

    def __init__(
        self, replicas: Replicas, checker: ObjectChecker, chunk_index: ChunkIndex, held: Held, progress: Progress
    ) -> None:
        self._replicas, self._checker, self._chunk_index, self._held = replicas, checker, chunk_index, held
        self._progress = progress
        self._distrusted: set[str] = set()
        self._read_back_count = itertools.count(1)

    def sample(self, run: Callable[[Callable[[Copy], None], Iterable[Copy]], object]) -> None:
        """Read the copies back that were checked longest ago; `run` applies a function to each, several at once."""
        oldest_s = time.time() - SAMPLE_AGE_S
        relied_on = 0

        def due() -> Iterator[tuple[int, Copy]]:
            nonlocal relied_on
            for key, held in self._held.items():
                for name, note in self._notes(key).items():
                    relied_on += 1
                    if note.checked_s < oldest_s and note.stamp == held[name].stamp:
                        yield note.checked_s, (key, name)

        def read(copy: Copy) -> None:
            key, name = copy
            found = Checked(set())
            self._read_back(key, name, found)
            if name in found.damaged:
                self._distrusted.add(name)
            elif name in found.intact:
                self._note(key, name)

        oldest = heapq.nsmallest(SAMPLES_MAX, due())
        run(read, [copy for _, copy in oldest[: math.ceil(SAMPLED_SHARE * relied_on)]])

    def verify(self, key: str, *, anew: bool = False) -> Checked:
        """Find enough verified copies of a pack, and every damaged one among the suspect copies. If too few are
        verified, all copies are read back; with `anew`, in any case."""
        held, notes = self._held[key], self._notes(key)
        suspected = {
            name
            for name in held
            if anew or name in self._distrusted or (name in notes and notes[name].stamp != held[name].stamp)
        }
        trusted = notes.keys() - suspected if self._chunk_index.is_placed(_pack_id(key)) else set()
        found = Checked(set(trusted))
        unknown = [name for name in self._replicas.buckets if name in held and name not in trusted]
        for name in sorted(unknown, key=lambda name: name not in suspected):
            if name not in found.intact and (name in suspected or not self._replicas.enough(frozenset(found.intact))):
                self._read_back(key, name, found)
        if found.contents is not None and not found.contradictory:
            found.misplaced = not self._chunk_index.confirm(*found.contents)
            for name in found.intact - trusted:
                self._note(key, name)
        return found

    def _notes(self, key: str) -> dict[str, CopyNote]:
        """The notes of the copies of a pack, by the name of the bucket, as far as the bucket holds it."""
        notes = self._chunk_index.copies(key)
        urls = {name: self._replicas.buckets[name].url for name in self._held[key]}
        return {name: notes[url] for name, url in urls.items() if url in notes}

    def _read_back(self, key: str, name: str, found: Checked) -> None:
        checker = self._checker
        try:
            body = self._replicas.first(key, lambda bucket: checker.read_checked(bucket, key), only=[name])
        except (Corrupt, NotFound):
            found.damaged.add(name)
            return
        except SkyholdError:
            return  # it does not answer: neither intact nor damaged
        if next(self._read_back_count) == READ_BACK_NOTED:
            self._progress.note("Packs that this machine has not verified yet are read back; this happens once")
        contents = checker.contents(key, body)
        if self._chunk_index.is_placed(_pack_id(key)) and not self._chunk_index.agrees(*contents):
            found.damaged.add(name)  # sound in itself, but not what was written
        elif found.contents not in (None, contents):
            found.contradictory = True
        else:
            found.contents, found.body = contents, body
            found.intact |= {name, *self._same(key, body)}

    def _same(self, key: str, body: Buffer) -> list[str]:
        """The buckets whose listings give the same MD5 as this intact copy: their copies need not be read."""
        given = {name: info.md5 for name, info in self._held[key].items() if info.md5}
        digest = hashlib.md5(body, usedforsecurity=False).digest() if given else b""
        return [name for name, md5 in given.items() if md5 == digest]

    def _note(self, key: str, name: str) -> None:
        self._chunk_index.note_copy(self._replicas.buckets[name].url, key, self._held[key][name].stamp)


class LateNotes:
    """Notes copies of packs in a chunk index that is opened for the first one: most operations have none. Of blobs
    nothing is noted: they are read back."""

    def __init__(self, chunk_index: Callable[[], ChunkIndex]) -> None:
        self._chunk_index = chunk_index

    def note_copy(self, bucket: str, key: str, stamp: str) -> None:
        if pack_id_of(key) is not None:
            self._chunk_index().note_copy(bucket, key, stamp)

    def doubt(self, key: str) -> None:
        if pack_id_of(key) is not None:
            self._chunk_index().doubt(key)


def _pack_id(key: str) -> bytes:
    pack_id = pack_id_of(key)
    if pack_id is None:
        raise AssertionError(f"{key} is no pack")
    return pack_id
