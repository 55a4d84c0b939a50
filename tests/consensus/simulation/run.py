"""One run of the simulation: processes that use two registers of a store over one to seven clouds, while everything
fails and operators change the voters."""

from __future__ import annotations

import os
import random
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from skyhold.codec import frame
from skyhold.codec.frame import FrameKeys
from skyhold.consensus import voter
from skyhold.consensus.acceptor_object import AcceptorObject
from skyhold.consensus.epochs import StoreRegisters
from skyhold.errors import SkyholdError
from tests.consensus.histories.history import Operation
from tests.consensus.histories.linearizability import Verdict
from tests.consensus.histories.register_model import judge
from tests.consensus.histories.watching import watch_violation
from tests.consensus.simulation.clients import Clients
from tests.consensus.simulation.clouds import Cloud, Network
from tests.consensus.simulation.epochs import KEY_NAMES, Configuration, Epochs
from tests.consensus.simulation.judge import violation
from tests.consensus.simulation.misfortunes import Misfortunes
from tests.consensus.simulation.operators import Operator
from tests.consensus.simulation.world import Process, World

OPERATIONS = 10
FAULTS_END_S = 90.0
DECODED_EVERY = 8
HALF_ROUND_TRIPS_S = (0.01, 0.04, 0.09)


@dataclass
class Report:
    """What happened in one run, and what must not: wrong answers to clients or watchers, an epoch that begins twice, a
    register that cannot be read in the end. `injected` counts faults by name and phase; `epoch` is the last that was
    begun."""

    seed: int
    violation: str | None = None
    watch_violation: str | None = None
    fork: str | None = None
    unreadable: str | None = None
    epoch: int = 1
    operations: Counter[str] = field(default_factory=Counter)
    injected: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    history: list[Operation] = field(default_factory=list, repr=False)


@contextmanager
def cheap_frames(seed: int) -> Iterator[None]:
    """The content of a body is remembered from its writer, and decoded for one in `DECODED_EVERY` and where no process
    wrote it so; none is compressed, and what is random in it is the seed's. The driver sees no difference, and a seed
    takes half the time."""
    encode, decode, smallest = voter.encode_acceptor, voter.decode_acceptor, frame._COMPRESS_FROM_BYTES
    urandom, token_hex = os.urandom, secrets.token_hex
    known: dict[tuple[bytes, int, str, str], AcceptorObject] = {}

    def remember(held: AcceptorObject, epoch: int, key: str, name: str, keys: FrameKeys) -> bytes:
        body = encode(held, epoch, key, name, keys)
        if body[-1] % DECODED_EVERY:
            known[body, epoch, key, name] = held
        return body

    def recall(body: bytes, epoch: int, key: str, name: str, keys: FrameKeys) -> AcceptorObject:
        found = known.get((body, epoch, key, name))
        if found is None:
            found = known[body, epoch, key, name] = decode(body, epoch, key, name, keys)
        return found

    voter.encode_acceptor, voter.decode_acceptor = remember, recall
    frame._COMPRESS_FROM_BYTES = frame.BODY_BYTES_MAX + 1  # type: ignore[misc]
    os.urandom = random.Random(seed).randbytes
    secrets.token_hex = lambda length: os.urandom(length).hex()
    try:
        yield
    finally:
        voter.encode_acceptor, voter.decode_acceptor = encode, decode
        frame._COMPRESS_FROM_BYTES = smallest  # type: ignore[misc]
        os.urandom, secrets.token_hex = urandom, token_hex


