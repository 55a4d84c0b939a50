"""Folders pass the conformance suite, and keep their own promises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from skyhold.buckets.location import BucketLocation, parse_location
from skyhold.buckets.open import create_bucket
from tests.buckets.conformance import BucketConformance


class TestFolderBucket(BucketConformance):
    @pytest.fixture
    def location(self, tmp_path: Path) -> BucketLocation:
        location = parse_location(str(tmp_path / "cloud"))
        create_bucket(location)
        return location

    @pytest.fixture(params=["absent", "empty"])
    def gone(self, location: BucketLocation, tmp_path: Path, request: pytest.FixtureRequest) -> BucketLocation:
        if request.param == "empty":
            (tmp_path / "other").mkdir()
        return replace(location, url=(tmp_path / "other").as_uri())
