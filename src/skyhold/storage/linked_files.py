"""Whole files that pulls have restored, kept in the local cache by a hard link: their chunks need no fetch and no
decoding, and they take no space until they are deleted elsewhere.

The user may write to such a file at any time, as it is one file by two names. So nothing in it is trusted: a chunk
taken from here is checked by its id, and one that is a delta's base by the id of what is made of it. Beside the links,
`<pack>.files` lists where chunks of that pack are in files. Stores that are sealed keep no file here: the cache of a
sealed store holds nothing in clear.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Final

from skyhold.storage.cache import CacheFolder
from skyhold.storage.chunk_record import Place
from skyhold.storage.own_files import open_own, read_own
from skyhold.storage.parts import Part
from skyhold.units import MIB

FILE_BYTES_MIN: Final = MIB
"""Smaller files are not worth a link: their records are cached with their pack."""

_ENTRY: Final = struct.Struct("<32s32sQI")
"""Of a chunk in a file: its id, the file's SHA-256, where it begins there, and its length."""

_PACKS_KNOWN_MAX: Final = 256
_LIST_BYTES_MAX: Final = 64 << 20


class LinkedFiles:
    """The files linked into a cache folder. `read` may be called from several threads, the rest from one."""

    def __init__(self, folder: CacheFolder, *, sealed: bool) -> None:
        self._folder = folder
        self._limit_bytes = 0 if sealed else folder.limit_bytes
        self._places = lru_cache(_PACKS_KNOWN_MAX)(self._read_places)

    def accepts(self, root: Path, size_bytes: int) -> bool:
        """Whether a file restored below `root` could be kept: large enough, and on the file system of the cache."""
        if not FILE_BYTES_MIN <= size_bytes <= self._limit_bytes:
            return False
        try:
            return root.stat().st_dev == self._folder.path.stat().st_dev
        except OSError:
            return False

    def read(self, place: Place) -> bytes | None:
        """The bytes of a file where the chunk of `place` was, unchecked; None where no file has it."""
        for digest, start, length in self._places(place.pack_id).get(place.chunk_id, ()):
            if length == place.raw_length:
                with contextlib.suppress(OSError):
                    descriptor = open_own(self._link(digest), os.O_RDONLY)
                    try:
                        found = read_exactly(descriptor, start, length)
                    finally:
                        os.close(descriptor)
                    if found is not None:
                        return found
        return None

    def has(self, place: Place) -> bool:
        """Whether some file may hold the chunk of `place`; only a read can confirm it."""
        return any(self._link(digest).exists() for digest, _, _ in self._places(place.pack_id).get(place.chunk_id, ()))

    def note(self, sha256: str, chunks: Iterable[tuple[int, Place]]) -> None:
        """Write down where chunks begin in a file that is to be kept."""
        digest = bytes.fromhex(sha256)
        by_pack: dict[bytes, bytearray] = {}
        for start, place in chunks:
            known = self._places(place.pack_id).setdefault(place.chunk_id, [])
            if (digest, start, place.raw_length) not in known:
                known.append((digest, start, place.raw_length))
                entry = _ENTRY.pack(place.chunk_id, *known[-1])
                by_pack.setdefault(place.pack_id, bytearray()).extend(entry)
        for pack_id, entries in by_pack.items():
            with contextlib.suppress(OSError):
                descriptor = open_own(self._list(pack_id), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                try:
                    os.write(descriptor, entries)
                finally:
                    os.close(descriptor)

    def keep(self, part: Part, sha256: str) -> None:
        """Link a whole file that was restored. Where that is not possible, it is not kept."""
        link = self._link(bytes.fromhex(sha256))
        with contextlib.suppress(OSError):
            link.unlink(missing_ok=True)  # written to, perhaps, under its other name
            os.link(part.name, link, src_dir_fd=part.folder, follow_symlinks=False)
            self._folder.has_grown(os.fstat(part.descriptor).st_size)

    def _read_places(self, pack_id: bytes) -> dict[bytes, list[tuple[bytes, int, int]]]:
        places: dict[bytes, list[tuple[bytes, int, int]]] = {}
        if not self._limit_bytes:
            return places
        with contextlib.suppress(OSError):
            data = read_own(self._list(pack_id), _LIST_BYTES_MAX)
            whole = len(data) // _ENTRY.size * _ENTRY.size  # another process may be writing the last one
            for chunk_id, digest, start, length in _ENTRY.iter_unpack(data[:whole]):
                places.setdefault(chunk_id, []).append((digest, start, length))
        return places

    def _link(self, digest: bytes) -> Path:
        return self._folder.path / f"{digest.hex()}.file"

    def _list(self, pack_id: bytes) -> Path:
        return self._folder.path / f"{pack_id.hex()}.files"


def read_exactly(descriptor: int, start: int, length: int) -> bytes | None:
    """Bytes of an open file, or None where it has fewer or cannot be read."""
    with contextlib.suppress(OSError):
        data = os.pread(descriptor, length, start)
        if len(data) == length:
            return data
    return None
