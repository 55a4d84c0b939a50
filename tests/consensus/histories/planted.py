"""Histories that a judge has to reject, by what is wrong with them, and such that it has to accept."""

from __future__ import annotations

from skyhold.consensus.register import CHANGES_KEPT
from tests.consensus.histories.history import (
    Absent,
    CompareAndSet,
    Conflict,
    Failed,
    Move,
    Operation,
    Outcome,
    Read,
    Request,
    Result,
    Unknown,
    Value,
)


def did(client: str, called_ns: int, returned_ns: int | None, request: Request, result: Result) -> Operation:
    return Operation("names", client, called_ns, returned_ns, request, result)


def change(expected: int, data: str, operation_id: str = "") -> CompareAndSet:
    return CompareAndSet(expected, data, operation_id or f"op-{data}")


def set_(client: str, called_ns: int, returned_ns: int, expected: int, data: str, operation_id: str = "") -> Operation:
    return did(client, called_ns, returned_ns, change(expected, data, operation_id), Value(expected + 1, data))


def unsure(client: str, called_ns: int, expected: int, data: str, operation_id: str = "") -> Operation:
    return did(client, called_ns, None, change(expected, data, operation_id), Unknown())


def refused(client: str, called_ns: int, returned_ns: int, expected: int, data: str, current: int) -> Operation:
    return did(client, called_ns, returned_ns, change(expected, data), Conflict(current))


def failed(client: str, called_ns: int, returned_ns: int, expected: int, data: str) -> Operation:
    return did(client, called_ns, returned_ns, change(expected, data), Failed())


def found(client: str, called_ns: int, returned_ns: int, version: int, data: str = "") -> Operation:
    return did(client, called_ns, returned_ns, Read(), Value(version, data))


def had_set(client: str, called_ns: int, returned_ns: int, version: int, data: str) -> Operation:
    return did(client, called_ns, returned_ns, Outcome(f"op-{data}"), Value(version, data))


def absent(client: str, called_ns: int, returned_ns: int, data: str) -> Operation:
    return did(client, called_ns, returned_ns, Outcome(f"op-{data}"), Absent())


def moved(called_ns: int, store: str = "store") -> Operation:
    return did(store, called_ns, None, Move(), Unknown())


ONE = set_("a", 10, 20, 0, "one")
TWO = set_("b", 30, 40, 1, "two")
MANY = [set_("a", 10 * number, 10 * number + 5, number, f"v{number + 1}") for number in range(CHANGES_KEPT + 1)]
"""One change more than an engine has to remember, the last over at 645."""

