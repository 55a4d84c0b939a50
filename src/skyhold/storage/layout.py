"""Layouts: where the bytes of a version's files lie (format.md, 7). No I/O here."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import rfc8785

from skyhold.codec.tensors import Tensor
from skyhold.errors import Corrupt
from skyhold.storage.pack import CHUNK_BYTES_MAX, STORED_BYTES_OVER_RAW_MAX, Place
from skyhold.units import MIB

Buffer = bytes | bytearray | memoryview

PAGE_BYTES_MAX: Final = MIB

_COUNTS: Final = struct.Struct("<IIII")
_RUN: Final = struct.Struct("<IIQ")
_PLACE: Final = struct.Struct("<32sIIIIIB3x")
_NO_BASE: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive chunks of one file: `file` is its index in the version document, `start` the offset in it in bytes."""

    file: int
    start: int
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """Runs, and the places of the delta bases that their chunks name."""

    runs: tuple[Run, ...]
    bases: dict[bytes, Place]


@dataclass(frozen=True, slots=True)
class LayoutHead:
    """The head of a layout; `first` is its first page, `pages` names the blobs of the others."""

    version: str
    placement_class: str
    pages: tuple[str, ...]
    tensors: dict[str, tuple[Tensor, ...]]
    first: Page


@dataclass(slots=True)
class PageBuilder:
    """Collects places in file order until a page is full."""

    _packs: dict[bytes, int] = field(default_factory=dict)
    _runs: list[list[int]] = field(default_factory=list)
    _chunks: list[bytes] = field(default_factory=list)
    _bases: dict[bytes, int] = field(default_factory=dict)
    _base_places: list[bytes] = field(default_factory=list)

    def full(self) -> bool:
        """Whether one more chunk, with a new base, new packs and a new run, might pass the limit of a page."""
        return self._size_bytes() + 2 * _PLACE.size + 2 * 16 + _RUN.size > PAGE_BYTES_MAX

    def append(self, file: int, start: int, place: Place, base: Place | None) -> None:
        """Add the chunk of `file` that begins at `start`; `base` is where its delta base lies."""
        if not self._runs or self._runs[-1][0] != file:
            self._runs.append([file, 0, start])
        self._runs[-1][1] += 1
        base_index = _NO_BASE
        if base is not None:
            if base.chunk_id not in self._bases:
                self._bases[base.chunk_id] = len(self._base_places)
                self._base_places.append(self._encode(base, _NO_BASE))
            base_index = self._bases[base.chunk_id]
        self._chunks.append(self._encode(place, base_index))

    def finish(self) -> bytes:
        return b"".join(
            (
                _COUNTS.pack(len(self._packs), len(self._runs), len(self._chunks), len(self._base_places)),
                *self._packs,
                *(_RUN.pack(*run) for run in self._runs),
                *self._chunks,
                *self._base_places,
            )
        )

    def _size_bytes(self) -> int:
        places = len(self._chunks) + len(self._base_places)
        return _COUNTS.size + 16 * len(self._packs) + _RUN.size * len(self._runs) + _PLACE.size * places

    def _encode(self, place: Place, base_index: int) -> bytes:
        pack = self._packs.setdefault(place.pack_id, len(self._packs))
        return _PLACE.pack(
            place.chunk_id, pack, place.offset, place.stored_length, place.raw_length, base_index, place.codec
        )


def encode_head(
    version: str, placement_class: str, pages: Sequence[str], tensors: dict[str, tuple[Tensor, ...]], first_page: bytes
) -> bytes:
    """The body of a layout's head."""
    listed: dict[str, list[list[object]]] = {
        path: [[t.name, t.dtype, list(t.shape), t.start, t.end] for t in found] for path, found in tensors.items()
    }
    fields = {"layout": 1, "version": version, "class": placement_class, "pages": list(pages), "tensors": listed}
    document = rfc8785.dumps(fields)  # type: ignore[arg-type]
    return struct.pack("<I", len(document)) + document + first_page


