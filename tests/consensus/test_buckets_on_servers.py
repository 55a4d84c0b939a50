"""The bucket engine on three kinds of real servers at once: voters that speak S3, Azure and Google Cloud Storage."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator

import pytest

from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import parse_location
from skyhold.buckets.open import open_bucket
from skyhold.consensus.register import Registers, Versioned
from skyhold.errors import Conflict
from tests import servers
from tests.buckets.places import CONTAINER
from tests.consensus.conformance import KEY, RegistersConformance
from tests.consensus.fixtures import bucket_registers


def open_clouds(monkeypatch: pytest.MonkeyPatch) -> list[Bucket]:
    s3, azure = servers.versitygw().with_bucket(CONTAINER), servers.azurite().with_bucket(CONTAINER)
    google = servers.fake_gcs_server().with_bucket(CONTAINER)
    monkeypatch.setenv("RIGHT_ACCESS_KEY_ID", servers.ACCESS_KEY)
    monkeypatch.setenv("RIGHT_SECRET_ACCESS_KEY", servers.SECRET_KEY)
    monkeypatch.setenv("AZURITE_ACCOUNT_KEY", servers.AZURITE_KEY)
    account, prefix = servers.AZURITE_ACCOUNT, secrets.token_hex(8)
    locations = [
        parse_location(f"s3://{CONTAINER}/{prefix}", endpoint=s3.url, credentials="env:RIGHT", name="s3"),
        parse_location(
            f"az://{account}/{CONTAINER}/{prefix}",
            endpoint=f"{azure.url}/{account}",
            credentials="env:AZURITE",
            name="azure",
        ),
        parse_location(f"gs://{CONTAINER}/{prefix}", endpoint=google.url, name="google"),
    ]
    return [open_bucket(location) for location in locations]


class TestBucketRegistersOnThreeClouds(RegistersConformance):
    @pytest.fixture
    def registers(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registers]:  # type: ignore[override]
        registers = bucket_registers(open_clouds(monkeypatch))
        yield registers
        registers.close()


def test_proposers_that_race_over_three_clouds_lose_no_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is an engine of its own, as another machine would have it: only the clouds are between them."""
    clouds = open_clouds(monkeypatch)
    increments, failed = 6, []

    def race(racer: int) -> None:
        registers = bucket_registers(clouds)
        try:
            for increment in range(increments):
                while True:
                    current = registers.read(KEY)
                    version, count = (current.version, int(current.data)) if current else (0, 0)
                    try:
                        registers.compare_and_set(KEY, version, b"%d" % (count + 1), f"{racer}-{increment}")
                        break
                    except Conflict:
                        pass
        except Exception as error:  # noqa: BLE001 - compared below
            failed.append(error)

    racers = [threading.Thread(target=race, args=(racer,)) for racer in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(120)
    assert failed == []
    assert bucket_registers(clouds).read(KEY) == Versioned(3 * increments, b"%d" % (3 * increments))