BAD: dict[str, list[Operation]] = {
    "a lost update": [ONE, TWO, set_("c", 50, 60, 1, "three"), found("c", 70, 80, 2, "three")],
    "two winners of one version": [ONE, set_("b", 30, 40, 1, "two"), set_("c", 30, 40, 1, "three")],
    "a stale read": [ONE, TWO, found("c", 50, 60, 1, "one")],
    "a read that finds nothing of what was acknowledged": [ONE, found("c", 30, 40, 0)],
    "a read of a value that was never written": [ONE, found("b", 30, 40, 2, "three")],
    "a read of the value of another version": [ONE, TWO, found("c", 50, 60, 2, "one")],
    "a read of data where there is no register": [found("a", 10, 20, 0, "one"), unsure("b", 0, 0, "one")],
    "a read of a change before it was asked for": [found("b", 10, 20, 1, "one"), set_("a", 30, 40, 0, "one")],
    "a change without an answer that is seen before it was asked for": [
        found("b", 10, 20, 1, "one"),
        unsure("a", 30, 0, "one"),
    ],
    "a read that goes back between two clients": [
        ONE,
        set_("b", 30, 90, 1, "two"),
        found("c", 40, 50, 2, "two"),
        found("d", 60, 70, 1, "one"),
    ],
    "a change without an answer that comes and goes": [
        ONE,
        unsure("b", 30, 1, "two"),
        found("c", 40, 50, 2, "two"),
        found("d", 60, 70, 1, "one"),
    ],
    "one change twice": [ONE, found("b", 30, 40, 2, "one")],
    "a change that took effect again when it was sent again": [
        unsure("a", 10, 0, "one"),
        found("b", 30, 40, 1, "one"),
        did("a", 50, 60, change(0, "one"), Value(2, "one")),
        found("b", 70, 80, 2, "one"),
    ],
    "a change sent again that returns what it did not set": [
        unsure("a", 10, 0, "one"),
        set_("b", 20, 30, 0, "two"),
        set_("a", 40, 50, 0, "one"),
    ],
    "a change that lost against itself": [ONE, refused("b", 30, 40, 1, "two", 2), found("c", 50, 60, 2, "two")],
    "a refused change that took effect": [
        refused("a", 10, 20, 0, "one", 1),
        found("b", 30, 40, 1, "one"),
    ],
    "a change that failed and took effect": [failed("a", 10, 20, 0, "one"), found("b", 30, 40, 1, "one")],
    "a change that was found absent and took effect later": [
        unsure("a", 10, 0, "one"),
        absent("a", 20, 30, "one"),
        found("b", 40, 50, 0),
        found("b", 60, 70, 1, "one"),
    ],
    "a change that was acknowledged and is found absent": [ONE, absent("b", 30, 40, "one")],
    "a change that is forgotten too early": [*MANY[:-1], absent("b", 660, 670, "v1")],
    "a change sent again that is refused while it is remembered": [*MANY[:-1], refused("b", 660, 670, 0, "v1", 64)],
    "an outcome that is another change's": [ONE, TWO, had_set("c", 50, 60, 2, "one")],
    "an outcome of what was never asked for": [ONE, had_set("c", 50, 60, 2, "two")],
    "a conflict that reports a version from the future": [ONE, refused("c", 22, 24, 0, "three", 2), TWO],
    "a conflict that reports a version of the past": [ONE, TWO, refused("c", 50, 60, 2, "three", 1)],
    "a conflict with the version that was expected": [ONE, refused("c", 30, 40, 1, "three", 1)],
    "a change on a version that was never set": [ONE, set_("b", 30, 40, 2, "three")],
    "a change that skips a version": [ONE, did("b", 30, 40, change(1, "two"), Value(3, "two"))],
    "a change that returns another's data": [did("a", 10, 20, change(0, "one"), Value(1, "two"))],
    "an unseen version in between that was asked for too late": [
        ONE,
        found("c", 50, 60, 3, "three"),
        set_("b", 30, 90, 2, "three"),
        unsure("a", 70, 1, "two"),
    ],
    "two unseen versions and one change that could be either": [
        ONE,
        unsure("b", 30, 1, "two"),
        set_("c", 50, 60, 3, "four"),
    ],
    "a move that changes the data": [ONE, moved(22), found("c", 30, 40, 2, "two")],
    "a move that is seen before it was begun": [ONE, found("b", 22, 24, 2, "one"), moved(30)],
    "a move that takes effect twice": [ONE, moved(22), found("b", 30, 40, 3, "one")],
    "a move that comes and goes": [ONE, moved(22), found("b", 30, 40, 2, "one"), found("c", 50, 60, 1, "one")],
    "a move of a register that does not exist": [moved(10), found("b", 20, 30, 1, "")],
    "a change of the old epoch that the new one begins without": [ONE, TWO, moved(42), found("c", 50, 60, 2, "one")],
    "a change acknowledged in the old epoch after the new one began": [
        ONE,
        moved(22),
        found("c", 24, 26, 2, "one"),
        set_("b", 30, 40, 1, "two"),
        found("c", 50, 60, 2, "one"),
    ],
    "a change acknowledged in both epochs": [
        ONE,
        moved(22),
        set_("b", 30, 40, 1, "two"),
        set_("c", 50, 60, 2, "three"),
        found("d", 70, 80, 4, "three"),
        found("d", 90, 95, 3, "one"),
    ],
    "a change that the new epoch does not know by its id": [ONE, moved(22), refused("a", 30, 40, 0, "one", 2)],
    "a change that took effect again after a move": [
        ONE,
        moved(22),
        did("a", 30, 40, change(0, "one"), Value(3, "one")),
    ],
    "a change that is found absent after a move": [ONE, moved(22), absent("b", 30, 40, "one")],
    "a conflict with a version that takes a second move": [ONE, moved(22), refused("b", 30, 40, 1, "two", 3)],
    "a register that is gone after a move": [ONE, moved(22), found("b", 30, 40, 0)],
}