def decode_head(body: Buffer, name: str) -> LayoutHead:
    """The head in `body`. Raises `Corrupt` naming the layout."""
    try:
        view = memoryview(body)
        (length,) = struct.unpack_from("<I", view)
        document = json.loads(bytes(view[4 : 4 + length]))
        if document["layout"] != 1:
            raise ValueError("unknown kind of layout")  # noqa: TRY301
        tensors = {
            path: tuple(Tensor(n, dtype, tuple(shape), start, end) for n, dtype, shape, start, end in found)
            for path, found in document["tensors"].items()
        }
        first = decode_page(view[4 + length :], name)
        return LayoutHead(document["version"], document["class"], tuple(document["pages"]), tensors, first)
    except (ValueError, KeyError, TypeError, struct.error, AttributeError) as error:
        raise _damaged(name, str(error)) from error


def decode_page(body: Buffer, name: str) -> Page:
    """The page in `body`. Raises `Corrupt` naming the layout where it is not one, or a place in it cannot be."""
    view = memoryview(body)
    try:
        packs_count, runs_count, chunks_count, bases_count = _COUNTS.unpack_from(view)
        at = _COUNTS.size
        expected = at + 16 * packs_count + _RUN.size * runs_count + _PLACE.size * (chunks_count + bases_count)
        if expected != len(view):
            raise ValueError("its counts do not fit its length")  # noqa: TRY301
        packs = [bytes(view[at + 16 * i : at + 16 * i + 16]) for i in range(packs_count)]
        at += 16 * packs_count
        runs = list(_RUN.iter_unpack(view[at : at + _RUN.size * runs_count]))
        at += _RUN.size * runs_count
        chunks = view[at : at + _PLACE.size * chunks_count]
        bases = [_decode_place(fields, packs, None) for fields in _PLACE.iter_unpack(view[at + len(chunks) :])]
        places = iter(_PLACE.iter_unpack(chunks))
        decoded = tuple(
            Run(file, start, tuple(_decode_place(next(places), packs, bases) for _ in range(count)))
            for file, count, start in runs
        )
        if next(places, None) is not None:
            raise ValueError("it holds chunks of no run")  # noqa: TRY301
    except (ValueError, IndexError, StopIteration, RuntimeError, struct.error) as error:
        raise _damaged(name, str(error)) from error
    return Page(decoded, {base.chunk_id: base for base in bases})


def _decode_place(
    fields: tuple[bytes, int, int, int, int, int, int], packs: list[bytes], bases: list[Place] | None
) -> Place:
    chunk_id, pack, offset, stored_length, raw_length, base_index, codec = fields
    if not 0 < raw_length <= CHUNK_BYTES_MAX or stored_length > raw_length + STORED_BYTES_OVER_RAW_MAX:
        raise ValueError("a place in it has lengths that cannot be")
    if (base_index != _NO_BASE) and bases is None:
        raise ValueError("a delta base in it is itself a delta")
    base_id = None if base_index == _NO_BASE or bases is None else bases[base_index].chunk_id
    return Place(chunk_id, packs[pack], offset, stored_length, raw_length, codec, base_id)


def check_coverage(runs: Iterator[Run], sizes: Sequence[int], name: str) -> None:
    """Raise `Corrupt` unless the runs cover every file (of `sizes` bytes) exactly, in order, without gap."""
    ends = [0] * len(sizes)
    for run in runs:
        if run.file >= len(sizes) or run.start != ends[run.file]:
            raise _damaged(name, "its runs leave a gap or overlap")
        ends[run.file] += sum(place.raw_length for place in run.places)
    if ends != list(sizes):
        raise _damaged(name, "its runs do not cover the files")


def _damaged(name: str, why: str) -> Corrupt:
    return Corrupt(f"Layout {name} is damaged: {why}", code="layout_damaged", hint="Run `skyhold repair`", layout=name)
