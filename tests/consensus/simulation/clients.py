"""The clients of a run: they read, change, ask and watch, and what they saw is written down for the judges."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from skyhold import error_codes
from skyhold.consensus.epochs import StoreRegisters
from skyhold.consensus.pinned_registers import PinnedRegisters
from skyhold.consensus.register import Resync
from skyhold.errors import Conflict, OutcomeUnknown, SkyholdError
from tests.consensus.histories.recording import RecordedClient
from tests.consensus.simulation.epochs import KEY_NAMES
from tests.consensus.simulation.judge import FOREVER, Done
from tests.consensus.simulation.world import Process, World


@dataclass(frozen=True)
class Pending:
    """A change whose outcome its client does not know; `index` is its place in the history of the register."""

    key: str
    expected_version: int
    data: bytes
    operation_id: str
    index: int


@dataclass(eq=False)
class Clients:
    """All clients, and what they saw: `history` for the quick judge, `recorded` in the common format. No client does
    anything before `quiet_until_s`."""

    world: World
    operations: Counter[str]
    errors: Counter[str]
    quiet_until_s: float = 0.0
    history: dict[str, list[Done]] = field(default_factory=lambda: {key: [] for key in KEY_NAMES})
    recorded: list[RecordedClient] = field(default_factory=list)
    writes: int = 0
    _seen: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KEY_NAMES, 0))
    _listed: set[str] = field(default_factory=set)
    """The processes that have found `names` made, and with it the key of the other register."""

    def client(self, registers: StoreRegisters, name: str) -> RecordedClient:
        self.recorded.append(RecordedClient(registers, name, lambda: round(self.world.now_s * 1e9)))
        return self.recorded[-1]

    def work(self, process: Process, epochs: StoreRegisters, name: str, operations: int) -> None:
        """Read and change both registers; find out what became of a change whose outcome is unknown."""
        dice, client = self.world.random, self.client(epochs, name)
        unsure: Pending | None = None
        done: Pending | None = None
        process.sleep(self.quiet_until_s - self.world.now_s)
        for _ in range(operations):
            # As a push: it counts on the epoch in which it began, and takes a while.
            client.registers = PinnedRegisters(epochs) if dice.random() < 0.2 else epochs
            process.sleep(dice.random() * dice.choice([0.01, 0.3, 1.0]))
            key = dice.choice(KEY_NAMES)
            if unsure is not None:
                unsure = self._ask(client, unsure)
            elif done is not None and dice.random() < 0.1:
                self._again(client, done)
            elif dice.random() < 0.35:
                (self._read_known if dice.random() < 0.3 else self._read)(client, key)
            else:
                unsure, done = self._change(client, key)

    def watch(self, process: Process, epochs: StoreRegisters, name: str, operations: int) -> None:
        """Follow one register, now and then so late that it has to catch up."""
        dice, client = self.world.random, self.client(epochs, name)
        key, version = dice.choice(KEY_NAMES), 0
        for _ in range(operations):
            process.sleep(dice.random() * dice.choice([0.01, 0.3, 0.3, 3.0, 60.0]))
            self.operations["watch"] += 1
            try:
                reported = client.watch(key, version, timeout_s=dice.choice([0.0, 0.2, 1.0]))
            except SkyholdError as error:
                self._failed("watch", error)
                continue
            if isinstance(reported, Resync):
                version = reported.current.version
            elif reported:
                version = reported[-1].version

    def look(self, epochs: StoreRegisters) -> None:
        """Once nothing fails any more, every register can be watched and read by a new client: what fails is raised."""
        client = self.client(epochs, "last")
        for key in KEY_NAMES:
            client.watch(key, 0, timeout_s=0)
            self._found(client, key)

    def _read(self, client: RecordedClient, key: str) -> None:
        try:
            self._found(client, key)
        except SkyholdError as error:
            self._failed("read", error)
            return
        self.operations["read"] += 1

    def _found(self, client: RecordedClient, key: str) -> None:
        called = self.world.now_s
        value = client.read(key)
        version, data = (value.version, value.data) if value else (0, b"")
        self._saw(client, key, version)
        self.history[key].append(Done(client.name, "read", called, self.world.now_s, version, data))

    def _read_known(self, client: RecordedClient, key: str) -> None:
        """A value that was the newest within an age is one that a read found that began so long before the call. Of one
        that is only durable it is unknown when it was the newest."""
        began_s = self.world.now_s
        try:
            found = client.read_known(key, max_age_s=self.world.random.choice([0, 2, 20]))
        except SkyholdError as error:
            self._failed("read_known", error)
            return
        now_s = self.world.now_s
        called = 0.0 if found.age_s is None else began_s - found.age_s
        self.operations["read_known" if found.age_s is not None else "read_known, stale"] += 1
        if found.value is not None:
            done = Done(client.name, "read_known", called, now_s, found.value.version, found.value.data)
            self.history[key].append(done)
        elif found.age_s is not None:
            self.history[key].append(Done(client.name, "read_known", called, now_s, 0))

    def _change(self, client: RecordedClient, key: str) -> tuple[Pending | None, Pending]:
        """What is unsure of the change after it was sent, if anything, and the change."""
        if self._process(client) not in self._listed:
            key = "names"  # where a process finds the key of the other, which is entered before that is made
        self.writes += 1
        data, operation_id = b"%s-%d" % (client.name.encode(), self.writes), f"op-{self.writes}"
        expected = max(self._seen[key] - (self.world.random.random() < 0.1), 0)
        change = Pending(key, expected, data, operation_id, len(self.history[key]))
        self.history[key].append(
            Done(client.name, "compare_and_set", self.world.now_s, FOREVER, None, data, fate="unknown")
        )
        return self._send(client, change), change

    def _send(self, client: RecordedClient, change: Pending) -> Pending | None:
        key = change.key
        pending = self.history[key][change.index]
        called = self.world.now_s
        self.operations["compare_and_set"] += 1
        try:
            value = client.compare_and_set(key, change.expected_version, change.data, change.operation_id)
        except OutcomeUnknown as error:
            self._failed("compare_and_set", error)
            return change
        except Conflict as error:
            self.history[key][change.index] = replace(pending, fate="never")
            if error.code == error_codes.MEMBERSHIP_CHANGED:
                self._failed("compare_and_set", error)
                return None
            version = error.fields["current_version"]
            assert isinstance(version, int)
            self._saw(client, key, version)
            self.history[key].append(Done(pending.client, "conflict", called, self.world.now_s, version))
            return None
        except SkyholdError as error:
            self._failed("compare_and_set", error)
            # What was sent before may still take effect; a first attempt that failed must not.
            fate = "never" if called == pending.called else "unknown"
            self.history[key][change.index] = replace(pending, fate=fate)
            return None
        assert value.data == change.data
        self._took_effect(client, change, value.version)
        return None

    def _ask(self, client: RecordedClient, change: Pending) -> Pending | None:
        """Find out what became of an operation: ask, or send it again."""
        if self.world.random.random() < 0.5:
            return self._send(client, change)
        self.operations["outcome"] += 1
        try:
            value = client.outcome(change.key, change.operation_id)
        except SkyholdError as error:
            self._failed("outcome", error)
            return change
        if value is None:
            history = self.history[change.key]
            history[change.index] = replace(history[change.index], fate="never")
        else:
            self._took_effect(client, change, value.version)
        return None

    def _again(self, client: RecordedClient, change: Pending) -> None:
        """Send or ask once more what has been done, like a client that has forgotten it. The quick judge knows no
        ids."""
        if self.history[change.key][change.index].fate != "known":
            return
        what = self.world.random.choice(("compare_and_set", "outcome"))
        self.operations[what] += 1
        try:
            if what == "outcome":
                client.outcome(change.key, change.operation_id)
            else:
                client.compare_and_set(change.key, change.expected_version, change.data, change.operation_id)
        except SkyholdError as error:
            self._failed(what, error)

    def _took_effect(self, client: RecordedClient, change: Pending, version: int) -> None:
        history = self.history[change.key]
        self._saw(client, change.key, version)
        history[change.index] = replace(
            history[change.index], returned=self.world.now_s, saw=version, changes=True, fate="known"
        )

    def _saw(self, client: RecordedClient, key: str, version: int) -> None:
        self._seen[key] = max(self._seen[key], version)
        if key == "names" and version:
            self._listed.add(self._process(client))

    def _process(self, client: RecordedClient) -> str:
        return client.name.rpartition(".")[0]

    def _failed(self, what: str, error: SkyholdError) -> None:
        self.errors[f"{what}: {type(error).__name__} {error.code}"] += 1
