"""Layouts: where the bytes of a version's files are (format.md, 7). No I/O here."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import rfc8785

from skyhold import error_codes
from skyhold.codec.tensors import Tensor
from skyhold.errors import Corrupt
from skyhold.storage.chunk_record import PackRef, Place, check_lengths
from skyhold.units import MIB, Buffer

Tensors = dict[str, tuple[Tensor, ...]]

PAGE_BYTES_MAX: Final = MIB

_PACK_BYTES: Final = 32
_COUNTS: Final = struct.Struct("<III")
_RUN: Final = struct.Struct("<IIIIQ")
_PLACE: Final = struct.Struct("<32sIIIIIB3x")
_NO_BASE: Final = 0xFFFFFFFF
_MALFORMED: Final = (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, struct.error)


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive chunks of one file: `file` is its index in the version document, `start` the offset in bytes."""

    file: int
    page: int
    first: int
    count: int
    start: int


@dataclass(frozen=True, slots=True)
class Page:
    """Places of chunks, and the places of their delta bases by id."""

    places: tuple[Place, ...]
    bases: dict[bytes, Place]


@dataclass(frozen=True, slots=True)
class LayoutHead:
    """The head of a layout; `first_page` is page 0, `pages` names the blobs of the others."""

    version: str
    placement_class: str
    runs: tuple[Run, ...]
    pages: tuple[str, ...]
    tensors: str | None
    first_page: Page


@dataclass(slots=True)
class PageBuilder:
    """Collects places until a page is full."""

    chunks: list[bytes] = field(default_factory=list)
    _packs: dict[PackRef, int] = field(default_factory=dict)
    _bases: dict[bytes, int] = field(default_factory=dict)
    _base_places: list[bytes] = field(default_factory=list)

    def full(self) -> bool:
        """Whether one more chunk, with a new base and new packs, might pass the limit of a page."""
        places = len(self.chunks) + len(self._base_places) + 2
        return _COUNTS.size + _PACK_BYTES * (len(self._packs) + 2) + _PLACE.size * places > PAGE_BYTES_MAX

    def append(self, place: Place, base: Place | None) -> None:
        """Add a chunk; `base` is the place of its delta base."""
        base_index = _NO_BASE
        if base is not None:
            if base.chunk_id not in self._bases:
                self._bases[base.chunk_id] = len(self._base_places)
                self._base_places.append(self._encode(base, _NO_BASE))
            base_index = self._bases[base.chunk_id]
        self.chunks.append(self._encode(place, base_index))

    def finish(self) -> bytes:
        """The body of the page."""
        counts = _COUNTS.pack(len(self._packs), len(self.chunks), len(self._base_places))
        packs = (pack.pack_id + pack.salt for pack in self._packs)
        return b"".join((counts, *packs, *self.chunks, *self._base_places))

    def _encode(self, place: Place, base_index: int) -> bytes:
        check_lengths(place.raw_length, place.stored_length)
        pack = self._packs.setdefault(place.pack, len(self._packs))
        return _PLACE.pack(
            place.chunk_id, pack, place.offset, place.stored_length, place.raw_length, base_index, place.codec
        )


def encode_head(
    version: str,
    placement_class: str,
    runs: Sequence[Run],
    pages: Sequence[str],
    tensors: str | None,
    first_page: bytes,
) -> bytes:
    """The body of a layout's head."""
    fields: dict[str, object] = {
        "layout": 1,
        "version": version,
        "class": placement_class,
        "runs": len(runs),
        "pages": list(pages),
    }
    if tensors is not None:
        fields["tensors"] = tensors
    document = rfc8785.dumps(fields)  # type: ignore[arg-type]
    packed = (_RUN.pack(run.file, run.page, run.first, run.count, run.start) for run in runs)
    return b"".join((struct.pack("<I", len(document)), document, *packed, first_page))


def decode_head(body: Buffer, name: str) -> LayoutHead:
    """The head in `body`. Raises `Corrupt` naming the layout."""
    try:
        view = memoryview(body)
        (length,) = struct.unpack_from("<I", view)
        document = json.loads(bytes(view[4 : 4 + length]))
        if document["layout"] != 1:
            raise ValueError("unknown kind of layout")
        at = 4 + length
        end = at + _RUN.size * document["runs"]
        runs = tuple(Run(*fields) for fields in _RUN.iter_unpack(view[at:end]))
        return LayoutHead(
            document["version"], document["class"], runs, tuple(document["pages"]), document.get("tensors"),
            decode_page(view[end:], name),
        )  # fmt: skip
    except _MALFORMED as error:
        raise _damaged(name, str(error)) from error


def encode_tensors(tensors: Tensors) -> bytes:
    """The body of a `tensors` blob."""
    listed: dict[str, list[list[object]]] = {
        path: [[t.name, t.dtype, list(t.shape), t.start, t.end] for t in found] for path, found in tensors.items()
    }
    return rfc8785.dumps(listed)  # type: ignore[arg-type]


def decode_tensors(body: bytes, name: str) -> Tensors:
    """The tensors in `body`. Raises `Corrupt`."""
    try:
        return {
            path: tuple(Tensor(n, dtype, tuple(shape), start, end) for n, dtype, shape, start, end in found)
            for path, found in json.loads(body).items()
        }
    except _MALFORMED as error:
        raise _damaged(name, str(error)) from error


def decode_page(body: Buffer, name: str) -> Page:
    """The page in `body`. Raises `Corrupt` naming the layout where it is not one, or a place in it cannot be."""
    view = memoryview(body)
    try:
        if len(view) > PAGE_BYTES_MAX:
            raise ValueError("a page in it is too long")
        packs_count, chunks_count, bases_count = _COUNTS.unpack_from(view)
        at = _COUNTS.size + _PACK_BYTES * packs_count
        if at + _PLACE.size * (chunks_count + bases_count) != len(view):
            raise ValueError("its counts do not fit its length")
        packs = [
            PackRef(bytes(view[i : i + 16]), bytes(view[i + 16 : i + _PACK_BYTES]))
            for i in range(_COUNTS.size, at, _PACK_BYTES)
        ]
        split = at + _PLACE.size * chunks_count
        bases = [_decode_place(fields, packs, []) for fields in _PLACE.iter_unpack(view[split:])]
        places = tuple(_decode_place(fields, packs, bases) for fields in _PLACE.iter_unpack(view[at:split]))
    except _MALFORMED as error:
        raise _damaged(name, str(error)) from error
    return Page(places, {base.chunk_id: base for base in bases})


def _decode_place(
    fields: tuple[bytes, int, int, int, int, int, int], packs: list[PackRef], bases: list[Place]
) -> Place:
    chunk_id, pack, offset, stored_length, raw_length, base_index, codec = fields
    check_lengths(raw_length, stored_length)
    base_id = None if base_index == _NO_BASE else bases[base_index].chunk_id
    return Place(chunk_id, packs[pack], offset, stored_length, raw_length, codec, base_id)


def _damaged(name: str, why: str) -> Corrupt:
    return Corrupt(
        f"Layout {name} is damaged: {why}", code=error_codes.LAYOUT_DAMAGED, hint="Run `skyhold repair`", layout=name
    )
