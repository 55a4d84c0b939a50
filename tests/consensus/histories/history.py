"""What clients asked of registers, when, and the answers: JSON lines, as `docs/consensus.md` gives them.

One line is one attempt of one client. An attempt that got no answer has no end: it may take effect at any time after
its call, or never. All times of a file are of one clock.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Read:
    """What is the newest value?"""


@dataclass(frozen=True, slots=True)
class CompareAndSet:
    """Set `data` if the register is at `expected_version`, or return what the change of this id has set already."""

    expected_version: int
    data: str
    operation_id: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What did the change of this id set? It is asked once no client works on an attempt without an answer any more."""

    operation_id: str


@dataclass(frozen=True, slots=True)
class Watch:
    """What has changed after this version?"""

    after_version: int


@dataclass(frozen=True, slots=True)
class Move:
    """The store moves to other voters, or another engine: a change that leaves the data, of a register that exists.

    It is called when the first seal of the register is sent, and has no answer: it takes effect once, or never."""


@dataclass(frozen=True, slots=True)
class Value:
    """What a read found (version 0, no data: there is no such register), or a change has set."""

    version: int
    data: str


@dataclass(frozen=True, slots=True)
class Absent:
    """The change has not taken effect, and never will."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """The change was refused: the register was at another version."""

    current_version: int


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes after a version, as they came; none where none came in time."""

    values: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Resync:
    """Changes in between are not kept any more: this is the newest value."""

    version: int
    data: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """No answer, or an error that leaves the outcome unknown."""


@dataclass(frozen=True, slots=True)
class Failed:
    """An error that guarantees that this attempt had no effect."""


Request = Read | CompareAndSet | Outcome | Watch | Move
Result = Value | Absent | Conflict | Changes | Resync | Unknown | Failed

REQUESTS: Mapping[str, type[Request]] = {
    "read": Read,
    "compare_and_set": CompareAndSet,
    "outcome": Outcome,
    "watch": Watch,
    "move": Move,
}
RESULTS: Mapping[str, type[Result]] = {
    "value": Value,
    "absent": Absent,
    "conflict": Conflict,
    "changes": Changes,
    "resync": Resync,
    "unknown": Unknown,
    "failed": Failed,
}
_OPERATION_OF = {request: name for name, request in REQUESTS.items()}
_KIND_OF = {result: name for name, result in RESULTS.items()}
ANSWERS: Mapping[type[Request], tuple[type[Result], ...]] = {
    Read: (Value,),
    CompareAndSet: (Value, Conflict),
    Outcome: (Value, Absent),
    Watch: (Changes, Resync),
    Move: (),
}
"""What each request can be answered with, beside `Unknown`, and `Failed` if there is anything else."""


class MalformedHistory(ValueError):
    """Something that is no history cannot be judged."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One attempt of one client on one register, from `called_ns` to `returned_ns` (None: no answer)."""

    register: str
    client: str
    called_ns: int
    returned_ns: int | None
    request: Request
    result: Result

    def __post_init__(self) -> None:
        answers = ANSWERS[type(self.request)]
        if type(self.result) not in (*answers, Failed if answers else Unknown, Unknown):
            raise MalformedHistory(f"{self.request} cannot be answered with {self.result}")
        if (self.returned_ns is None) is not isinstance(self.result, Unknown):
            raise MalformedHistory(f"an operation has no end if, and only if, its result is unknown: {self}")
        if self.returned_ns is not None and self.returned_ns < self.called_ns:
            raise MalformedHistory(f"{self} ended before it began")


def check_history(operations: Iterable[Operation]) -> None:
    """Raise `MalformedHistory` unless each client did one thing after the other, and every attempt under one operation
    id asked for the same change."""
    free_ns: dict[str, int] = {}
    changes: dict[tuple[str, str], CompareAndSet] = {}
    for operation in sorted(operations, key=lambda operation: operation.called_ns):
        if operation.called_ns < free_ns.get(operation.client, operation.called_ns):
            raise MalformedHistory(f"client {operation.client} did two things at once: {operation}")
        # An attempt without an answer was over for its client when it called again.
        free_ns[operation.client] = operation.called_ns if operation.returned_ns is None else operation.returned_ns
        request = operation.request
        if isinstance(request, CompareAndSet):
            first = changes.setdefault((operation.register, request.operation_id), request)
            if first != request:
                raise MalformedHistory(f"{first} and {request} have one id")


def by_register(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    """The history of each register, which can be judged by itself."""
    registers: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        registers[operation.register].append(operation)
    return dict(registers)


def to_json(operation: Operation) -> str:
    """The line of an operation, without its end."""
    request, result = operation.request, operation.result
    line = {
        "register": operation.register,
        "client": operation.client,
        "operation": _OPERATION_OF[type(request)],
        **{name: getattr(request, name) for name in _names(type(request))},
        "called_ns": operation.called_ns,
        "returned_ns": operation.returned_ns,
        "result": {"kind": _KIND_OF[type(result)], **{name: getattr(result, name) for name in _names(type(result))}},
    }
    return json.dumps(line)


def from_json(line: str) -> Operation:
    """The operation of a line. Raises `MalformedHistory`, also for an unknown field."""
    try:
        fields = json.loads(line)
        answer = fields.pop("result")
        request = _taken(REQUESTS[fields.pop("operation")], fields)
        result = _taken(RESULTS[answer.pop("kind")], answer)
        operation = _taken(Operation, {**fields, "request": request, "result": result})
    except MalformedHistory:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MalformedHistory(f"{error!r} in {line!r}") from error
    unread = {*fields, *answer} - {"register", "client", "called_ns", "returned_ns"}
    if unread:
        raise MalformedHistory(f"unknown fields {', '.join(sorted(unread))} in {line!r}")
    return operation


def write_history(path: Path, operations: Iterable[Operation]) -> None:
    path.write_text("".join(f"{to_json(operation)}\n" for operation in operations), "utf-8")


def read_history(path: Path) -> list[Operation]:
    """The operations of a file. Raises `MalformedHistory`."""
    operations: list[Operation] = []
    for number, line in enumerate(path.read_text("utf-8").split("\n"), start=1):
        try:
            if line:
                operations.append(from_json(line))
        except MalformedHistory as error:
            raise MalformedHistory(f"{path}:{number}: {error}") from error
    check_history(operations)
    return operations


def _names(kind: type[Any]) -> list[str]:
    return list(kind.__dataclass_fields__)


def _taken(kind: type[T], fields: dict[str, Any]) -> T:
    """What these fields make; those that it needs are taken out of them."""
    taken = {name: fields.pop(name) for name in _names(kind)}
    for name, value in taken.items():
        taken[name] = _checked(name, value)
    return kind(**taken)


def _checked(name: str, value: Any) -> Any:
    if name == "values":
        return tuple((_checked("version", version), _checked("data", data)) for version, data in value)
    if name in {"request", "result"} or (name == "returned_ns" and value is None):
        return value
    wanted: Any = int if name.endswith(("_ns", "version")) else str
    if type(value) is not wanted or (wanted is int and value < 0):
        raise MalformedHistory(f"{name} is {value!r}")
    return value
