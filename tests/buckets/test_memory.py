"""The in-memory model passes the conformance suite."""

from __future__ import annotations

import uuid

import pytest

from skyhold.buckets.location import BucketLocation, parse_location
from tests.buckets.conformance import BucketConformance


class TestMemory(BucketConformance):
    @pytest.fixture
    def location(self) -> BucketLocation:
        return parse_location(f"memory://{uuid.uuid4().hex}")
