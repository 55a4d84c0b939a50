"""The registers of a membership as one machine reaches it."""

from __future__ import annotations

from pathlib import Path

import pytest

import skyhold
from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.open import open_bucket
from skyhold.errors import Corrupt
from skyhold.store import voters
from tests.endtoend.machines import Scene


def test_voter_whose_place_is_unknown_keeps_no_bucket_of_the_others_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path)
    opened: list[str] = []
    closed: list[str] = []

    def recorded(location: BucketLocation) -> Bucket:
        bucket = open_bucket(location)
        opened.append(bucket.name)
        monkeypatch.setattr(bucket, "close", lambda: closed.append(bucket.name))
        return bucket

    with scene.machine.at_work(), skyhold.init(scene.clouds(), engine="buckets") as store:
        connection = store._connection
        places = {location.name: location for location in store.configuration.locations if location.name != "c"}
        monkeypatch.setattr(voters, "open_bucket", recorded)
        with pytest.raises(Corrupt, match="`c` as a voter"):
            voters.open_voters(connection, connection.document.engine, places)
    assert sorted(opened) == sorted(closed) == ["a", "b"]
