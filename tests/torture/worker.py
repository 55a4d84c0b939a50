"""One client process: threads that read and change the registers of the current generation, and write down what they
did."""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from skyhold.consensus.register import CHANGES_KEPT, Registers, Resync, Versioned
from skyhold.errors import Conflict, OutcomeUnknown, SkyholdError, Unavailable
from tests.servers import end_with_parent
from tests.torture.board import REGISTER_OPERATIONS, Board
from tests.torture.engines import Engine, open_registers
from tests.torture.recording import UNKNOWN, Operation, Recorder

TRIES_MAX: Final = 5
"""How often a client tries to determine the outcome of a change before it continues with another operation."""

PAUSE_S: Final = 0.005
CIRCLE_THREADS: Final = 4
"""So many threads of each process use the same registers."""


@dataclass(frozen=True)
class Job:
    """The settings of a worker. `history` is the folder of the generations; `seats` has one for each of its threads.
    `inherited` are changes of a worker that was killed, which this one takes up: it sends them again."""

    engine: Engine
    name: str
    seed: int
    registers: int
    seats: Sequence[int]
    board: Path
    seats_in_all: int
    history: Path
    inherited: Sequence[Operation] = ()


@dataclass(frozen=True)
class Change:
    """A compare-and-set, as it is sent and sent again."""

    register: str
    expected_version: int
    data: str
    operation_id: str


def keys_of(seed: int, generation: int, registers: int) -> list[str]:
    """The registers of a generation."""
    return [
        f"repository/{sha256(f'{seed}/{generation}/{number}'.encode()).hexdigest()[:32]}" for number in range(registers)
    ]


