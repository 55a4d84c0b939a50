"""A real S3 server is checked and admitted; credentials that it does not know are told from missing rights."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from skyhold.buckets.check import check_bucket
from skyhold.buckets.location import BucketLocation, parse_location, with_credentials
from skyhold.buckets.open import open_bucket
from tests.buckets.emulators import versitygw
from tests.buckets.real_store import RealStore


class TestRealS3(RealStore):
    @pytest.fixture(scope="class")
    def endpoint(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        folder = tmp_path_factory.mktemp("versitygw")
        (folder / "models").mkdir()
        with versitygw(folder, "user", "password") as url:
            yield url

    @pytest.fixture(autouse=True)
    def _credentials(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, key in (("LAB", "password"), ("WRONG", "another")):
            monkeypatch.setenv(f"{name}_ACCESS_KEY_ID", "user")
            monkeypatch.setenv(f"{name}_SECRET_ACCESS_KEY", key)

    @pytest.fixture
    def location(self, endpoint: str) -> BucketLocation:
        return parse_location(f"s3://models/{secrets.token_hex(4)}/team", endpoint=endpoint, credentials="env:LAB")

    @pytest.fixture
    def missing(self, endpoint: str) -> BucketLocation:
        return parse_location("s3://missing", endpoint=endpoint, credentials="env:LAB")

    def test_wrong_credentials_are_reported_and_no_right_is_called_missing(self, location: BucketLocation) -> None:
        wrong = with_credentials(location, "env:WRONG")
        report = check_bucket(open_bucket(wrong), wrong)
        assert report.reachable
        assert not any(trial.works for trial in report.trials)
        assert report.missing_rights == ()
