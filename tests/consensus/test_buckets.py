from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from skyhold.buckets.location import parse_location
from skyhold.buckets.open import create_bucket, open_bucket
from skyhold.consensus.register import Registers
from tests.consensus.conformance import RegistersConformance
from tests.consensus.fixtures import bucket_registers, new_buckets


class TestBucketRegistersOnOneVoter(RegistersConformance):
    @pytest.fixture
    def registers(self) -> Iterator[Registers]:  # type: ignore[override]
        with_one = bucket_registers(new_buckets(1))
        yield with_one
        with_one.close()


class TestBucketRegistersOnThreeVoters(RegistersConformance):
    @pytest.fixture
    def registers(self) -> Iterator[Registers]:  # type: ignore[override]
        registers = bucket_registers(new_buckets(3))
        yield registers
        registers.close()


class TestBucketRegistersOnFiveVoters(RegistersConformance):
    @pytest.fixture
    def registers(self) -> Iterator[Registers]:  # type: ignore[override]
        registers = bucket_registers(new_buckets(5))
        yield registers
        registers.close()


class TestBucketRegistersOnFolders(RegistersConformance):
    @pytest.fixture
    def registers(self, tmp_path: Path) -> Iterator[Registers]:  # type: ignore[override]
        locations = [parse_location(str(tmp_path / f"cloud-{n}"), name=f"cloud-{n}") for n in range(3)]
        for location in locations:
            create_bucket(location)
        registers = bucket_registers([open_bucket(location) for location in locations])
        yield registers
        registers.close()
