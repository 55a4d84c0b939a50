"""The files of a stored version, for random access: places of their chunks, their tensors, ranges of bytes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import accumulate

from skyhold import error_codes
from skyhold.codec.tensors import Tensor
from skyhold.errors import Corrupt, InvalidInput, NotFound
from skyhold.storage.blobs import Blobs
from skyhold.storage.chunk_record import Place
from skyhold.storage.chunks import ChunkReader
from skyhold.storage.file_entry import FileEntry
from skyhold.storage.layout import LayoutHead, Page, Run, Tensors, decode_head, decode_page, decode_tensors


@dataclass(frozen=True, slots=True)
class ChunkAt:
    """A chunk of a file: its offset in the file, its place, and the place of its delta base, if it has one."""

    start: int
    place: Place
    base: Place | None


def chooser(patterns: Sequence[str], names: Collection[str]) -> Callable[[str], bool]:
    """Whether a name is chosen. A pattern that equals one of the `names` matches only that one, whatever brackets and
    stars it has (`params['k']`); any other is a glob."""
    exact = frozenset(patterns) & frozenset(names)
    globs = [pattern for pattern in patterns if pattern not in exact]
    return lambda name: name in exact or any(fnmatchcase(name, pattern) for pattern in globs)


class VersionFiles:
    """The files of one version through its layout. Pages are read when they are needed and a few are kept."""

    def __init__(self, blobs: Blobs, layout: str, version: str, files: Sequence[FileEntry]) -> None:
        self._blobs = blobs
        self._name = layout
        self.files = tuple(files)
        self.head: LayoutHead = decode_head(blobs.read("layouts", layout), layout)
        if self.head.version != version:
            raise Corrupt(
                f"Layout {layout} is not that of version {version[:10]}", code=error_codes.LAYOUT_DAMAGED, layout=layout
            )
        self._runs: dict[int, list[Run]] = {}
        for run in self.head.runs:
            self._runs.setdefault(run.file, []).append(run)
        self._check_runs()
        self._page = lru_cache(maxsize=4)(self._read_page)
        self._starts = lru_cache(maxsize=4)(self._starts_of)
        self._tensors: Tensors | None = None

    @property
    def tensors(self) -> Tensors:
        """Tensors by the path of their file, for files whose format names them."""
        if self._tensors is None:
            name = self.head.tensors
            self._tensors = {} if name is None else decode_tensors(self._blobs.read("tensors", name), name)
        return self._tensors

    def matching(self, include: Sequence[str]) -> list[int]:
        """Indices of the files whose paths match one of these globs, or of all. Raises `NotFound` where a glob matches
        none."""
        paths = {file.path for file in self.files}
        for pattern in include:
            if not any(map(chooser([pattern], paths), paths)):
                raise NotFound(
                    f"No file of the version matches `{pattern}`",
                    code=error_codes.FILE_NOT_FOUND,
                    hint="List them with `skyhold show`",
                    pattern=pattern,
                )
        chooses = chooser(include, paths)
        return [index for index, file in enumerate(self.files) if not include or chooses(file.path)]

    def index_of(self, path: str) -> int:
        """The index of the file of this very path. Raises `NotFound` code `file_not_found`."""
        paths = {file.path: index for index, file in enumerate(self.files)}
        if path in paths:
            return paths[path]
        close = get_close_matches(path, paths, n=1)
        raise NotFound(
            f"The version has no file {path}",
            code=error_codes.FILE_NOT_FOUND,
            hint=f"Did you mean `{close[0]}`?" if close else "List them with `skyhold show --files`",
            path=path,
        )

    def chunks(self, file: int) -> Iterator[ChunkAt]:
        """The chunks of a file in order. Raises `Corrupt` where they do not cover it exactly."""
        position = 0
        for run in self._runs.get(file, ()):
            if run.start != position:
                raise self._damaged()
            page, places = self._places(run)
            for place in places:
                yield ChunkAt(position, place, None if place.base_id is None else page.bases[place.base_id])
                position += place.raw_length
        if position != self.files[file].size_bytes:
            raise self._damaged()

    def chunk_from(self, file: int, start: int) -> ChunkAt | None:
        """The chunk that begins at `start` of a file, or None where none does."""
        runs = self._runs.get(file, ())
        number = bisect_right(runs, start, key=lambda run: run.start) - 1
        if number < 0:
            return None
        starts = self._starts(runs[number])
        index = bisect_left(starts, start)
        if index == len(starts) or starts[index] != start:
            return None
        page, places = self._places(runs[number])
        base_id = places[index].base_id
        return ChunkAt(start, places[index], None if base_id is None else page.bases[base_id])

    def _places(self, run: Run) -> tuple[Page, tuple[Place, ...]]:
        page = self._page(run.page)
        places = page.places[run.first : run.first + run.count]
        if len(places) != run.count:
            raise self._damaged()
        return page, places

    def _starts_of(self, run: Run) -> list[int]:
        lengths = (place.raw_length for place in self._places(run)[1][:-1])
        return list(accumulate(lengths, initial=run.start))

    def pack_ids(self) -> set[bytes]:
        """Ids of all packs that the version needs, those of delta bases included. Reads every page, and raises
        `Corrupt` where the runs do not cover the files exactly."""
        found: set[bytes] = set()
        for file in range(len(self.files)):
            for chunk in self.chunks(file):
                found.add(chunk.place.pack_id)
                if chunk.base is not None:
                    found.add(chunk.base.pack_id)
        return found

    def blobs(self) -> list[tuple[str, str]]:
        """Folder and name of the blobs that the layout consists of."""
        tensors = [] if self.head.tensors is None else [("tensors", self.head.tensors)]
        return [("layouts", self._name), *(("pages", name) for name in self.head.pages), *tensors]

    def _check_runs(self) -> None:
        """Raise `Corrupt` unless the runs, as far as the head shows, cover every file exactly and in order. (`chunks`
        checks the lengths, which are in the pages.)"""
        last = (-1, 0)
        for run in self.head.runs:
            follows = (run.file, run.start) > last and (run.file == last[0]) == (run.start > 0)
            if not follows or run.count == 0 or run.page > len(self.head.pages):
                raise self._damaged()
            last = (run.file, run.start)
        if self._runs.keys() != {index for index, file in enumerate(self.files) if file.size_bytes}:
            raise self._damaged()

    def _read_page(self, page: int) -> Page:
        if page == 0:
            return self.head.first_page
        name = self.head.pages[page - 1]
        return decode_page(self._blobs.read("pages", name), name)

    def _damaged(self) -> Corrupt:
        return Corrupt(
            f"Layout {self._name} is damaged: its runs do not cover the files",
            code=error_codes.LAYOUT_DAMAGED,
            layout=self._name,
        )


class StoredFile:
    """One file of a stored version, readable at any offset without fetching the rest."""

    def __init__(self, files: VersionFiles, index: int, reader: ChunkReader) -> None:
        entry = files.files[index]
        self.path, self.size_bytes, self.sha256 = entry.path, entry.size_bytes, entry.sha256
        self._reader = reader
        self._chunks = tuple(files.chunks(index))
        self._starts = [chunk.start for chunk in self._chunks]
        self._last: tuple[int, memoryview] | None = None
        self.tensors: tuple[Tensor, ...] | None = files.tensors.get(entry.path)

    def chunks(self) -> Sequence[tuple[int, int, bytes]]:
        """Start, length and id of each chunk, in order."""
        return [(chunk.start, chunk.place.raw_length, chunk.place.chunk_id) for chunk in self._chunks]

    def read(self, start: int, length: int) -> bytes:
        """The bytes `[start, start + length)`. Raises `InvalidInput` where they are not inside the file."""
        if start < 0 or length < 0 or start + length > self.size_bytes:
            raise InvalidInput(
                f"Bytes {start} to {start + length} are not inside {self.path} ({self.size_bytes} bytes)",
                code=error_codes.RANGE_NOT_SATISFIABLE,
            )
        if length == 0:
            return b""
        first = bisect_right(self._starts, start) - 1
        last = bisect_right(self._starts, start + length - 1) - 1
        chunks = self._decoded(first, last)
        skip = start - self._chunks[first].start
        if first == last:
            return bytes(chunks[0][skip : skip + length])
        rest = start + length - self._chunks[last].start
        return b"".join((chunks[0][skip:], *chunks[1:-1], chunks[-1][:rest]))

    def _decoded(self, first: int, last: int) -> list[memoryview]:
        """The chunks from `first` to `last`, in as few requests as may be; the last one is kept for the next read."""
        decoded = [] if self._last is None or self._last[0] != first else [self._last[1]]
        wanted = self._chunks[first + len(decoded) : last + 1]
        if not wanted:
            return decoded
        records = self._reader.fetch(
            place for chunk in wanted for place in (chunk.place, chunk.base) if place is not None
        )
        for chunk in wanted:
            base = None if chunk.base is None else self._reader.decode(chunk.base, records[chunk.base], None)
            decoded.append(self._reader.decode(chunk.place, records[chunk.place], base))
        self._last = (last, decoded[-1])
        return decoded
