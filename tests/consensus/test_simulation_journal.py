"""A long run of the simulation can be ended at any time and continued."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.consensus.simulation.campaign import Tally
from tests.consensus.simulation.journal import Journal, sources_digest

FOUND = Tally(
    2,
    Counter({("cut", "rest"): 3}),
    Counter(read=4),
    Counter({"change: OutcomeUnknown": 1}),
    Counter({1: 1, 2: 1}),
    ["x"],
)


def test_parts_that_were_run_are_known_to_the_next_run(tmp_path: Path) -> None:
    Journal(tmp_path).add(range(4, 6), FOUND)
    assert Journal(tmp_path).done == {range(4, 6): FOUND}


def test_line_that_was_cut_short_is_a_part_that_was_not_run(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add(range(2), FOUND)
    journal.add(range(2, 4), FOUND)
    journal.path.write_bytes(journal.path.read_bytes()[:-5])
    again = Journal(tmp_path)
    again.add(range(2, 4), FOUND)
    assert Journal(tmp_path).done == {range(2): FOUND, range(2, 4): FOUND}


def test_parts_of_other_sources_do_not_count(tmp_path: Path) -> None:
    Journal(tmp_path, "of-before").add(range(2), FOUND)
    assert Journal(tmp_path).done == {}
    assert sources_digest() == sources_digest()