def work(job: Job) -> None:
    """The whole life of a worker. An error that no client should ever see ends it with exit status 1, and the run."""
    end_with_parent()
    board = Board(job.board, job.seats_in_all, job.registers)
    registers = open_registers(job.engine, job.name)
    seen = Seen()
    broken: list[str] = []

    def client(thread: int) -> None:
        inherited = [Change(**_arguments(change)) for change in job.inherited[thread :: len(job.seats)]]
        try:
            Client(job, thread, board, registers, seen).run(inherited)
        except BaseException:  # noqa: BLE001 - reported below
            broken.append(traceback.format_exc())
            board.stop()

    threads = [threading.Thread(target=client, args=(thread,)) for thread in range(len(job.seats))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if broken:
        raise SystemExit(f"{job.name}: {broken[0]}")


class Seen:
    """The newest version of each register that this process has seen."""

    def __init__(self) -> None:
        self._versions: Counter[str] = Counter()

    def version(self, key: str) -> int:
        return self._versions[key]

    def note(self, key: str, version: int) -> None:
        self._versions[key] = max(self._versions[key], version)


class Client:
    """One thread of a worker."""

    def __init__(self, job: Job, thread: int, board: Board, registers: Registers, seen: Seen) -> None:
        self._job = job
        self._name = f"{job.name}.{thread}"
        self._thread = thread
        self._seat = job.seats[thread]
        self._board = board
        self._registers = registers
        self._seen = seen
        self._dice = random.Random(f"{job.seed}/{self._name}")
        self._changes = 0
        self._keys: Sequence[str] = ()
        self._recorder: Recorder

    def run(self, inherited: Sequence[Change]) -> None:
        generation = -1
        while not self._board.stopped:
            newest = self._board.generation
            if newest != generation:
                if generation >= 0:
                    self._recorder.close()
                generation = newest
                self._recorder = Recorder(self._job.history / str(generation), self._name)
                self._board.enter(self._seat, generation)
                self._keys = keys_of(self._job.seed, generation, self._job.registers)
            for change in inherited:
                if change.register in self._keys:
                    self._find_out(change)
            inherited = ()
            register = self._chosen()
            if self._board.used(register) < REGISTER_OPERATIONS:
                self._do_something(self._keys[register])
            else:
                time.sleep(PAUSE_S)  # the next generation is about to begin

    def _chosen(self) -> int:
        """The number of a register of this client's circle, which is small: where one register is slow for a while,
        clients gather there, and a checker's work can double with each that is at one register at once."""
        circles = max(len(self._job.seats) // CIRCLE_THREADS, 1)
        return self._dice.choice(range(len(self._keys))[self._thread % circles :: circles])

    def _do_something(self, key: str) -> None:
        what = self._dice.random()
        if what < 0.28:
            self._read(key)
        elif what < 0.34:
            self._watch(key)
        else:
            self._change(key)

    # ---- the operations of the port

    def _read(self, key: str) -> None:
        def call() -> Operation:
            return self._found(key, self._registers.read(key))

        self._recorded("read", key, call)

    def _watch(self, key: str) -> None:
        after_version = max(self._seen.version(key) - self._dice.randrange(4), 0)

        def call() -> Operation:
            timeout_s = self._dice.choice([0.0, 0.05])
            changes = self._registers.watch(key, after_version, timeout_s=timeout_s)
            if isinstance(changes, Resync):
                return self._found(key, changes.current) | {"kind": "resync"}
            return {"kind": "changes", "values": [[value.version, value.data.decode()] for value in changes]}

        self._recorded("watch", key, call, after_version=after_version)

    def _change(self, key: str) -> None:
        self._changes += 1
        name = f"{self._name}-{self._changes}".replace(".", "-")
        expected_version = max(self._seen.version(key) - (self._dice.random() < 0.03), 0)
        change = Change(key, expected_version, name, name)
        if self._send(change)["kind"] == "unknown":
            self._find_out(change)
        elif self._dice.random() < 0.05:
            self._ask(change)

    def _find_out(self, change: Change) -> None:
        """Send it again, or ask for its outcome: sometimes only after a delay."""
        for _ in range(TRIES_MAX):
            if self._board.stopped:
                return
            if self._dice.random() < 0.2:
                time.sleep(self._dice.random())
            tried = self._send(change) if self._dice.random() < 0.6 else self._ask(change)
            if tried["kind"] not in {"unknown", "failed"}:
                return

    def _send(self, change: Change) -> Operation:
        def call() -> Operation:
            value = self._registers.compare_and_set(
                change.register, change.expected_version, change.data.encode(), change.operation_id
            )
            return self._found(change.register, value)

        return self._recorded(
            "compare_and_set",
            change.register,
            call,
            expected_version=change.expected_version,
            data=change.data,
            operation_id=change.operation_id,
        )

    def _ask(self, change: Change) -> Operation:
        """Where it is not found, it will never be: unless so much has changed since that it may be forgotten."""
        key = change.register

        def call() -> Operation:
            value = self._registers.outcome(key, change.operation_id)
            if value is not None:
                return self._found(key, value)
            now = self._registers.read(key)
            forgotten = now is not None and now.version > change.expected_version + CHANGES_KEPT
            return UNKNOWN if forgotten else {"kind": "absent"}

        return self._recorded("outcome", key, call, operation_id=change.operation_id)

    def _found(self, key: str, value: Versioned | None) -> Operation:
        version = value.version if value else 0
        self._seen.note(key, version)
        return {"kind": "value", "version": version, "data": value.data.decode() if value else ""}

    def _recorded(self, operation: str, key: str, call: Callable[[], Operation], **arguments: object) -> Operation:
        number = self._recorder.called(operation, key, **arguments)
        try:
            result = call()
        except Conflict as error:
            version = error.fields["current_version"]
            assert isinstance(version, int)
            self._seen.note(key, version)
            result = {"kind": "conflict", "current_version": version}
        except OutcomeUnknown:
            result = UNKNOWN
        except Unavailable:
            result = {"kind": "failed"}
        except SkyholdError as error:
            raise AssertionError(f"{operation} of {key} by {self._name} ended with {error!r}") from error
        self._recorder.returned(number, result)
        self._board.count(self._seat, self._keys.index(key))
        return result


def _arguments(change: Operation) -> dict[str, object]:
    return {name: change[name] for name in ("register", "expected_version", "data", "operation_id")}
