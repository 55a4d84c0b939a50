"""The graph of a history in text, as `git log --graph` draws it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def draw_graph(history: Iterable[tuple[str, tuple[str, ...]]]) -> Iterator[tuple[str, list[str]]]:
    """For each version (its id and those of its parents), in an order where children come before their parents: the
    drawing left of its line, and the connecting lines below it.

    Lane i is in column 2i and waits for one id; no two lanes wait for the same. A version takes the lane that
    waits for it; its first parent inherits that lane, each further parent opens one beside it.
    """
    lanes: list[str] = []
    for version, parents in history:
        if version not in lanes:
            lanes.append(version)
        at = lanes.index(version)
        row = " ".join("*" if lane == at else "|" for lane in range(len(lanes)))
        below: list[str] = []
        if not parents:
            below += _end(lanes, at)
        for place, parent in enumerate(dict.fromkeys(parents)):
            lane = at if place == 0 else at + 1
            if place:
                below.append(_open(lanes, at))
                lanes.insert(lane, parent)
            others = [other for other, awaited in enumerate(lanes) if awaited == parent and other != lane]
            lanes[lane] = parent
            if others:
                below.append(_join(lanes, min(lane, others[0]), max(lane, others[0])))
                del lanes[max(lane, others[0])]
                at = min(at, others[0]) if place == 0 else at
        yield row, below


def _end(lanes: list[str], at: int) -> list[str]:
    """Lane `at` has ended: the lanes right of it move left."""
    moved = at < len(lanes) - 1
    line = _line(len(lanes), {2 * lane: "|" for lane in range(at)} | _moved_left(lanes, at))
    del lanes[at]
    return [line] if moved else []


def _open(lanes: list[str], at: int) -> str:
    """A lane opens right of lane `at`; those further right make room."""
    straight = {2 * lane: "|" for lane in range(at + 1)}
    return _line(len(lanes), straight | dict.fromkeys(range(2 * at + 1, 2 * len(lanes), 2), "\\"))


def _join(lanes: list[str], left: int, right: int) -> str:
    """Lane `right` runs into lane `left`; those further right move left."""
    straight = {2 * lane: "|" for lane in range(right)}
    across = dict.fromkeys(range(2 * left + 1, 2 * right - 1, 2), "_")
    return _line(len(lanes), straight | across | {2 * right - 1: "/"} | _moved_left(lanes, right))


def _moved_left(lanes: list[str], gone: int) -> dict[int, str]:
    return {2 * lane - 1: "/" for lane in range(gone + 1, len(lanes))}


def _line(lanes: int, strokes: dict[int, str]) -> str:
    return "".join(strokes.get(column, " ") for column in range(2 * lanes + 2)).rstrip()
