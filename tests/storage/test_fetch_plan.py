"""A pull cuts what it restores into loads and batches of bounded size, in order, and loses no chunk."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from skyhold.storage.fetch_plan import BATCH_BYTES, BATCH_CHUNKS_MAX, FILES_MAX, LOAD_BYTES, loads
from skyhold.storage.targets import Target
from skyhold.storage.version_files import VersionFiles
from skyhold.units import KIB, MIB


@dataclass(frozen=True)
class FakePlace:
    raw_length: int


@dataclass(frozen=True)
class FakeChunk:
    start: int
    place: FakePlace


@dataclass(frozen=True)
class FakeFile:
    name: int
    chunks: tuple[FakeChunk, ...]

    @property
    def size_bytes(self) -> int:
        return sum(chunk.place.raw_length for chunk in self.chunks)


@dataclass(frozen=True)
class FakeVersion:
    files: tuple[FakeFile, ...]

    def chunks(self, index: int) -> tuple[FakeChunk, ...]:
        return self.files[index].chunks


def version_of(lengths: list[list[int]]) -> FakeVersion:
    return FakeVersion(
        tuple(
            FakeFile(name, tuple(map(FakeChunk, accumulate(file, initial=0), map(FakePlace, file))))
            for name, file in enumerate(lengths)
        )
    )


sizes = st.sampled_from([1, 4 * KIB, 300 * KIB, MIB, MIB + 5, BATCH_BYTES])
versions = st.lists(st.lists(sizes, max_size=40), max_size=40).map(version_of)


@given(versions)
def test_every_chunk_comes_once_in_order_and_every_file_ends_once(version: FakeVersion) -> None:
    begun: list[FakeFile] = []

    def begin(file: object) -> Target:
        begun.append(cast(FakeFile, file))
        return cast(Target, file)

    indices = range(len(version.files))
    found = list(loads(cast(VersionFiles, version), indices, begin))
    batches = [batch for load in found for batch in load]
    assert begun == list(version.files)
    assert [pair for batch in batches for pair in batch.chunks] == [
        (file, chunk) for file in version.files for chunk in file.chunks
    ]
    assert [target for batch in batches for target in batch.last_of] == list(version.files)
    for batch in batches:
        assert batch.length == sum(chunk.place.raw_length for _, chunk in batch.chunks) <= BATCH_BYTES
        assert len(batch.chunks) <= BATCH_CHUNKS_MAX
    for load in found:
        assert sum(batch.length for batch in load) <= LOAD_BYTES
        assert sum(len(batch.last_of) for batch in load) <= FILES_MAX


def test_loads_are_small_at_first_and_at_the_end() -> None:
    version = version_of([[MIB] * 300])
    found = loads(cast(VersionFiles, version), [0], lambda file: cast(Target, file))
    lengths = [sum(batch.length for batch in load) // MIB for load in found]
    assert lengths[:3] == [4, 8, 12]
    assert lengths[-3:] == [4, 4, 4]
    assert max(lengths) == 12