class Run:
    def __init__(self, seed: int, *, operations: int = OPERATIONS) -> None:
        self.world = World(seed)
        self.dice = self.world.random
        self.report = Report(seed)
        voters = self.dice.choice([1, 3, 3, 3, 3, 5])
        self.operators = self.dice.choice([0, 0, 0, 0, 0, 0, 1, 1, 2, 3])
        self.operations = operations * 7 // 10 if self.operators else operations  # a move costs as much as many changes
        self.clouds = [self._cloud(number, number < voters) for number in range(voters + 2 * bool(self.operators))]
        rates = (0.0, 0.05, 0.1, 0.15) if self.operators else (0.0, 0.02, 0.05, 0.15)
        self.network = Network(self.world, self.dice.choice(rates), self.report.injected)
        self.epochs = Epochs(self.world, {cloud.name: cloud for cloud in self.clouds}, self.network)
        self.epochs.found([cloud.name for cloud in self.clouds[:voters]])
        # Some stores are moved before they are used.
        quiet_s = self.dice.choice([0.0, 0.0, 2.0]) if self.operators else 0.0
        self.clients = Clients(self.world, self.report.operations, self.report.errors, quiet_s)
        self.processes: list[Process] = []
        self.misfortunes = Misfortunes(
            self.world, self.network, self.epochs, self.processes, self.report.injected, self._replaced
        )

    def execute(self) -> Report:
        for _ in range(2 if self.operators else self.dice.choice([2, 2, 3])):
            self._process(self.operations)
        if self.network.fault_rate:
            for _ in range(self.dice.randrange(5)):
                self.world.at(self.dice.random() * 8, self.misfortunes.strike)
        at_s = 0.0
        for _ in range(self.operators):
            # Two of them at once, or one after the other.
            at_s = self.dice.choice([at_s + self.dice.random() * 0.1, self.dice.random() * 6])
            if self.network.fault_rate and self.dice.random() < 0.5:
                # A cloud is lost for good or for a while, which is why they come, or what they do not notice.
                misfortune = self.dice.choice((self.misfortunes.empty, self.misfortunes.empty, self.misfortunes.lose))
                self.world.at(at_s + self.dice.random() * 0.3 - 0.2, misfortune)
            self.world.at(at_s, self._operator)
        self.world.at(FAULTS_END_S, self._heal)
        with cheap_frames(self.report.seed):
            self.world.run()
        self._judge()
        self.report.fork = self.epochs.fork and f"seed {self.report.seed}: {self.epochs.fork}"
        self.report.epoch = self.epochs.newest.epoch
        self.report.requests = self.network.requests
        return self.report

    def recorded(self) -> list[Operation]:
        """What the clients did so far, for the judges of `tests/consensus/histories`."""
        moves = [move for move in self.epochs.moves.values() if move.register in KEY_NAMES]
        return [*moves, *(operation for client in self.clients.recorded for operation in client.operations)]

    def _judge(self) -> None:
        self.report.history = self.recorded()
        for key, history in self.clients.history.items():
            moved = [move.called_ns / 1e9 for move in self.epochs.moves.values() if move.register == key]
            found = violation(history, moved)
            if found is not None:
                self.report.violation = f"seed {self.report.seed}, register {key}: {found}"
        for key, judgement in judge(self.report.history).items():
            if self.report.violation is None and judgement.verdict is not Verdict.OK:
                self.report.violation = f"seed {self.report.seed}, register {key}: {judgement}"
        wrong_answer = watch_violation(self.report.history)
        if wrong_answer is not None:
            self.report.watch_violation = f"seed {self.report.seed}: {wrong_answer}"

    # ---- who takes part

    def _cloud(self, number: int, votes: bool) -> Cloud:
        incarnation = f"{number:032x}" if votes else None
        return Cloud(self.world, f"cloud-{number}", incarnation, self.dice.choice(HALF_ROUND_TRIPS_S))

    def _process(self, operations: int, *, stale: bool = False) -> None:
        """One that begins now. `stale`: it knows the store as it was at first."""
        process, registers = self._opened("process", self.epochs.begun[1] if stale else self.epochs.newest)
        for thread in range(self.dice.choice([1, 1, 2])):
            self._start(process, registers, f"{process.name}.{thread}", self.clients.work, operations)
        if self.dice.random() < 0.25:
            self._start(process, registers, f"{process.name}.watcher", self.clients.watch, operations)

    def _opened(self, what: str, configuration: Configuration) -> tuple[Process, StoreRegisters]:
        process = Process(self.world, f"{what}-{len(self.processes)}")
        if self.dice.random() < 0.5:  # it has a place of its own; the others are in the common place
            process.distances_s = {cloud.name: self.dice.choice(HALF_ROUND_TRIPS_S) for cloud in self.clouds}
        self.processes.append(process)
        return process, self.epochs.process(process, configuration)

    def _start(self, process: Process, registers: StoreRegisters, name: str, task: _Task, operations: int) -> None:
        process.start(lambda: task(process, registers, name, operations))

    def _replaced(self) -> None:
        self._process(self.operations // 2)

    def _operator(self) -> None:
        """An operator that moves the store; some fail during it, and some later ones know epoch 1 alone."""
        process, registers = self._opened("operator", self.epochs.newest)
        operator = Operator(process, registers, self.epochs, self.misfortunes, self._given_up, self._moved)
        process.start(operator.work)
        if self.network.fault_rate and self.dice.random() < 0.4:
            what = self.dice.choice(("kill", "pause", "clock jump", "cut"))
            self.world.at(self.dice.random(), lambda: self.misfortunes.strike_process(what, process))

    def _given_up(self, why: str) -> None:
        self.report.errors[f"move: {why}"] += 1

    def _moved(self) -> None:
        self.report.operations["move"] += 1
        if self.network.fault_rate:
            self.world.at(self.dice.random() * 5, self.misfortunes.bring_back)
        if self.dice.random() < 0.2:
            self.report.injected["stale process", "any"] += 1
            self.world.at(self.dice.random() * 3, lambda: self._process(self.operations // 2, stale=True))

    def _heal(self) -> None:
        """From here on nothing fails, and every register can be read by a new process."""
        self.misfortunes.heal()
        process, registers = self._opened("last", self.epochs.newest)

        def look() -> None:
            try:
                self.clients.look(registers)
            except SkyholdError as error:
                self.report.unreadable = (
                    f"seed {self.report.seed}: not everything can be read when all is well: {error}"
                )

        process.start(look)


_Task = Callable[[Process, StoreRegisters, str, int], None]


def simulate(seed: int, *, operations: int = OPERATIONS, prepare: Callable[[Run], None] | None = None) -> Report:
    """The report of one seed."""
    run = Run(seed, operations=operations)
    if prepare is not None:
        prepare(run)
    return run.execute()
