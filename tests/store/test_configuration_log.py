"""The history of the configuration: it goes on whatever else cannot be read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skyhold.buckets.location import BucketLocation
from skyhold.errors import Corrupt, Unavailable
from skyhold.storage.blobs import MemoryBlobs
from skyhold.storage.canonical import canonical
from skyhold.storage.policy import Policy
from skyhold.store.configuration import (
    CONFIGURATION_BYTES_MAX,
    Configuration,
    ConfiguredBucket,
    decode_configuration,
    encode_configuration,
    remove_buckets,
    replace_bucket,
)
from skyhold.store.configuration_log import RECENT_BYTES_MAX, ConfigurationLog, logged, what_changed
from skyhold.store.event import Origin
from skyhold.store.features import FOUNDED_WITH, Features
from skyhold.store.store_document import Engine
from tests.registry.fixtures import ORIGIN, TIME

ENGINE = Engine("", 1, "buckets", (("a", "0" * 32),))


def bucket(name: str, incarnation: int = 0) -> ConfiguredBucket:
    return ConfiguredBucket(BucketLocation(name, f"memory://{name}", "lab"), f"{ord(name)}{incarnation:030x}")


FIRST = Configuration((bucket("a"), bucket("b")), Policy(), FOUNDED_WITH)


@pytest.fixture
def blobs() -> MemoryBlobs:
    return MemoryBlobs()


def grown(blobs: MemoryBlobs | None, changes: int) -> Configuration:
    """After so many re-admissions of a bucket."""
    write = None if blobs is None else lambda body: blobs.write("records", body)
    configuration = logged(None, FIRST, ENGINE, ORIGIN, write)
    for number in range(1, changes + 1):
        after = replace_bucket(configuration, bucket("b", number))
        configuration = logged(configuration, after, replace(ENGINE, epoch=number + 1), ORIGIN, write)
    return configuration


def test_event_contains_what_differs() -> None:
    after = replace(remove_buckets(FIRST, ["a"]), features=Features(write=frozenset({"follow", "x"})))
    after = replace(replace_bucket(after, bucket("b", 1)), policy=Policy(copies=1))
    kinds = [(part["kind"], part.get("bucket"), part.get("removed")) for part in what_changed(FIRST, after, ENGINE)]
    assert kinds == [
        ("bucket", "b", None), ("bucket", "a", True), ("policy", None, None), ("features", None, None),
        ("epoch", None, None),
    ]  # fmt: skip
    assert what_changed(FIRST, FIRST, ENGINE) == [{"kind": "epoch", "engine": "buckets", "term": 1}]


def test_long_history_fits_the_register_and_is_read_to_its_beginning(blobs: MemoryBlobs) -> None:
    configuration = grown(blobs, 200)
    body = encode_configuration(configuration)
    assert len(body) < CONFIGURATION_BYTES_MAX / 2
    assert decode_configuration(body) == configuration
    log = ConfigurationLog.of(configuration)
    assert len(canonical(list(log.recent))) < RECENT_BYTES_MAX + 1024

    def read(name: str) -> bytes:
        return blobs.read("records", name)

    assert [event.sequence for event in log.backward(read)] == list(range(201, 0, -1))
    assert log.verify(read) == 201
    assert set(log.blob_names(read)) == {name for _, name in blobs.bodies}


def test_history_goes_on_where_no_blob_can_be_written(blobs: MemoryBlobs) -> None:
    def refuse(_body: bytes) -> str:
        raise Unavailable("No bucket answers", code="away")

    configuration = grown(None, 10)
    for number in range(11, 14):
        after = replace_bucket(configuration, bucket("b", number))
        configuration = logged(configuration, after, ENGINE, ORIGIN, refuse)
    assert len(ConfigurationLog.of(configuration).recent) == 14
    after = logged(configuration, FIRST, ENGINE, ORIGIN, lambda body: blobs.write("records", body))
    log = ConfigurationLog.of(after)
    assert len(log.recent) == 1
    assert log.verify(lambda name: blobs.read("records", name)) == 15


@pytest.mark.parametrize("field", ["author", "reason", "what"])
def test_rewritten_event_breaks_the_chain(blobs: MemoryBlobs, field: str) -> None:
    log = ConfigurationLog.of(grown(None, 3))
    forged = {**log.recent[1], field: [] if field == "what" else "eve"}
    with pytest.raises(Corrupt, match="register config is broken at event 2"):
        replace(log, recent=(log.recent[0], forged, *log.recent[2:])).verify(lambda name: blobs.read("records", name))


def test_dropped_events_are_found(blobs: MemoryBlobs) -> None:
    log = ConfigurationLog.of(grown(blobs, 60))

    def read(name: str) -> bytes:
        return blobs.read("records", name)

    for forged in (replace(log, earlier=None), replace(log, recent=log.recent[:-1]), replace(log, count=log.count + 1)):
        with pytest.raises(Corrupt):
            forged.verify(read)


def test_actor_group_and_reason_are_kept() -> None:
    by = Origin("eve", TIME, "provider gone", actor="automation", group="ab" * 16)
    log = ConfigurationLog.of(logged(None, FIRST, ENGINE, by))
    assert [event.origin for event in log.backward(lambda name: b"")] == [by]
