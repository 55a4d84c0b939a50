"""Whether a history is linearizable: a search, after Wing and Gong, "Testing and verifying concurrent objects" (1993),
with the cache of Lowe, "Testing for linearizability" (2017), as Porcupine has it.

The search puts one operation after the other, each of those that began before any other that is left has ended, and
goes back where none fits. What it had put already, and the state that this led to, is not tried a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from tests.consensus.histories.history import Operation

State = TypeVar("State", bound=Hashable)
CONFIGURATIONS_MAX = 300_000


class Verdict(Enum):
    """`UNKNOWN`: the search was given up. The caller has to treat that as a failure."""

    OK = "ok"
    ILLEGAL = "illegal"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Judgement:
    """`stuck` is, of an illegal history, the operation that could not be put in the longest order that was found, of
    `longest` operations."""

    verdict: Verdict
    stuck: Operation | None = None
    longest: int = 0


Step = Callable[[State, Operation], State | None]
"""The state after an operation that was answered as it was; None if it could not be answered so in this state. Of one
without an answer: the state after it took effect; None if it would have none."""


def linearizability(
    operations: Sequence[Operation], initial: State, step: Step[State], *, configurations_max: int = CONFIGURATIONS_MAX
) -> Judgement:
    """Judge the history of one object. An operation without an answer takes effect after its call, or never."""
    entries = _Entries(operations)
    state, done = initial, 0
    order: list[tuple[int, State]] = []
    tried: set[tuple[int, State]] = set()
    longest, stuck = -1, None
    at = entries.following[_HEAD]
    while entries.answers_left:
        number = entries.operation[at]
        if entries.is_return[at]:  # of an operation that is not in the order yet: nothing behind it can come before it
            if len(order) > longest:
                longest, stuck = len(order), operations[number]
            if not order:
                return Judgement(Verdict.ILLEGAL, stuck, longest)
            at, state = order.pop()
            entries.put_back(at)
            done ^= 1 << entries.operation[at]
            at = entries.following[at]
            continue
        after = step(state, operations[number])
        if after is None or (done | 1 << number, after) in tried:
            at = entries.following[at]
            continue
        if len(tried) == configurations_max:
            return Judgement(Verdict.UNKNOWN)
        order.append((at, state))
        entries.take_out(at)
        done, state = done | 1 << number, after
        tried.add((done, state))
        at = entries.following[_HEAD]
    return Judgement(Verdict.OK)


_HEAD = 0


class _Entries:
    """The calls and returns of a history by time, in a list from which they are taken and put back in constant time.
    Intervals are closed: of a call and a return at one time, the call comes first."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        calls = [(operation.called_ns, False, number) for number, operation in enumerate(operations)]
        returns = [
            (operation.returned_ns, True, number)
            for number, operation in enumerate(operations)
            if operation.returned_ns is not None
        ]
        entries = sorted(calls + returns)
        self.operation = [-1, *(number for _, _, number in entries)]
        self.is_return = [False, *(is_return for _, is_return, _ in entries)]
        self.following = [*range(1, len(entries) + 2), -1]
        self.previous = list(range(-1, len(entries) + 1))
        self.answers_left = len(returns)
        self._return_of = {self.operation[at]: at for at in range(1, len(entries) + 1) if self.is_return[at]}

    def take_out(self, call: int) -> None:
        self._unlink(call)
        returned = self._return_of.get(self.operation[call])
        if returned is not None:
            self._unlink(returned)
            self.answers_left -= 1

    def put_back(self, call: int) -> None:
        """Undo the last `take_out` that was not undone."""
        returned = self._return_of.get(self.operation[call])
        if returned is not None:
            self._link(returned)
            self.answers_left += 1
        self._link(call)

    def _unlink(self, at: int) -> None:
        self.following[self.previous[at]] = self.following[at]
        self.previous[self.following[at]] = self.previous[at]

    def _link(self, at: int) -> None:
        self.following[self.previous[at]] = at
        self.previous[self.following[at]] = at
