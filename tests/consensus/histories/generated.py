"""Random histories of a correct register, whose requests and replies are lost, late and repeated, and what becomes of
them when something in them is changed."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random

from skyhold.consensus.memory import MemoryRegisters
from skyhold.consensus.register import RegisterChange, Versioned
from skyhold.consensus.register import Resync as ResyncFound
from skyhold.errors import Conflict as Refused
from tests.consensus.histories.history import (
    Absent,
    Changes,
    CompareAndSet,
    Conflict,
    Failed,
    MalformedHistory,
    Move,
    Operation,
    Outcome,
    Read,
    Request,
    Result,
    Resync,
    Unknown,
    Value,
    Watch,
    check_history,
)

KEY = "names"
LATE_NS_MAX = 60
FATES = ("answered", "answered", "answered", "answered", "request lost", "reply lost", "failed")


def random_history(
    random: Random, *, clients: int = 3, operations: int = 6, watchers: int = 0, moves: int = 0
) -> list[Operation]:
    """What so many clients saw of one register, each after so many operations, while the store moves so often."""
    return _Play(random).history(clients, watchers, operations, moves)


@dataclass(eq=False)
class _Play:
    random: Random
    register: MemoryRegisters = field(default_factory=MemoryRegisters)
    recorded: list[Operation] = field(default_factory=list)
    now_ns: int = 0
    events: list[tuple[int, float, int, Callable[[], object]]] = field(default_factory=list)
    count: int = 0
    unanswered: list[CompareAndSet] = field(default_factory=list)
    settled_ns: dict[str, int] = field(default_factory=dict)
    """When a client asked for an outcome: earlier attempts that are on their way come too late."""

    def history(self, clients: int, watchers: int, operations: int, moves: int) -> list[Operation]:
        for number in range(moves):
            self._in(12 * operations, partial(self._move, f"epoch {number + 2}"))
        for number in range(clients + watchers):
            self._in(10, partial(self._next, f"c{number}", number >= clients, 0, operations))
        while self.events:
            self.now_ns, _, _, event = heapq.heappop(self.events)
            event()
        return self.recorded

    def _in(self, delay_ns_max: int, event: Callable[[], object]) -> None:
        self.count += 1
        at_ns = self.now_ns + self.random.randrange(delay_ns_max)
        heapq.heappush(self.events, (at_ns, self.random.random(), self.count, event))

    def _next(self, client: str, watching: bool, known: int, left: int) -> None:
        """Let a client do one thing, and after it the others that are left."""
        if not left:
            return
        request = Watch(max(known - self.random.randrange(3), 0)) if watching else self._request(client, known, left)
        fate, called_ns, index = self.random.choice(FATES), self.now_ns, len(self.recorded)
        self.recorded.append(Operation(KEY, client, called_ns, None, request, Unknown()))

        def serve() -> None:
            result = self._apply(request, called_ns)
            self._in(8, lambda: back(result))

        def back(result: Result) -> None:
            if not isinstance(result, Unknown):
                self.recorded[index] = replace(self.recorded[index], returned_ns=self.now_ns, result=result)
            self._in(8, lambda: self._next(client, watching, max(known, _version(result)), left - 1))

        if fate == "answered":
            self._in(8, serve)
            return
        if isinstance(request, CompareAndSet):
            self.unanswered.append(request)
            if fate == "reply lost":
                self._in(LATE_NS_MAX, lambda: self._apply_unseen(request, called_ns))
        self._in(8, lambda: back(Failed() if fate == "failed" else Unknown()))

    def _move(self, epoch: str) -> None:
        self.recorded.append(Operation(KEY, epoch, self.now_ns, None, Move(), Unknown()))
        if self.random.random() < 0.8:
            self._in(LATE_NS_MAX, self._carry)

    def _carry(self) -> None:
        """The next epoch has every change of the register, and one more that leaves its data; if there is any."""
        changes = self.register.changes(KEY)
        if changes:
            newest = changes[-1].value
            self.register = MemoryRegisters()
            self.register.restore(KEY, [*changes, RegisterChange(Versioned(newest.version + 1, newest.data), None)])

    def _request(self, client: str, known: int, left: int) -> Request:
        dice = self.random.random()
        if self.unanswered and dice < 0.3:
            attempt = self.random.choice(self.unanswered)
            return attempt if dice < 0.15 else Outcome(attempt.operation_id)
        if dice < 0.5:
            return Read()
        data = self.random.choice(["same", f"{client}-{left}"])
        return CompareAndSet(max(known + self.random.choice([-1, 0, 0, 0, 0, 1]), 0), data, f"{client}-{left}")

    def _apply_unseen(self, request: CompareAndSet, called_ns: int) -> None:
        if self.settled_ns.get(request.operation_id, -1) <= called_ns:
            self._apply(request, called_ns)

    def _apply(self, request: Request, called_ns: int) -> Result:
        match request:
            case Read():
                return _value(self.register.read(KEY))
            case CompareAndSet(expected_version, data, operation_id):
                try:
                    return _value(self.register.compare_and_set(KEY, expected_version, data.encode(), operation_id))
                except Refused as error:
                    return Conflict(int(str(error.fields["current_version"])))
            case Outcome(operation_id):
                self.settled_ns[operation_id] = max(called_ns, self.settled_ns.get(operation_id, 0))
                found = self.register.outcome(KEY, operation_id)
                return _value(found) if found else Absent()
            case Watch(after_version):
                changes = self.register.watch(KEY, after_version, timeout_s=0)
                if isinstance(changes, ResyncFound):
                    return Resync(changes.current.version, changes.current.data.decode())
                return Changes(tuple((change.version, change.data.decode()) for change in changes))
        raise AssertionError(request)


def _value(found: Versioned | None) -> Value:
    return Value(found.version, found.data.decode()) if found else Value(0, "")


def _version(result: Result) -> int:
    match result:
        case Value(version, _) | Conflict(version) | Resync(version, _):
            return version
        case Changes(values) if values:
            return values[-1][0]
    return 0


def mutated(random: Random, history: list[Operation]) -> list[Operation]:
    """A history with another answer, or in which something happened at another time. It may still be right."""
    while True:
        index = random.randrange(len(history))
        change = random.choice([_other_version, _other_data, _other_kind, _other_time, _left_out, _other_order])
        try:
            found = [*history[:index], *change(random, history[index], history), *history[index + 1 :]]
            check_history(found)
        except MalformedHistory:
            continue
        if found and found != history:
            return found


def _other_version(random: Random, operation: Operation, _: list[Operation]) -> list[Operation]:
    match operation.result:
        case Value(version, data):
            return [replace(operation, result=Value(max(version + random.choice([-1, 1]), 0), data))]
        case Conflict(version):
            return [replace(operation, result=Conflict(max(version + random.choice([-1, 1]), 0)))]
    return [operation]


def _other_data(random: Random, operation: Operation, history: list[Operation]) -> list[Operation]:
    other = random.choice(history).result
    if isinstance(operation.result, Value) and isinstance(other, Value):
        return [replace(operation, result=Value(operation.result.version, other.data))]
    return [operation]


def _other_kind(random: Random, operation: Operation, history: list[Operation]) -> list[Operation]:
    if operation.returned_ns is None:
        returned_ns = operation.called_ns + random.randrange(20)
        return [replace(operation, returned_ns=returned_ns, result=random.choice(history).result)]
    if random.random() < 0.5:
        return [replace(operation, returned_ns=None, result=Unknown())]
    return [replace(operation, result=random.choice([random.choice(history).result, Failed()]))]


def _other_time(random: Random, operation: Operation, _: list[Operation]) -> list[Operation]:
    if operation.returned_ns is None:
        return [replace(operation, called_ns=operation.called_ns + random.randrange(40))]
    by_ns = random.randrange(-operation.called_ns, 40)
    client = f"{operation.client}-moved"
    called_ns, returned_ns = operation.called_ns + by_ns, operation.returned_ns + by_ns
    return [replace(operation, client=client, called_ns=called_ns, returned_ns=returned_ns)]


def _left_out(random: Random, operation: Operation, history: list[Operation]) -> list[Operation]:
    return []


def _other_order(random: Random, operation: Operation, history: list[Operation]) -> list[Operation]:
    """Another operation's answer."""
    return [replace(operation, result=random.choice(history).result)]
