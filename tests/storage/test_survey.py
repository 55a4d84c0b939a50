"""A look at all buckets, and what mends them: `survey` and `repair` themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyhold.errors import Corrupt, SkyholdError, Unavailable
from skyhold.storage.progress import Silence
from skyhold.storage.survey import Survey, repair, survey
from tests.storage.fixtures import FlakyBucket, Setup, refusing
from tests.storage.test_push_pull import write_tree

AWAY = Unavailable("away")


class Held:
    """Three buckets that all have to hold the objects of one version."""

    def __init__(self, setup: Setup, buckets: list[FlakyBucket]) -> None:
        self.setup = setup
        self.buckets = {bucket.name: bucket for bucket in buckets}
        self.expected = dict.fromkeys(buckets[0].keys(), frozenset(self.buckets))
        (self.pack,) = buckets[0].keys("packs/")

    def survey(self, *, deep: bool) -> Survey:
        return survey(self.buckets, self.expected, self.setup.checker, Silence(), deep=deep)

    def repair(self, found: Survey) -> list[int | SkyholdError]:
        return [
            result for _, result in repair(self.buckets, self.expected, found, self.setup.checker, Silence())
        ]  # fmt: skip


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    buckets = [FlakyBucket(name) for name in "abc"]
    setup = Setup(tmp_path / "state", buckets, copies=3)
    setup.push(write_tree(tmp_path / "in", {"x": os.urandom(5000), "y": os.urandom(5000)}))
    yield Held(setup, buckets)
    setup.close()


def is_sound(found: Survey) -> bool:
    """Whether every bucket could be asked and holds everything intact, as far as was looked."""
    return not found.findings and all(bucket.error is None for bucket in found.buckets.values())


@pytest.mark.parametrize("deep", [False, True])
def test_sound_buckets_are_reported_sound_and_counted(held: Held, deep: bool) -> None:
    found = held.survey(deep=deep)
    assert is_sound(found)
    for name, status in found.buckets.items():
        assert (status.wanted, status.held) == (len(held.expected), len(held.expected))
        assert status.held_bytes == sum(info.size_bytes for info in held.buckets[name].list())
    assert (found.checked_bytes > 0) == deep


def test_a_missing_object_is_found_by_a_listing_and_brought_back(held: Held) -> None:
    held.buckets["b"].delete(held.pack)
    found = held.survey(deep=False)
    assert [(finding.bucket, finding.key, finding.problem) for finding in found.findings] == [
        ("b", held.pack, "missing")
    ]
    assert held.repair(found) == [len(held.buckets["a"].read(held.pack))]
    assert is_sound(held.survey(deep=True))


CHANGE = f"checkpoints/{'0' * 32}/00000001-{{:016x}}-{'f' * 32}"


@pytest.mark.parametrize(("later", "problems"), [(False, ["missing"]), (True, [])])
@pytest.mark.parametrize("deep", [False, True])
def test_a_checkpoint_may_be_absent_only_where_a_later_change_followed(
    held: Held, deep: bool, later: bool, problems: list[str]
) -> None:
    held.expected[CHANGE.format(4)] = frozenset("b")
    held.buckets["b"].write(CHANGE.format(3), b"an older one")
    held.buckets["b"].write(CHANGE.format(9).replace("0" * 32, "1" * 32), b"of another register")
    if later:
        held.buckets["b"].write(CHANGE.format(12), b"of a register that went on")
    assert [finding.problem for finding in held.survey(deep=deep).findings] == problems


@pytest.mark.parametrize("later", [False, True])
def test_a_checkpoint_that_goes_while_it_is_looked_at_is_missing_unless_one_followed(held: Held, later: bool) -> None:
    bucket, key = held.buckets["b"], CHANGE.format(4)
    held.expected[key] = frozenset("b")
    bucket.write(key, b"the newest")

    def go_on(read: str) -> None:
        if read == key:
            bucket.delete(key)
            if later:
                bucket.write(CHANGE.format(12), b"")

    bucket.on_read = go_on
    found = held.survey(deep=True)
    assert [(finding.key, finding.problem) for finding in found.findings] == ([] if later else [(key, "missing")])


def test_a_flipped_byte_is_found_deep_only_and_mended(held: Held) -> None:
    whole = bytes(held.buckets["a"].read(held.pack))
    for key in held.expected:
        held.buckets["c"].flip(key, 100)
    assert is_sound(held.survey(deep=False))
    found = held.survey(deep=True)
    assert {(finding.bucket, finding.problem) for finding in found.findings} == {("c", "damaged")}
    assert {finding.key for finding in found.findings} == held.expected.keys()
    assert all(isinstance(result, int) for result in held.repair(found))
    assert bytes(held.buckets["c"].read(held.pack)) == whole
    assert is_sound(held.survey(deep=True))


def test_an_object_of_another_size_is_read_back_without_being_asked(held: Held) -> None:
    held.buckets["b"].write(held.pack, bytes(held.buckets["b"].read(held.pack))[:-1])
    found = held.survey(deep=False)
    assert [(finding.bucket, finding.problem) for finding in found.findings] == [("b", "damaged")]
    assert found.checked_bytes > 0


def test_a_bucket_that_is_away_is_no_finding_and_no_source(held: Held) -> None:
    held.buckets["b"].delete(held.pack)
    held.buckets["c"].list = lambda *_args, **_kwargs: refusing(AWAY)("")  # type: ignore[method-assign,assignment]
    held.buckets["c"].on_read = refusing(AssertionError("asked, though it was away"))  # type: ignore[arg-type]
    found = held.survey(deep=True)
    assert found.buckets["c"].error is AWAY
    assert not is_sound(found)
    assert {finding.bucket for finding in found.findings} == {"b"}
    assert all(isinstance(result, int) for result in held.repair(found))


def test_a_bucket_that_goes_away_while_it_is_read_is_reported_once(held: Held) -> None:
    held.buckets["c"].on_read = refusing(AWAY)
    found = held.survey(deep=True)
    assert found.buckets["c"].error is AWAY
    assert found.findings == []
    assert not is_sound(found)


def test_what_is_damaged_everywhere_is_mended_from_the_intact_records_of_each(held: Held) -> None:
    for name, at in (("a", 200), ("b", 7000), ("c", 300)):
        held.buckets[name].flip(held.pack, at)
    found = held.survey(deep=True)
    assert len(found.findings) == 3
    assert all(isinstance(result, int) for result in held.repair(found))
    assert is_sound(held.survey(deep=True))


def test_what_cannot_be_mended_is_reported_and_the_rest_is_mended(held: Held) -> None:
    for bucket in held.buckets.values():
        bucket.flip(held.pack, 200)
    layout = next(key for key in held.expected if key.startswith("layouts/"))
    held.buckets["a"].delete(layout)
    results = held.repair(held.survey(deep=True))
    assert [type(result) for result in results if not isinstance(result, int)] == [Corrupt] * 3
    assert sum(isinstance(result, int) for result in results) == 1
    assert held.buckets["a"].keys(layout) == [layout]