GOOD: dict[str, list[Operation]] = {
    "one after the other": [ONE, found("c", 22, 28, 1, "one"), TWO, found("c", 50, 60, 2, "two")],
    "a register that does not exist": [found("a", 10, 20, 0), refused("b", 30, 40, 3, "one", 0)],
    "a read of the old value while the new one is set": [ONE, TWO, found("c", 35, 60, 1, "one")],
    "a read of the new value before its change is acknowledged": [ONE, TWO, found("c", 32, 34, 2, "two")],
    "an end and a beginning at one time overlap": [ONE, found("c", 20, 25, 0), found("d", 25, 30, 1, "one")],
    "a change without an answer that takes effect late": [
        unsure("a", 10, 0, "one"),
        found("b", 30, 40, 0),
        found("b", 900, 910, 1, "one"),
    ],
    "a change without an answer that never takes effect": [unsure("a", 10, 0, "one"), found("b", 900, 910, 0)],
    "changes without an answer that show by the versions alone": [
        ONE,
        unsure("b", 30, 1, "two"),
        unsure("c", 32, 2, "three"),
        set_("d", 50, 60, 3, "four"),
    ],
    "a race that one of two loses": [set_("a", 10, 20, 0, "one"), refused("b", 10, 20, 0, "two", 1)],
    "a change that is sent again is known by its id": [
        unsure("a", 10, 0, "one"),
        TWO,
        set_("a", 50, 60, 0, "one"),
        found("c", 70, 80, 2, "two"),
    ],
    "one id sent by two at once takes effect once": [
        set_("a", 10, 20, 0, "one"),
        set_("b", 10, 20, 0, "one"),
        found("c", 30, 40, 1, "one"),
    ],
    "an outcome that is found": [unsure("a", 10, 0, "one"), TWO, had_set("a", 50, 60, 1, "one")],
    "a change that was found absent and is sent again": [
        unsure("a", 10, 0, "one"),
        absent("a", 20, 30, "one"),
        found("b", 40, 50, 0),
        set_("a", 60, 70, 0, "one"),
    ],
    "a change that is forgotten in time": [*MANY, absent("b", 660, 670, "v1")],
    "a change that is remembered for longer": [*MANY, had_set("b", 660, 670, 1, "v1")],
    "a change that is refused once it is forgotten": [*MANY, refused("b", 660, 670, 0, "v1", 65)],
    "a change that failed and took effect when it was sent again": [
        failed("a", 10, 20, 0, "one"),
        set_("a", 30, 40, 0, "one"),
    ],
    "a failure after an attempt without an answer, which took effect": [
        unsure("a", 10, 0, "one"),
        failed("a", 20, 30, 0, "one"),
        found("b", 40, 50, 1, "one"),
    ],
    "two changes to the same data": [ONE, set_("b", 30, 40, 1, "one", "op-again"), found("c", 50, 60, 2, "one")],
    "many changes without an answer on one version": [
        *(unsure(f"a{number}", 10, 0, f"v{number}") for number in range(30)),
        found("b", 30, 40, 1, "v17"),
        refused("c", 50, 60, 0, "late", 1),
    ],
    "a move that shows as a version of the same data": [
        ONE,
        moved(22),
        found("b", 30, 40, 2, "one"),
        set_("c", 50, 60, 2, "two"),
    ],
    "a move that no client sees": [ONE, moved(22), found("c", 30, 40, 1, "one"), TWO],
    "a move that is seen late": [ONE, moved(12), TWO, found("c", 50, 60, 2, "two"), found("c", 900, 910, 3, "two")],
    "a change that a move was faster than": [ONE, moved(22), refused("b", 30, 40, 1, "two", 2)],
    "a change that is known by its id after a move": [
        ONE,
        moved(22),
        found("b", 24, 26, 2, "one"),
        set_("a", 30, 40, 0, "one"),
    ],
    "a move of a register that does not exist leaves it so": [moved(10), found("b", 20, 30, 0), ONE],
    "two moves": [ONE, moved(22), moved(24, "other"), found("b", 30, 40, 3, "one")],
}
