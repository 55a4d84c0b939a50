"""Whether the history of each register is linearizable: a register as the port promises it, for the search."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

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
    Unknown,
    Value,
    Watch,
    by_register,
)
from tests.consensus.histories.linearizability import CONFIGURATIONS_MAX, Judgement, Verdict, linearizability


class _Change:
    """The newest of the changes of a register, and behind it those before. The same changes are the same object, so
    that states are compared by identity."""

    __slots__ = ("_next", "before", "data", "operation_id", "version")

    def __init__(self, version: int, data: str, operation_id: str | None, before: _Change | None) -> None:
        self.version, self.data = version, data
        self.operation_id, self.before = operation_id, before
        self._next: dict[tuple[str, str | None], _Change] = {}

    def then(self, data: str, operation_id: str | None) -> _Change:
        key = (data, operation_id)
        if key not in self._next:
            self._next[key] = _Change(self.version + 1, data, operation_id, self)
        return self._next[key]

    def find(self, operation_id: str) -> _Change | None:
        change: _Change | None = self
        while change is not None and change.operation_id != operation_id:
            change = change.before
        return change


class RegisterState(NamedTuple):
    """`settled`: operation ids that were found absent, and when this was asked; no attempt from before takes effect."""

    newest: _Change
    settled: frozenset[tuple[str, int]] = frozenset()


def new_register() -> RegisterState:
    """A register that does not exist yet: version 0, no data."""
    return RegisterState(_Change(0, "", None, None))


def step_register(state: RegisterState, operation: Operation) -> RegisterState | None:
    """The register after an operation, as `skyhold.consensus.register` promises it; None where it promises another
    answer, or where an operation without an answer has no effect."""
    newest, request, result = state.newest, operation.request, operation.result
    if isinstance(request, CompareAndSet):
        return _step_change(state, request, operation)
    if isinstance(request, Move):
        return state._replace(newest=newest.then(newest.data, None)) if newest.version else None
    match request, result:
        case Read(), Value(version, data):
            allowed = (version, data) == (newest.version, newest.data)
        case Outcome(operation_id), Value(version, data):
            allowed = _has_set(newest.find(operation_id), version, data)
        case Outcome(operation_id), Absent():
            state = RegisterState(newest, state.settled | {(operation_id, operation.called_ns)})
            allowed = not _kept(newest, operation_id)
        case _:
            raise AssertionError(f"{operation} does not concern a state")
    return state if allowed else None


def _step_change(state: RegisterState, request: CompareAndSet, operation: Operation) -> RegisterState | None:
    newest = state.newest
    fits = request.expected_version == newest.version
    changed = state._replace(newest=newest.then(request.data, request.operation_id)) if fits else None
    match operation.result:
        case Unknown():
            has_effect = (
                changed and not newest.find(request.operation_id) and not _is_settled(state, request, operation)
            )
            return changed if has_effect else None
        case Conflict(current_version):
            refused = current_version == newest.version and not fits and not _kept(newest, request.operation_id)
            return state if refused else None
        case Value(version, data):
            earlier = newest.find(request.operation_id)
            if earlier is not None:
                return state if _has_set(earlier, version, data) else None
            return changed if changed and _has_set(changed.newest, version, data) else None
    raise AssertionError(f"{operation} does not concern a state")


def _has_set(change: _Change | None, version: int, data: str) -> bool:
    return change is not None and (version, data) == (change.version, change.data)


def _is_settled(state: RegisterState, request: CompareAndSet, attempt: Operation) -> bool:
    """Whether the change was found absent by a client that asked after this attempt began."""
    return any(found == request.operation_id and asked > attempt.called_ns for found, asked in state.settled)


def _kept(newest: _Change, operation_id: str) -> bool:
    """Whether a change is among the last, which no engine may have forgotten. It may know older ones."""
    found = newest.find(operation_id)
    return found is not None and found.version > newest.version - CHANGES_KEPT


def judge(operations: Iterable[Operation], *, configurations_max: int = CONFIGURATIONS_MAX) -> dict[str, Judgement]:
    """Judge each register of a history. Watches are judged elsewhere (`watching`)."""
    return {
        register: linearizability(
            [operation for operation in history if _shows(operation)],
            new_register(),
            step_register,
            configurations_max=configurations_max,
        )
        for register, history in by_register(operations).items()
    }


def verdicts(operations: Iterable[Operation]) -> dict[str, Verdict]:
    """The verdict on each register alone."""
    return {register: judgement.verdict for register, judgement in judge(operations).items()}


def _shows(operation: Operation) -> bool:
    """What failed had no effect; what has no answer may have one if it is a change, as a move is."""
    if isinstance(operation.request, Watch) or isinstance(operation.result, Failed):
        return False
    return isinstance(operation.request, CompareAndSet | Move) or not isinstance(operation.result, Unknown)
