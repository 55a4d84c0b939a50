"""Whether the answers to watchers of a register agree with what happened to it.

A watch asks for the changes after a version, and gets them, nothing, or an explicit resync. After the properties that
etcd's robustness tests check of its watch (https://etcd.io/docs/v3.6/learning/api_guarantees/#watch-apis):

- ordered, unique, resumable, gap-free: the reported versions are those after the one asked for, one by one;
- the same for all: every value is the one that any other client, reader, writer or watcher, got for its version;
- not invented: a client tried to set that value, on the version before, and got no answer that it had no effect; or the
  store moved, and the version before has this value too;
- reliable: each change that any client had seen before the watch began is among those reported;
- not from the future: a client that asks after the watch has ended finds a register at least as new;
- a resync is reported only where changes are no longer kept, or the version asked for does not exist yet.

How soon a change is reported is not judged, nor what etcd has beside this (transactions over keys, filters, progress).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from skyhold.consensus.register import CHANGES_KEPT
from tests.consensus.histories.history import (
    Absent,
    Changes,
    CompareAndSet,
    Conflict,
    Move,
    Operation,
    Outcome,
    Read,
    Resync,
    Unknown,
    Value,
    Watch,
    by_register,
)


def watch_violation(operations: Iterable[Operation]) -> str | None:
    """The first wrong answer to a watcher; None if there is none."""
    for history in by_register(operations).values():
        reported = _Reported(history)
        for watch in history:
            if isinstance(watch.result, Changes | Resync):
                found = reported.violation(watch)
                if found is not None:
                    return f"{found}: {watch}"
    return None


class _Reported:
    """What all clients got as answers of one register."""

    def __init__(self, history: Sequence[Operation]) -> None:
        self._values: dict[int, set[str]] = {}
        for operation in history:
            for version, data in _values(operation):
                self._values.setdefault(version, set()).add(data)
        self._history = history
        # What has no answer may have made it newer than any client saw.
        unknown = sum(isinstance(operation.result, Unknown) for operation in history)
        self._newest = max(map(_at_least, history), default=0) + unknown

    def violation(self, watch: Operation) -> str | None:
        assert isinstance(watch.request, Watch)
        after, values = watch.request.after_version, _values(watch)
        last = values[-1][0] if values else after
        versions = [version for version, _ in values]
        if isinstance(watch.result, Changes) and versions != list(range(after + 1, after + 1 + len(values))):
            return f"expected the changes after {after}, one by one"
        if isinstance(watch.result, Resync) and after <= last <= after + CHANGES_KEPT:
            return "resync, though every change is kept"
        for version, data in values:
            if self._values[version] != {data}:
                return f"version {version} has several values, {sorted(self._values[version])}"
            if not self._was_tried(version, data, watch) and not self._was_moved(version, data, watch):
                return f"no client set version {version} to {data!r}"
        return self._out_of_time(watch, last)

    def _was_tried(self, version: int, data: str, watch: Operation) -> bool:
        """Whether a client asked for this change before the watch ended, and got no answer that it had no effect."""
        assert watch.returned_ns is not None
        for attempt in self._history:
            request = attempt.request
            if not isinstance(request, CompareAndSet) or attempt.called_ns > watch.returned_ns:
                continue
            if (request.expected_version + 1, request.data) != (version, data):
                continue
            if attempt.result == Value(version, data):
                return True
            if isinstance(attempt.result, Unknown) and not self._had_no_effect(attempt, request):
                return True
        return False

    def _was_moved(self, version: int, data: str, watch: Operation) -> bool:
        """Whether moves of the store that began before the watch ended can have made this version of an earlier one."""
        assert watch.returned_ns is not None
        moves = sum(isinstance(move.request, Move) and move.called_ns <= watch.returned_ns for move in self._history)
        for before in range(version - 1, max(version - 1 - moves, 0), -1):
            if self._values.get(before, {data}) != {data}:
                return False
            if self._was_tried(before, data, watch):
                return True
        return False

    def _had_no_effect(self, attempt: Operation, request: CompareAndSet) -> bool:
        """Whether a client got that answer, when the change could not be forgotten yet."""
        if self._newest >= request.expected_version + 1 + CHANGES_KEPT:
            return False
        for other in self._history:
            match other.request, other.result:
                case Outcome(request.operation_id), Absent() if other.called_ns > attempt.called_ns:
                    return True
                case CompareAndSet(_, _, request.operation_id), Conflict(current) if current > request.expected_version:
                    return True
        return False

    def _out_of_time(self, watch: Operation, last: int) -> str | None:
        assert watch.returned_ns is not None
        for other in self._history:
            if other.returned_ns is None:
                continue
            if other.returned_ns < watch.called_ns and _at_least(other) > last:
                return f"a change that was known before it began is missing: {other}"
            if other.called_ns > watch.returned_ns and _found(other, last) < last:
                return f"an older register was found after it: {other}"
        return None


def _values(operation: Operation) -> Sequence[tuple[int, str]]:
    """The versions that an operation reports with their values, in the order of the answer."""
    match operation.result:
        case Value(version, data) | Resync(version, data):
            return [(version, data)]
        case Changes(values):
            return values
    return []


def _at_least(operation: Operation) -> int:
    """The version that a register has reached when this operation is over."""
    if isinstance(operation.result, Conflict):
        return operation.result.current_version
    return max((version for version, _ in _values(operation)), default=0)


def _found(operation: Operation, otherwise: int) -> int:
    """The version at which an operation found the register; `otherwise` where it does not report it."""
    match operation.request, operation.result:
        case Read(), Value(version, _):
            return version
        case CompareAndSet(), Conflict(version):
            return version
    return otherwise
