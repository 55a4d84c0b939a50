"""Operators of a run, who change the voters: as `skyhold store voters` does, well or badly, one or two at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from skyhold.consensus.acceptor import VOTERS_MAX
from skyhold.consensus.epochs import StoreRegisters
from skyhold.consensus.migration import CONFIG
from skyhold.consensus.register import Versioned
from skyhold.errors import SkyholdError
from tests.consensus.simulation.clouds import Cloud, SimulatedBucket
from tests.consensus.simulation.epochs import Configuration, Epochs
from tests.consensus.simulation.misfortunes import Misfortunes
from tests.consensus.simulation.world import Process

PLANS = ("add", "remove", "replace", "replace", "admit again", "admit again", "replace several", "same again")
ATTEMPTS_MAX = 3


class GivenUp(Exception):
    """The operator cannot, or must not, do this now."""


@dataclass(frozen=True)
class Change:
    """`leaving` and `joining` are names of clouds; one that is admitted again is in both."""

    leaving: frozenset[str] = frozenset()
    joining: tuple[str, ...] = ()


@dataclass(eq=False)
class Operator:
    """One process that moves the store once."""

    process: Process
    registers: StoreRegisters
    epochs: Epochs
    misfortunes: Misfortunes
    failed: Callable[[str], None]
    succeeded: Callable[[], None]

    def work(self) -> None:
        """Move the store; where that fails, run the same command again, as its hint asks."""
        if self.epochs.moving:
            self._note("two moves at once")
        change: Change | None = None
        admitted: dict[str, str] = {}
        for _ in range(ATTEMPTS_MAX):
            try:
                change = change or self._planned()
                for name in change.joining:
                    if name not in admitted:
                        admitted[name] = self._admit(self.epochs.clouds[name])
                return self._move(change, admitted)
            except SkyholdError as error:
                self.failed(f"{type(error).__name__} {error.code}")
                self.process.sleep(self.epochs.world.random.random())
            except GivenUp as reason:
                return self.failed(str(reason))
        return None

    def _move(self, change: Change, admitted: dict[str, str]) -> None:
        def decide(value: Versioned) -> bytes:
            return self._following(Configuration.decode(value.data), change, admitted).encode()

        begun = Configuration.decode(self.registers.advance(decide))
        self.succeeded()
        for name in sorted(change.leaving - {name for name, _ in begun.voters}):
            if self.epochs.world.random.random() < 0.5:
                self.misfortunes.delete_left(name)

    def _planned(self) -> Change:
        dice = self.epochs.world.random
        value = self.registers.read(CONFIG)
        assert value is not None
        known = Configuration.decode(value.data)
        voters = [name for name, _ in known.voters]
        spares = [name for name in self.epochs.clouds if name not in voters]
        lost = [name for name, incarnation in known.voters if self.epochs.is_lost(name, incarnation)]
        plan, one = dice.choice(PLANS), dice.choice(lost or voters)
        if plan == "admit again" or (lost and dice.random() < 0.7):
            return Change(frozenset({one}), (one,))
        if plan == "add" and spares:
            return Change(joining=(dice.choice(spares),))
        if plan == "remove" and len(voters) > 1:
            return Change(frozenset({one}))
        if plan == "replace" and spares:
            return Change(frozenset({one}), (dice.choice(spares),))
        if plan == "replace several":
            joining = dice.sample(spares, dice.randrange(len(spares) + 1))
            leaving = dice.sample(voters, dice.randrange(len(voters) + bool(joining)))
            return Change(frozenset(leaving), tuple(joining))
        self._note("same move twice")
        return Change()

    def _admit(self, cloud: Cloud) -> str:
        """Write a fresh incarnation into a bucket that joins. What it was before ends here, so a majority must do
        without it: an operator who sees that it would be lost stops."""
        epochs = self.epochs
        incarnation = f"{epochs.world.random.getrandbits(128):032x}"

        def write() -> None:
            if not epochs.may_lose(cloud):
                raise GivenUp(f"{cloud.name} is needed as it is")
            if (cloud.name, cloud.incarnation) in epochs.newest.voters:
                self._note("healthy voter readmitted")
            cloud.admit(incarnation)

        SimulatedBucket(cloud, epochs.network, self.process).replace_document(write)
        return incarnation

    def _following(self, known: Configuration, change: Change, admitted: dict[str, str]) -> Configuration:
        """What follows on a configuration, which need not be the one that was planned for."""
        voters = [(name, incarnation) for name, incarnation in known.voters if name not in {*change.leaving, *admitted}]
        voters += sorted(admitted.items())
        following = Configuration(known.epoch + 1, tuple(voters))
        if not 1 <= len(voters) <= VOTERS_MAX:
            raise GivenUp(f"{len(voters)} voters")
        if self.epochs.lost(following) > following.minority:
            raise GivenUp("too many of its voters are lost")
        if any(self.epochs.clouds[name].away for name, _ in voters):
            self._note("moved while one is away")
        self.epochs.asked.append(following)
        return following

    def _note(self, mistake: str) -> None:
        self.misfortunes.injected[mistake, "any"] += 1
