"""Random operations on an engine beside a plain dict: every answer is the same."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from skyhold.consensus.epochs import StoreRegisters
from skyhold.consensus.memory import MemoryRegisters
from skyhold.consensus.register import CHANGES_KEPT, RegisterChange, Registers, Resync, Versioned
from skyhold.consensus.sqlite import SqliteRegisters
from skyhold.errors import Conflict
from tests.consensus.epochs import REPOSITORY, Epochs
from tests.consensus.fixtures import bucket_registers, new_buckets

keys = st.sampled_from(["config", "names", "repository/" + "0" * 32, "document/" + "0" * 32])
data = st.binary(min_size=1, max_size=8)
operation_ids = st.integers(0, 40).map(str)
steps_back = st.integers(-1, 2)


class RegistersMachine(RuleBasedStateMachine):
    """The model is a list of values per key; index + 1 is the version."""

    registers: Registers

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[str, list[Versioned]] = {}
        self.operations: dict[tuple[str, str], Versioned] = {}

    def newest(self, key: str) -> Versioned | None:
        return self.history[key][-1] if key in self.history else None

    @rule(key=keys, back=steps_back, data=data, operation_id=operation_ids)
    def compare_and_set(self, key: str, back: int, data: bytes, operation_id: str) -> None:
        current = self.newest(key)
        version = current.version if current else 0
        expected_version = max(version - back, 0)
        wanted: Versioned | None
        if (key, operation_id) in self.operations:
            wanted = self.operations[key, operation_id]
        elif expected_version != version or (current and current.sealed):
            wanted = None
        else:
            wanted = Versioned(version + 1, data)
            self.history.setdefault(key, []).append(wanted)
            self.operations[key, operation_id] = wanted
        try:
            got = self.registers.compare_and_set(key, expected_version, data, operation_id)
        except Conflict as conflict:
            assert wanted is None
            assert conflict.fields["current_version"] == version
        else:
            assert got == wanted

    @rule(key=keys, back=steps_back, next_configuration=data)
    def seal(self, key: str, back: int, next_configuration: bytes) -> None:
        current = self.newest(key)
        version = current.version if current else 0
        expected_version = max(version - back, 0)
        wanted: Versioned | None
        if current is not None and current.next_configuration == next_configuration:
            wanted = current
        elif expected_version != version or (current and current.sealed):
            wanted = None
        else:
            wanted = Versioned(version + 1, current.data if current else b"", next_configuration)
            self.history.setdefault(key, []).append(wanted)
        try:
            got = self.registers.seal(key, expected_version, next_configuration)
        except Conflict:
            assert wanted is None
        else:
            assert got == wanted

    @rule(key=keys, operation_id=operation_ids)
    def outcome(self, key: str, operation_id: str) -> None:
        assert self.registers.outcome(key, operation_id) == self.operations.get((key, operation_id))

    @rule(key=keys, back=st.integers(-2, 6))
    def watch(self, key: str, back: int) -> None:
        history = self.history.get(key, [])
        after_version = max(len(history) - back, 0)
        got = self.registers.watch(key, after_version, timeout_s=0)
        if history and after_version > len(history):
            assert got == Resync(history[-1])
        else:
            assert got == history[after_version:]

    @rule(key=keys)
    def changes(self, key: str) -> None:
        operations = {value.version: operation for (of, operation), value in self.operations.items() if of == key}
        wanted = [RegisterChange(value, operations.get(value.version)) for value in self.history.get(key, [])]
        assert self.registers.changes(key) == wanted

    @invariant()
    def every_register_reads_as_the_model(self) -> None:
        assert self.registers.list() == sorted(self.history)
        for key, history in self.history.items():
            assert self.registers.read(key) == history[-1]

    def teardown(self) -> None:
        self.registers.close()


class MemoryMachine(RegistersMachine):
    def __init__(self) -> None:
        super().__init__()
        self.registers = MemoryRegisters()


class SqliteMachine(RegistersMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "registers.sqlite"
        self.registers = SqliteRegisters(self.path)

    @rule()
    def reopen(self) -> None:
        self.registers.close()
        self.registers = SqliteRegisters(self.path)

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


class BucketMachine(RegistersMachine):
    def __init__(self) -> None:
        super().__init__()
        self.buckets = new_buckets(3)
        self.registers = bucket_registers(self.buckets)

    @rule()
    def another_process(self) -> None:
        self.registers.close()
        self.registers = bucket_registers(self.buckets)

    @rule(gone=st.sampled_from([None, 0, 1, 2]))
    def lose_a_cloud(self, gone: int | None) -> None:
        for number, bucket in enumerate(self.buckets):
            bucket.away = number == gone


class EpochMachine(RegistersMachine):
    """From epoch to epoch and engine to engine: each move is a change of every register that leaves its data."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs = self.new_epochs()
        self.registers: StoreRegisters = self.epochs.process()
        self.compare_and_set("config", 0, b"first", "first")

    def new_epochs(self) -> Epochs:
        return Epochs()

    @rule()
    def move(self) -> None:
        self.moved(self.registers.advance(lambda _: self.epochs.next()))

    @rule(sealed=st.integers(1, 3))
    def move_that_died(self, sealed: int) -> None:
        """It stopped after some of its seals; any client that meets one finishes it."""
        following = self.epochs.next()
        for key in ["config", "names", REPOSITORY][:sealed]:
            current = self.newest(key)
            self.registers.current.seal(key, current.version if current else 0, following)
        self.moved(following)

    @rule()
    def another_process(self) -> None:
        """It knows the first epoch alone."""
        self.registers.close()
        self.registers = self.epochs.process()

    def moved(self, following: bytes) -> None:
        for key, history in self.history.items():
            data = b"epoch " + following if key == "config" else history[-1].data
            history.append(Versioned(len(history) + 1, data))

    def teardown(self) -> None:
        super().teardown()
        self.epochs.close()

    seal = None  # a move alone seals


# Fewer steps than an engine keeps changes: the model never forgets an operation.
STEPS = CHANGES_KEPT - 14
TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(max_examples=60, stateful_step_count=STEPS)
TestSqlite = SqliteMachine.TestCase
TestSqlite.settings = settings(max_examples=12, stateful_step_count=STEPS)
TestBuckets = BucketMachine.TestCase
TestBuckets.settings = settings(max_examples=20, stateful_step_count=STEPS)
TestEpochs = EpochMachine.TestCase
TestEpochs.settings = settings(max_examples=30, stateful_step_count=STEPS)
