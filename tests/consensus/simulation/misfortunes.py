"""What befalls processes and clouds in a run, and what operators do by mistake."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.consensus.simulation.clouds import Backup, Network
from tests.consensus.simulation.epochs import Epochs
from tests.consensus.simulation.world import Process, World

MISFORTUNES = ("kill", "pause", "clock jump", "cut", "cloud away", "cloud emptied", "cloud poisoned")
MISTAKES = ("emptied bucket restored", "healthy voter readmitted", "moved while one is away", "same move twice",
            "two moves at once", "left bucket deleted", "stale process")  # fmt: skip


@dataclass(eq=False)
class Misfortunes:
    """`injected` counts by name, and whether the store was moving. `replaced` starts a process for one that died."""

    world: World
    network: Network
    epochs: Epochs
    processes: list[Process]
    injected: Counter[tuple[str, str]]
    replaced: Callable[[], None]
    _emptied: dict[str, Backup] = field(default_factory=dict)

    def strike(self) -> None:
        """One of them, whichever."""
        dice = self.world.random
        what = dice.choice(MISFORTUNES)
        if what == "cloud away":
            self.lose()
        elif what == "cloud emptied":
            self.empty()
        elif what == "cloud poisoned":
            self.poison()
        else:
            self.strike_process(what, dice.choice(self.processes))

    def strike_process(self, what: str, process: Process) -> None:
        dice = self.world.random
        if what == "kill":
            if not process.alive:
                return
            process.alive = False
            self.replaced()
        elif what == "pause":
            process.paused_until_s = self.world.now_s + dice.choice([1, 5, 30])
        elif what == "clock jump":
            process.clock_s += dice.choice([5, 100])
        else:
            pair = (process.name, dice.choice(list(self.epochs.clouds)))
            self.network.cut.add(pair)
            self.world.at(dice.random() * 20, lambda: self.network.cut.discard(pair))
        self._note(what)

    def lose(self) -> None:
        cloud = self.world.random.choice(list(self.epochs.clouds.values()))
        cloud.away = True
        self.world.at(self.world.random.random() * 20, lambda: setattr(cloud, "away", False))
        self._note("cloud away")

    def empty(self) -> None:
        """At most a minority is lost for good: more is no promise of any majority."""
        epochs = self.epochs
        cloud = self.world.random.choice(list(epochs.clouds.values()))
        if cloud.incarnation is None or not epochs.may_lose(cloud):
            return
        if (cloud.name, cloud.incarnation) in epochs.newest.voters:
            # It may come back later, under the incarnation that processes of this epoch still know (`bring_back`):
            # with all that it has promised. One that had forgotten some of it would be a voter as before to them, and
            # no guarantee covers that.
            self._emptied[cloud.name] = cloud.backup()
        cloud.empty()
        self._note("cloud emptied")

    def poison(self) -> None:
        """A minority shows ballots that no process has reached."""
        cloud = self.world.random.choice(list(self.epochs.clouds.values()))
        if cloud.incarnation is None or cloud.incarnation in cloud.poisoned or not self.epochs.may_lose(cloud):
            return
        cloud.poison()
        self._note("cloud poisoned")

    def bring_back(self) -> None:
        """A bucket that was emptied and admitted again is restored to what it was then, under its old incarnation."""
        for name, backup in list(self._emptied.items()):
            cloud = self.epochs.clouds[name]
            admitted = (name, cloud.incarnation) in self.epochs.newest.voters
            if admitted and cloud.incarnation != backup[1] and self.epochs.may_lose(cloud):
                cloud.restore(self._emptied.pop(name))
                self.injected["emptied bucket restored", "any"] += 1

    def delete_left(self, name: str) -> None:
        """A bucket is no voter any more: its operator deletes it at once."""
        if not self.epochs.counts(name):
            self.epochs.clouds[name].empty()
            self.injected["left bucket deleted", "any"] += 1

    def heal(self) -> None:
        """From here on nothing fails."""
        self.network.fault_rate = 0.0
        self.network.cut.clear()
        for cloud in self.epochs.clouds.values():
            cloud.away = False

    def _note(self, what: str) -> None:
        self.injected[what, "move" if self.epochs.moving else "rest"] += 1
