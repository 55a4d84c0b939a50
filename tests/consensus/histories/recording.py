"""A client of registers that records its requests and the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from skyhold import error_codes, errors
from skyhold.consensus import register as port
from skyhold.consensus.register import Registers, Versioned
from tests.consensus.histories.history import (
    Absent,
    Changes,
    CompareAndSet,
    Conflict,
    Failed,
    Operation,
    Outcome,
    Read,
    Request,
    Result,
    Resync,
    Unknown,
    Value,
    Watch,
)

T = TypeVar("T")


class RecordedClient:
    """One thread's use of registers; `operations` is its part of the history. It contains an operation from its call
    on, so that one whose client dies during it is there too, without an answer. `registers` may be exchanged for others
    of the same store."""

    def __init__(self, registers: Registers, name: str, clock_ns: Callable[[], int]) -> None:
        self.name = name
        self.operations: list[Operation] = []
        self.registers = registers
        self._clock_ns = clock_ns

    def read(self, key: str) -> Versioned | None:
        return self._recorded(key, Read(), lambda: self.registers.read(key), _value)

    def read_known(self, key: str, *, max_age_s: float) -> port.Known:
        """Written down as a read where it found what was the newest during the call; else it proves nothing."""
        return self._recorded(
            key,
            Read(),
            lambda: self.registers.read_known(key, max_age_s=max_age_s),
            lambda found: _value(found.value) if found.age_s == 0 else Failed(),
        )

    def compare_and_set(self, key: str, expected_version: int, data: bytes, operation_id: str) -> Versioned:
        return self._recorded(
            key,
            CompareAndSet(expected_version, data.decode(), operation_id),
            lambda: self.registers.compare_and_set(key, expected_version, data, operation_id),
            _value,
        )

    def outcome(self, key: str, operation_id: str) -> Versioned | None:
        return self._recorded(
            key,
            Outcome(operation_id),
            lambda: self.registers.outcome(key, operation_id),
            lambda found: Absent() if found is None else _value(found),
        )

    def watch(self, key: str, after_version: int, *, timeout_s: float) -> Sequence[Versioned] | port.Resync:
        return self._recorded(
            key,
            Watch(after_version),
            lambda: self.registers.watch(key, after_version, timeout_s=timeout_s),
            _changes,
        )

    def _recorded(self, key: str, request: Request, call: Callable[[], T], as_result: Callable[[T], Result]) -> T:
        pending = Operation(key, self.name, self._clock_ns(), None, request, Unknown())
        self.operations.append(pending)
        result: Result = Unknown()
        try:
            answer = call()
            result = as_result(answer)
        except errors.OutcomeUnknown:
            raise
        except errors.Conflict as error:
            if (
                error.code == error_codes.MEMBERSHIP_CHANGED
            ):  # a change that was to be made in one epoch alone; the version may be the expected
                result = Failed()
            elif error.code == "register_changed":
                result = Conflict(int(str(error.fields["current_version"])))
            else:
                raise AssertionError(f"the format has no result for {error.code}") from error
            raise
        except errors.SkyholdError:
            result = Failed()
            raise
        finally:
            if not isinstance(result, Unknown):
                self.operations[-1] = replace(pending, returned_ns=self._clock_ns(), result=result)
        return answer


def _value(found: Versioned | None) -> Value:
    return Value(found.version, found.data.decode()) if found else Value(0, "")


def _changes(found: Sequence[Versioned] | port.Resync) -> Changes | Resync:
    if isinstance(found, port.Resync):
        return Resync(found.current.version, found.current.data.decode())
    return Changes(tuple((change.version, change.data.decode()) for change in found))
