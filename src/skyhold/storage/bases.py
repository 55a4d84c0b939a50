"""Finding the delta base of a chunk: the same bytes of the tensor of the same name in an earlier version."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Final

from skyhold.codec.tensors import Tensor
from skyhold.storage.chunk_record import Place
from skyhold.storage.chunks import ChunkReader
from skyhold.storage.version_files import VersionFiles
from skyhold.units import Buffer

_KEPT_BYTES: Final = 8 << 20
_AHEAD_BYTES: Final = 4 << 20

TensorKey = tuple[str, str, tuple[int, ...]]


class DeltaBases:
    """Delta bases in the versions given, the nearest first. Thread-safe.

    Tensors match by name, dtype and all dimensions but the first, so that a vocabulary that grew still matches; shards
    do not matter. A base is always a chunk stored whole: where the earlier version holds a delta, the base of that
    delta is used again.
    """

    def __init__(self, versions: Sequence[VersionFiles], placement_class: str, reader: ChunkReader) -> None:
        self._reader = reader
        self._tensors: dict[TensorKey, tuple[VersionFiles, int, Tensor]] = {}
        self._records: OrderedDict[Place, Buffer] = OrderedDict()
        self._lock = Lock()
        self._fetching = Lock()
        for version in versions:
            if version.head.placement_class != placement_class:
                continue  # a delta must not reach into another class, whose buckets may be forbidden to this one
            indices = {entry.path: index for index, entry in enumerate(version.files)}
            for path, tensors in version.tensors.items():
                for tensor in tensors:
                    self._tensors.setdefault(_key(tensor), (version, indices[path], tensor))

    def find(self, tensor: Tensor, offset: int, length: int) -> Place | None:
        """The place of the base for the `length` bytes at `offset` of a tensor, or None."""
        found = self._tensors.get(_key(tensor))
        if found is None:
            return None
        version, file, base_tensor = found
        chunk = version.chunk_from(file, base_tensor.start + offset)
        if chunk is None:
            return None
        place = chunk.base or chunk.place
        return place if place.raw_length == length and place.base_id is None else None

    def read(self, place: Place, following: Sequence[Place], out: memoryview) -> memoryview:
        """The chunk at `place`, in `out`; the records of `following`, which come next, are fetched along with it."""
        record = self._taken(place)
        if record is None:
            with self._fetching:  # one thread fetches ahead; the others use what it fetched
                record = self._taken(place) or self._fetch(place, following)
        return self._reader.decode(place, record, None, out)

    def _taken(self, place: Place) -> Buffer | None:
        with self._lock:
            return self._records.pop(place, None)

    def _fetch(self, place: Place, following: Sequence[Place]) -> Buffer:
        fetched = self._reader.fetch([place, *following])
        record = fetched.pop(place)
        with self._lock:
            self._records.update(fetched)
            while sum(kept.record_length for kept in self._records) > _KEPT_BYTES:
                self._records.popitem(last=False)
        return record

    def following(self, tensor: Tensor, offset: int, length: int) -> list[Place]:
        """Bases of the bytes after `offset` of the same tensor, as far as one request may usefully reach."""
        ahead = []
        end, total = tensor.end - tensor.start, 0
        while offset < end and total < _AHEAD_BYTES:
            place = self.find(tensor, offset, min(length, end - offset))
            if place is None:
                break
            ahead.append(place)
            total += place.record_length
            offset += length
        return ahead


def _key(tensor: Tensor) -> TensorKey:
    return tensor.name, tensor.dtype, tensor.shape[1:]
