"""One run of the simulation: processes that use two registers over three or five clouds while everything fails."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache

from skyhold.codec import frame
from skyhold.consensus import voter
from skyhold.consensus.buckets import BucketRegisters
from skyhold.consensus.register import Resync
from skyhold.consensus.voter import Voter
from skyhold.errors import Conflict, OutcomeUnknown, SkyholdError
from tests.consensus.fixtures import KEYS
from tests.consensus.histories.history import Operation
from tests.consensus.histories.linearizability import Verdict
from tests.consensus.histories.recording import RecordedClient
from tests.consensus.histories.register_model import judge
from tests.consensus.histories.watching import watch_violation
from tests.consensus.simulation.clouds import Cloud, Network, SimulatedBucket
from tests.consensus.simulation.judge import FOREVER, Done, violation
from tests.consensus.simulation.world import Process, SimulatedRuntime, World

KEY_NAMES = ("names", "config")
OPERATIONS = 10
FAULTS_END_S = 90.0


@dataclass
class Report:
    """What happened in one run. `injected` counts faults by name and phase."""

    seed: int
    violation: str | None = None
    watch_violation: str | None = None
    operations: Counter[str] = field(default_factory=Counter)
    injected: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    history: list[Operation] = field(default_factory=list, repr=False)


@contextmanager
def cheap_frames() -> Iterator[None]:
    """What a body says is worked out once for each body, and none is compressed; no garbage is looked for meanwhile.
    The driver sees no difference, and a seed takes half the time."""
    decode, smallest = voter.decode_acceptor, frame._COMPRESS_FROM_BYTES
    once = lru_cache(maxsize=4096)(lambda body, epoch, key, name: decode(body, epoch, key, name, KEYS))
    voter.decode_acceptor = lambda body, epoch, key, name, _keys: once(body, epoch, key, name)
    frame._COMPRESS_FROM_BYTES = frame.BODY_BYTES_MAX + 1  # type: ignore[misc]
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        voter.decode_acceptor, frame._COMPRESS_FROM_BYTES = decode, smallest  # type: ignore[misc]
        if collecting:
            gc.enable()


class Run:
    def __init__(self, seed: int, *, operations: int = OPERATIONS) -> None:
        self.world = World(seed)
        self.dice = self.world.random
        self.report = Report(seed)
        self.operations = operations
        voters = self.dice.choice([1, 3, 3, 3, 3, 5])
        self.clouds = [
            Cloud(self.world, f"cloud-{n}", f"{n:032x}", self.dice.choice([0.01, 0.04, 0.09])) for n in range(voters)
        ]
        self.network = Network(self.world, self.dice.choice([0.0, 0.02, 0.05, 0.15]), self.report.injected)
        self.history: dict[str, list[Done]] = {key: [] for key in KEY_NAMES}
        self.seen: dict[str, int] = dict.fromkeys(KEY_NAMES, 0)
        self.processes: list[Process] = []
        self.clients: list[RecordedClient] = []
        self.writes = 0

    def execute(self) -> Report:
        for number in range(self.dice.choice([2, 2, 3])):
            self._process(number, self.operations)
        if self.network.fault_rate:
            for _ in range(self.dice.randrange(5)):
                self.world.at(self.dice.random() * 8, self._misfortune)
        self.world.at(FAULTS_END_S, self._heal)
        with cheap_frames():
            self.world.run()
        for key, history in self.history.items():
            found = violation(history)
            if found is not None:
                self.report.violation = f"seed {self.report.seed}, register {key}: {found}"
        self.report.history = self.recorded()
        for key, judgement in judge(self.report.history).items():
            if self.report.violation is None and judgement.verdict is not Verdict.OK:
                self.report.violation = f"seed {self.report.seed}, register {key}: {judgement}"
        told = watch_violation(self.report.history)
        if told is not None:
            self.report.watch_violation = f"seed {self.report.seed}: {told}"
        self.report.requests = self.network.requests
        return self.report

    def recorded(self) -> list[Operation]:
        """What the clients did so far, for the judges of `tests/consensus/histories`."""
        return [operation for client in self.clients for operation in client.operations]

    # ---- processes

    def _process(self, number: int, operations: int) -> None:
        process = Process(self.world, f"process-{number}-{len(self.processes)}")
        self.processes.append(process)
        registers = self._open(process)
        for thread in range(self.dice.choice([1, 1, 2])):
            client = f"{process.name}.{thread}"
            recorded = self._client(registers, client)
            process.start(lambda recorded=recorded: self._work(process, recorded, operations))  # type: ignore[misc]
        if self.dice.random() < 0.25:
            watcher = self._client(registers, f"{process.name}.watcher")
            process.start(lambda: self._watch(process, watcher, operations))

    def _client(self, registers: BucketRegisters, name: str) -> RecordedClient:
        self.clients.append(RecordedClient(registers, name, lambda: round(self.world.now_s * 1e9)))
        return self.clients[-1]

    def _open(self, process: Process) -> BucketRegisters:
        voters = []
        for cloud in self.clouds:
            bucket = SimulatedBucket(cloud, self.network, process)
            voters.append(Voter(bucket, cloud.incarnation, bucket.verify))
        return BucketRegisters(voters, 1, KEYS, writer=process.name, deadline_s=20, runtime=SimulatedRuntime(process))

    def _work(self, process: Process, client: RecordedClient, operations: int) -> None:
        unsure: tuple[str, int, bytes, str, int] | None = None
        for _ in range(operations):
            process.sleep(self.dice.random() * self.dice.choice([0.01, 0.3, 1.0]))
            key = self.dice.choice(KEY_NAMES)
            if unsure is not None:
                unsure = self._ask(client, unsure)
            elif self.dice.random() < 0.35:
                if self.dice.random() < 0.3:
                    self._read_known(client, key)
                else:
                    self._read(client, key)
            else:
                unsure = self._change(client, key)

    def _read(self, client: RecordedClient, key: str) -> None:
        called = self.world.now_s
        try:
            value = client.read(key)
        except SkyholdError as error:
            self._failed("read", error)
            return
        self.report.operations["read"] += 1
        version = value.version if value else 0
        self.seen[key] = max(self.seen[key], version)
        self.history[key].append(
            Done(client.name, "read", called, self.world.now_s, version, value.data if value else b"")
        )

    def _read_known(self, client: RecordedClient, key: str) -> None:
        """A value that was the newest within an age is one that a read found that began so long before the call. Of one
        that is only durable nobody knows when it was the newest."""
        began_s = self.world.now_s
        try:
            found = client.registers.read_known(key, max_age_s=self.dice.choice([0, 2, 20]))
        except SkyholdError as error:
            self._failed("read_known", error)
            return
        now_s = self.world.now_s
        called = 0.0 if found.age_s is None else began_s - found.age_s
        self.report.operations["read_known" if found.age_s is not None else "read_known, stale"] += 1
        if found.value is not None:
            done = Done(client.name, "read_known", called, now_s, found.value.version, found.value.data)
            self.history[key].append(done)
        elif found.age_s is not None:
            self.history[key].append(Done(client.name, "read_known", called, now_s, 0))

    def _change(self, client: RecordedClient, key: str) -> tuple[str, int, bytes, str, int] | None:
        self.writes += 1
        data, operation_id = b"%s-%d" % (client.name.encode(), self.writes), f"op-{self.writes}"
        expected = max(self.seen[key] - (self.dice.random() < 0.1), 0)
        index = len(self.history[key])
        self.history[key].append(
            Done(client.name, "compare_and_set", self.world.now_s, FOREVER, None, data, fate="unknown")
        )
        return self._send(client, (key, expected, data, operation_id, index))

    def _send(
        self, client: RecordedClient, change: tuple[str, int, bytes, str, int]
    ) -> tuple[str, int, bytes, str, int] | None:
        key, expected, data, operation_id, index = change
        pending = self.history[key][index]
        called = self.world.now_s
        self.report.operations["compare_and_set"] += 1
        try:
            value = client.compare_and_set(key, expected, data, operation_id)
        except OutcomeUnknown as error:
            self._failed("compare_and_set", error)
            return change
        except Conflict as error:
            version = error.fields["current_version"]
            assert isinstance(version, int)
            self.seen[key] = max(self.seen[key], version)
            self.history[key][index] = replace(pending, fate="never")
            self.history[key].append(Done(pending.client, "conflict", called, self.world.now_s, version))
            return None
        except SkyholdError as error:
            self._failed("compare_and_set", error)
            # What was sent before may still take effect; a first attempt that says so must not.
            fate = "never" if called == pending.called else "unknown"
            self.history[key][index] = replace(pending, fate=fate)
            return None
        self.seen[key] = max(self.seen[key], value.version)
        self.history[key][index] = replace(
            pending, returned=self.world.now_s, saw=value.version, changes=True, fate="known"
        )
        assert value.data == data
        return None

    def _ask(
        self, client: RecordedClient, change: tuple[str, int, bytes, str, int]
    ) -> tuple[str, int, bytes, str, int] | None:
        """Find out what became of an operation: ask, or send it again."""
        if self.dice.random() < 0.5:
            return self._send(client, change)
        key, _, _, operation_id, index = change
        self.report.operations["outcome"] += 1
        try:
            value = client.outcome(key, operation_id)
        except SkyholdError as error:
            self._failed("outcome", error)
            return change
        pending = self.history[key][index]
        if value is None:
            self.history[key][index] = replace(pending, fate="never")
        else:
            self.history[key][index] = replace(
                pending, returned=self.world.now_s, saw=value.version, changes=True, fate="known"
            )
        return None

    def _watch(self, process: Process, client: RecordedClient, operations: int) -> None:
        """Follow one register, now and then so late that it has to catch up."""
        key, version = self.dice.choice(KEY_NAMES), 0
        for _ in range(operations):
            process.sleep(self.dice.random() * self.dice.choice([0.01, 0.3, 0.3, 3.0, 60.0]))
            self.report.operations["watch"] += 1
            try:
                told = client.watch(key, version, timeout_s=self.dice.choice([0.0, 0.2, 1.0]))
            except SkyholdError as error:
                self._failed("watch", error)
                continue
            if isinstance(told, Resync):
                version = told.current.version
            elif told:
                version = told[-1].version

    def _failed(self, what: str, error: SkyholdError) -> None:
        self.report.errors[f"{what}: {type(error).__name__} {error.code}"] += 1

    # ---- misfortunes

    def _misfortune(self) -> None:
        what = self.dice.choice([self._kill, self._pause, self._jump, self._cut, self._lose, self._empty])
        what()

    def _note(self, what: str) -> None:
        self.report.injected[what, "any"] += 1

    def _kill(self) -> None:
        process = self.dice.choice(self.processes)
        if process.alive:
            process.alive = False
            self._note("kill")
            self._process(len(self.processes), self.operations // 2)

    def _pause(self) -> None:
        self.dice.choice(self.processes).paused_until_s = self.world.now_s + self.dice.choice([1, 5, 30])
        self._note("pause")

    def _jump(self) -> None:
        self.dice.choice(self.processes).clock_s += self.dice.choice([5, 100])
        self._note("clock jump")

    def _cut(self) -> None:
        pair = (self.dice.choice(self.processes).name, self.dice.choice(self.clouds).name)
        self.network.cut.add(pair)
        self.world.at(self.dice.random() * 20, lambda: self.network.cut.discard(pair))
        self._note("cut")

    def _lose(self) -> None:
        cloud = self.dice.choice(self.clouds)
        cloud.away = True
        self.world.at(self.dice.random() * 20, lambda: setattr(cloud, "away", False))
        self._note("cloud away")

    def _empty(self) -> None:
        """At most a minority is lost for good: more is no promise of any majority."""
        if sum(not cloud.admitted for cloud in self.clouds) < (len(self.clouds) - 1) // 2:
            self.dice.choice([cloud for cloud in self.clouds if cloud.admitted]).empty()
            self._note("cloud emptied")

    def _heal(self) -> None:
        """From here on nothing fails, and every register can be read by somebody new."""
        self.network.fault_rate = 0.0
        self.network.cut.clear()
        for cloud in self.clouds:
            cloud.away = False
        process = Process(self.world, "last")
        client = self._client(self._open(process), "last")

        def look() -> None:
            for key in KEY_NAMES:
                client.watch(key, 0, timeout_s=0)
                called = self.world.now_s
                try:
                    value = client.read(key)
                except SkyholdError as error:
                    self.report.violation = f"seed {self.report.seed}: {key} cannot be read when all is well: {error}"
                    return
                version = value.version if value else 0
                data = value.data if value else b""
                self.history[key].append(Done("last", "read", called, self.world.now_s, version, data))

        process.start(look)


def simulate(seed: int, *, operations: int = OPERATIONS, prepare: Callable[[Run], None] | None = None) -> Report:
    """The report of one seed."""
    run = Run(seed, operations=operations)
    if prepare is not None:
        prepare(run)
    return run.execute()
