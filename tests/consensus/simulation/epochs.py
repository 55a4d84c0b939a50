"""The epochs of a run: how a process goes from one to the next, and what really happened, which no process sees."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from skyhold.consensus.acceptor import AcceptorState, Ballot
from skyhold.consensus.acceptor_object import AcceptorObject, encode_acceptor, object_key
from skyhold.consensus.buckets import BucketRegisters
from skyhold.consensus.epochs import StoreRegisters
from skyhold.consensus.migration import CONFIG, Succession
from skyhold.consensus.register import RegisterChange, Registers, Versioned
from skyhold.consensus.voter import Voter
from tests.consensus.fixtures import KEYS
from tests.consensus.histories.history import Move, Operation, Unknown
from tests.consensus.simulation.clouds import Cloud, Network, SimulatedBucket
from tests.consensus.simulation.world import Process, SimulatedLock, SimulatedRuntime, World

KEY_NAMES = ("names", "repository/" + "5" * 32, "document/" + "7" * 32)
"""The registers under test: `names`, and one that it lists as soon as it is made."""
DEADLINE_S = 20


@dataclass(frozen=True)
class Configuration:
    """An epoch: its number, and its voters with the incarnations that they were admitted under."""

    epoch: int
    voters: tuple[tuple[str, str], ...]

    def encode(self) -> bytes:
        return json.dumps({"epoch": self.epoch, "voters": self.voters}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Configuration:
        fields = json.loads(data)
        return cls(fields["epoch"], tuple((name, incarnation) for name, incarnation in fields["voters"]))

    @property
    def minority(self) -> int:
        return (len(self.voters) - 1) // 2


@dataclass(eq=False)
class Epochs:
    """The epochs of all processes. `begun` by number; `asked`: what some operator wants to begin; `moves` by
    configuration and register, from when its first seal was sent."""

    world: World
    clouds: Mapping[str, Cloud]
    network: Network
    begun: dict[int, Configuration] = field(default_factory=dict)
    asked: list[Configuration] = field(default_factory=list)
    moves: dict[tuple[bytes, str], Operation] = field(default_factory=dict)
    fork: str | None = None

    def found(self, voters: Iterable[str]) -> None:
        """Begin epoch 1: a first configuration that all its voters have accepted."""
        first = Configuration(1, tuple((name, str(self.clouds[name].incarnation)) for name in voters))
        ballot = Ballot(1, f"{self.world.random.getrandbits(128):032x}")
        state = AcceptorState(ballot, ballot, (RegisterChange(Versioned(1, first.encode()), None),))
        for name, incarnation in first.voters:
            body = encode_acceptor(AcceptorObject(state, 1, "founder", ""), 1, CONFIG, incarnation, KEYS)
            self.clouds[name].objects[object_key(1, CONFIG)] = body
        self.entered(first)

    def process(self, process: Process, configuration: Configuration) -> StoreRegisters:
        """The registers as a process has them that knows this configuration."""
        runtime = SimulatedRuntime(process)
        succession = SimulatedSuccession(self, runtime)
        return StoreRegisters(
            self.open(runtime, configuration),
            succession,
            monotonic=runtime.monotonic,
            following=SimulatedLock(process),
        )

    def open(self, runtime: SimulatedRuntime, configuration: Configuration) -> Registers:
        voters = []
        for name, incarnation in configuration.voters:
            bucket = SimulatedBucket(self.clouds[name], self.network, runtime.process)
            voters.append(Voter(bucket, incarnation, partial(bucket.verify, incarnation)))
        return _Epoch(voters, configuration.epoch, runtime, self.sealing)

    def entered(self, configuration: Configuration) -> None:
        """A process works in this epoch from now on."""
        number = configuration.epoch
        first = self.begun.setdefault(number, configuration)
        if first != configuration:
            self.fork = f"epoch {number} has begun twice: {first}, {configuration}"

    def sealing(self, key: str, next_configuration: bytes) -> None:
        """A seal is being sent. The first of a register is the call of its move."""
        client = f"epoch {Configuration.decode(next_configuration).epoch}"
        called_ns = round(self.world.now_s * 1e9)
        move = Operation(key, client, called_ns, None, Move(), Unknown())
        self.moves.setdefault((next_configuration, key), move)

    @property
    def newest(self) -> Configuration:
        return self.begun[max(self.begun)]

    @property
    def moving(self) -> bool:
        """Whether a seal was sent that the next epoch has not followed on yet."""
        return any(Configuration.decode(sealed).epoch > self.newest.epoch for sealed, _ in self.moves)

    def lost(self, configuration: Configuration) -> int:
        """How many voters are not what they were admitted as."""
        return sum(self.is_lost(name, incarnation) for name, incarnation in configuration.voters)

    def is_lost(self, name: str, incarnation: str) -> bool:
        cloud = self.clouds[name]
        return cloud.incarnation != incarnation or incarnation in cloud.poisoned

    def may_lose(self, cloud: Cloud) -> bool:
        """Whether the present epoch, and each that may follow on it, keeps a majority without this cloud as it is."""
        following = [asked for asked in self.asked if asked.epoch == self.newest.epoch + 1]
        return all(
            self.lost(configuration) < configuration.minority
            for configuration in (self.newest, *following)
            if (cloud.name, cloud.incarnation) in configuration.voters
        )

    def counts(self, name: str) -> bool:
        """Whether a cloud is a voter now, or may be one next."""
        following = [asked for asked in self.asked if asked.epoch == self.newest.epoch + 1]
        return any(name == voter for known in (self.newest, *following) for voter, _ in known.voters)


class SimulatedSuccession(Succession):
    def __init__(self, epochs: Epochs, runtime: SimulatedRuntime) -> None:
        self._epochs, self._runtime = epochs, runtime

    def open(self, next_configuration: bytes) -> Registers:
        return self._epochs.open(self._runtime, Configuration.decode(next_configuration))

    def listed(self, names: Versioned, configuration: bytes) -> Mapping[str, bool]:
        return dict.fromkeys(KEY_NAMES[1:] if names.data else (), False)

    def configuration(self, next_configuration: bytes) -> bytes:
        return next_configuration

    def entered(self, next_configuration: bytes) -> None:
        self._epochs.entered(Configuration.decode(next_configuration))

    def each(self, task: Callable[[str], None], keys: Sequence[str]) -> None:
        for key in keys:
            task(key)


class _Epoch(BucketRegisters):
    """The shipped registers of one epoch; when they seal is written down."""

    def __init__(
        self,
        voters: Sequence[Voter],
        epoch: int,
        runtime: SimulatedRuntime,
        sealing: Callable[[str, bytes], None],
    ) -> None:
        writer = runtime.process.name
        super().__init__(voters, epoch, KEYS, writer=writer, deadline_s=DEADLINE_S, runtime=runtime)
        self._sealing = sealing

    def salvaged(self, key: str) -> Sequence[RegisterChange] | None:
        """No process retires a register here, and the search for a retired one has threads of its own."""
        return None

    def seal(self, key: str, expected_version: int, next_configuration: bytes) -> Versioned:
        self._sealing(key, next_configuration)
        return super().seal(key, expected_version, next_configuration)
