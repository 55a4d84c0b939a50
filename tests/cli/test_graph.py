"""The graph of `skyhold log`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyhold.cli.graph import draw_graph

History = list[tuple[str, tuple[str, ...]]]


def drawn(history: History) -> list[str]:
    lines = []
    for (version, _), (row, below) in zip(history, draw_graph(history), strict=True):
        lines += [f"{row} {version}", *below]
    return lines


@pytest.mark.parametrize(
    ("history", "picture"),
    [
        ([("c", ("b",)), ("b", ("a",)), ("a", ())], ["* c", "* b", "* a"]),
        (
            [("m", ("b", "c")), ("b", ("a",)), ("c", ("a",)), ("a", ())],
            ["* m", "|\\", "* | b", "| * c", "|/", "* a"],
        ),
        (
            [("x", ("a",)), ("y", ("b",)), ("b", ("a",)), ("a", ())],
            ["* x", "| * y", "| * b", "|/", "* a"],
        ),
        (
            [("x", ("a",)), ("y", ()), ("z", ("a",)), ("a", ())],
            ["* x", "| * y", "| * z", "|/", "* a"],
        ),
        (
            [("m", ("b", "c")), ("n", ("b", "c")), ("c", ("a",)), ("b", ("a",)), ("a", ())],
            ["* m", "|\\", "| | * n", "|_|/", "|\\ \\", "| |/", "| * c", "* | b", "|/", "* a"],
        ),
    ],
    ids=["a line", "a merge", "a branch", "a root beside", "a criss-cross"],
)
def test_history_is_drawn_as_git_draws_it(history: History, picture: list[str]) -> None:
    assert drawn(history) == picture


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Versions n … 0, each with up to three parents among those after it."""
    count = draw(st.integers(1, 12))
    history: History = []
    for version in range(count - 1, -1, -1):
        older = st.integers(0, version - 1).map(str) if version else st.nothing()
        history.append((str(version), tuple(draw(st.lists(older, unique=True, max_size=3 if version else 0)))))
    return history


@given(histories())
def test_every_version_has_one_star_and_no_lane_is_left_open(history: History) -> None:
    pictures = list(draw_graph(history))
    assert len(pictures) == len(history)
    assert all(row.count("*") == 1 for row, _ in pictures)
    rows = [row for row, _ in pictures]
    open_lanes: list[str] = []
    for row, (version, parents) in zip(rows, history, strict=True):
        open_lanes = open_lanes if version in open_lanes else [*open_lanes, version]
        assert row.count("|") + 1 == len(open_lanes)
        open_lanes = list(dict.fromkeys([lane for lane in open_lanes if lane != version] + list(parents)))
    assert not open_lanes
