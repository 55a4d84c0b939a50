"""A layout's runs cover every file exactly (format.md, 7): one that does not is damage, found before a file appears."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from skyhold.errors import Corrupt
from skyhold.storage.layout import PageBuilder, Run, encode_head
from skyhold.storage.version_files import VersionFiles
from tests.storage.fixtures import FlakyBucket, Setup
from tests.storage.test_push_pull import write_tree

Runs = list[Run]


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    made = Setup(tmp_path / "state", [FlakyBucket("a")])
    yield made
    made.close()


@pytest.fixture
def version(setup: Setup, tmp_path: Path) -> VersionFiles:
    """Files `a` and `b` of several chunks each, and an empty one."""
    tree = {"a": os.urandom(9 << 20), "b": os.urandom(9 << 20), "c": b""}
    return setup.push(write_tree(tmp_path / "in", tree))[0]


def forged(setup: Setup, version: VersionFiles, runs: Runs) -> VersionFiles:
    """The version with other runs over the same places."""
    page = PageBuilder()
    for place in version.head.first_page.places:
        page.append(place, None)
    head = encode_head(version.head.version, version.head.placement_class, runs, [], None, page.finish())
    return VersionFiles(setup.blobs, setup.blobs.write("layouts", head), version.head.version, version.files)


def parted(runs: Runs, version: VersionFiles) -> tuple[Run, Run, Run]:
    """The run of the first file in two, and that of the second file."""
    first, second = runs
    middle = first.start + version.head.first_page.places[first.first].raw_length
    return replace(first, count=1), replace(first, first=first.first + 1, count=first.count - 1, start=middle), second


def test_runs_that_cover_the_files_otherwise_are_sound(setup: Setup, version: VersionFiles) -> None:
    runs = list(version.head.runs)
    assert len(runs) == 2
    assert runs[0].count > 2
    assert forged(setup, version, list(parted(runs, version))).pack_ids() == version.pack_ids()


AT_OPENING: dict[str, Callable[[Run, Run, Run], Runs]] = {
    "none": lambda _a, _b, _c: [],
    "a file without": lambda a, b, _c: [a, b],
    "an end only": lambda _a, b, c: [b, c],
    "out of order": lambda a, b, c: [b, a, c],
    "files out of order": lambda a, b, c: [c, a, b],
    "twice": lambda a, b, c: [a, a, b, c],
    "an empty file with bytes": lambda a, b, c: [a, b, c, replace(a, file=2)],
    "a file that is not listed": lambda a, b, c: [a, b, c, replace(a, file=3)],
    "a page that is not listed": lambda a, b, c: [a, replace(b, page=1), c],
    "no chunks": lambda a, b, c: [replace(a, count=0), b, c],
}

IN_THE_PAGES: dict[str, Callable[[Run, Run, Run], Runs]] = {
    "a gap": lambda a, b, c: [a, replace(b, start=b.start + 1), c],
    "an overlap": lambda a, b, c: [replace(a, count=2), b, c],
    "too few": lambda a, b, c: [a, replace(b, count=b.count - 1), c],
    "too many": lambda a, b, c: [a, replace(b, count=b.count + 1), c],
    "past the page": lambda a, b, c: [a, b, replace(c, first=c.first + 1)],
}


@pytest.mark.parametrize("forge", AT_OPENING.values(), ids=list(AT_OPENING))
def test_runs_that_cannot_cover_the_files_are_damage_at_opening(
    forge: Callable[[Run, Run, Run], Runs], setup: Setup, version: VersionFiles
) -> None:
    with pytest.raises(Corrupt, match="do not cover the files"):
        forged(setup, version, forge(*parted(list(version.head.runs), version)))


@pytest.mark.parametrize("forge", IN_THE_PAGES.values(), ids=list(IN_THE_PAGES))
def test_runs_that_miss_by_lengths_are_damage_to_verify_and_pull(
    forge: Callable[[Run, Run, Run], Runs], setup: Setup, version: VersionFiles, tmp_path: Path
) -> None:
    damaged = forged(setup, version, forge(*parted(list(version.head.runs), version)))
    with pytest.raises(Corrupt, match="do not cover the files"):
        damaged.pack_ids()
    with pytest.raises(Corrupt, match="do not cover the files"):
        setup.pull(damaged, tmp_path / "out")
    assert not (tmp_path / "out" / "b").exists()
