"""The pitfalls of the bucket engine, each as a patch to the shipped source, and how many seeds find it out.

`killed(name, history)` runs one in a process of its own, on a copy of the source with the patch.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]


PITFALLS = {
    1: "a put is retried by a library, and its own success reported as a lost race",
    2: "conditional puts are not atomic",
    3: "an answer is returned, or a read trusted, before its round is complete",
    4: "an operation has no id that goes with the value",
    5: "prepare is skipped, or fewer than a majority count",
    6: "a ballot is outside the tag, or a refused put counts as a promise",
    7: "an acceptor forgets: the bucket was emptied, or restored",
    8: "an epoch continues, or the next begins, without a seal of a majority on every register",
    9: "a counter that a minority shows is followed wherever it leads",
}
"""What is known to go wrong with Paxos over buckets."""


@dataclass(frozen=True)
class Mutant:
    """In `module` of the engine, `shipped` becomes `mutated`. `seeds` are enough to see a violation, with a margin.
    `stops`: clients get no wrong answer, but a register cannot be read in the end."""

    pitfall: int
    module: str
    shipped: str
    mutated: str
    seeds: int
    stops: bool = False


MUTANTS = {
    "a put whose reply was lost counts as refused, as a client library that retries it reports": Mutant(
        1,
        "paxos.py",
        "    no_effect = not_there or (isinstance(event, Silent) and event.unsent)\n"
        "    exposed = round_.exposed - {event.voter} if no_effect and not seat.unsure else round_.exposed\n",
        "    no_effect = isinstance(event, Refused | Lost) or (isinstance(event, Silent) and event.unsent)\n"
        "    exposed = round_.exposed - {event.voter} if no_effect else round_.exposed\n",
        600,
    ),
    "a failed compare-and-set is answered without completing its round": Mutant(
        3,
        "proposer.py",
        "                round_, effects = step(round_, Proposal(_applied(adopted(round_) or (), batch)))\n",
        "                found = adopted(round_) or ()\n                if _applied(found, batch) == found:\n"
        "                    return replace(round_, phase=Phase.DECIDED)\n"
        "                round_, effects = step(round_, Proposal(_applied(found, batch)))\n",
        600,
    ),
    "an operation that is sent again is not known by its id": Mutant(
        4, "operation.py", "earlier = find(kept, self.operation_id)", "earlier = None", 600
    ),
    "prepare is skipped, as if the condition of the put were enough": Mutant(
        5, "proposer.py", "plain = len(self._voters) == 1", "plain = True", 600
    ),
    "a read trusts a single bucket": Mutant(
        5, "acceptor.py", "if len(states) > voters // 2 and", "if states[0].value and", 600
    ),
    "a read trusts the highest ballot of a majority that does not agree": Mutant(
        3,
        "acceptor.py",
        "    for states in by_ballot.values():\n",
        "    if len(seen) > voters // 2:\n        return max(seen.values(), key=lambda state: state.accepted)\n"
        "    for states in by_ballot.values():\n",
        2000,
    ),
    "a refused put counts as a promise": Mutant(
        6,
        "voter.py",
        "        except Conflict:\n            return Refused(name)",
        "        except Conflict:\n            return Seen(name, effect.tag, effect.state)",
        600,
    ),
    "an emptied bucket counts as an acceptor in its first state": Mutant(
        7, "voter.py", "        self.voter.verify()\n", "", 2000
    ),
    "a promise alone counts without asking whose bucket it is in": Mutant(
        7, "voter.py", "if found.tag is not None or absence_counts:", "if absence_counts:", 600
    ),
    "a client that creates an object does not ask whose bucket it is in": Mutant(
        7, "voter.py", "        if created:\n", "        if False:\n", 2000
    ),
    "an acceptor accepts below its promise": Mutant(
        5,
        "acceptor.py",
        "return AcceptorState(following, ballot, value) if state.promised <= ballot else None",
        "return AcceptorState(max(following, state.promised), ballot, value)",
        600,
    ),
    "the adopted value is not that of the highest ballot": Mutant(
        3, "paxos.py", "highest = max(states", "highest = min(states", 600
    ),
    "half of the voters count as a majority": Mutant(
        5, "paxos.py", "return len(self.seats) // 2 + 1", "return max(len(self.seats) // 2, 1)", 600
    ),
    "an epoch is entered before its registers are there, so that absent ones count as new": Mutant(
        8, "epochs.py", "            if following.read(CONFIG) is None:\n", "            if False:\n", 600
    ),
    "the configuration of an epoch is restored first": Mutant(
        8,
        "migration.py",
        "    names = _ended(epoch, NAMES, next_configuration)\n",
        "    config = as_restored(sealed_config)\n"
        "    first = replace(config[-1].value, data=succession.configuration(next_configuration))\n"
        "    _restore(following, CONFIG, [*config[:-1], replace(config[-1], value=first)])\n"
        "    names = _ended(epoch, NAMES, next_configuration)\n",
        600,
    ),
    "a sealed register still takes changes": Mutant(
        8,
        "operation.py",
        "        refuse_closed_or_changed(self.key, self.expected_version, newest(kept))\n"
        "        value = Versioned(self.expected_version + 1, self.data)\n",
        "        if (kept[-1].value.version if kept else 0) != self.expected_version:\n"
        "            raise register_changed(self.key, self.expected_version, newest(kept))\n"
        "        value = Versioned(self.expected_version + 1, self.data)\n",
        600,
    ),
    "registers are carried as they are found, and not sealed": Mutant(
        8,
        "migration.py",
        "        changes = _ended(epoch, key, next_configuration, created=listed[key])\n"
        "        _restore(following, key, as_restored(changes))\n",
        "        _restore(following, key, list(epoch.changes(key)))\n",
        600,
    ),
    "a read does not follow the seal that it finds": Mutant(
        8,
        "epochs.py",
        "            if not self._could_follow(epoch, seal):\n",
        "            if value is not None or not self._could_follow(epoch, seal):\n",
        600,
    ),
    "an absent register of an old epoch is taken to be absent still": Mutant(
        8,
        "epochs.py",
        "            value = epoch.read(CONFIG)\n        return None",
        "            pass\n        return None",
        600,
    ),
    "a register that was restored and changed since is restored again": Mutant(
        8, "operation.py", "        if current is None:\n", "        if True:\n", 600
    ),
    "the ids of operations are not carried": Mutant(
        8,
        "migration.py",
        "    return [*changes[:-1], RegisterChange(",
        "    return [*(RegisterChange(change.value, None) for change in changes[:-1]), RegisterChange(",
        600,
    ),
    "a watch reports what comes before a seal, and leaves out what came after": Mutant(
        8,
        "epochs.py",
        "                    if self._could_follow(epoch, seal):\n                        continue",
        "                    if not isinstance(changes, Resync) and len(changes) > 1:\n"
        "                        return changes[:-1]\n"
        "                    if self._could_follow(epoch, seal):\n                        continue",
        600,
    ),
    "a ballot is followed however far it is above what a majority shows": Mutant(
        9, "acceptor.py", "LEAP_MAX: Final = 2**26", "LEAP_MAX: Final = COUNTER_MAX", 1000, stops=True
    ),
}
"""By name, which describes what is wrong."""


def killed(name: str, history: Path, seeds: int | None = None) -> str | None:
    """What a mutant's first violation was, and after how many seeds; None if it survived them all. What its clients
    did until then is written to the file `history`."""
    mutant = MUTANTS[name]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(
            ROOT / "src" / "skyhold", Path(folder) / "skyhold", ignore=shutil.ignore_patterns("__pycache__")
        )
        path = Path(folder) / "skyhold" / "consensus" / mutant.module
        source = path.read_text()
        if source.count(mutant.shipped) != 1:
            raise AssertionError(f"mutant {name!r} does not fit the source of {mutant.module} any more")
        path.write_text(
            source.replace(mutant.shipped, mutant.mutated).replace(
                "import dataclass, field", "import dataclass, field, replace"
            )
        )
        environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
        command = [
            sys.executable,
            "-m",
            "tests.consensus.simulation.mutants",
            str(seeds or mutant.seeds),
            str(history),
            mutant.stops * "stops",
        ]
        done = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, timeout=540, check=False
        )
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return done.stdout.strip() or None


def _first_violation(seeds: int, history: Path, stops: bool) -> str | None:
    from skyhold.errors import SkyholdError
    from tests.consensus.histories.history import write_history
    from tests.consensus.simulation.run import Run

    for seed in range(seeds):
        run = Run(seed)
        try:
            report = run.execute()
            violation = report.unreadable if stops else report.violation or report.watch_violation
        except AssertionError as error:
            if not stops:
                continue  # it is found out, but not by what its clients saw
            violation = f"seed {seed}: {error}"
        except SkyholdError:
            continue  # registers that cannot be read in the end: a fault, but not the one that is looked for
        if violation is not None:
            write_history(history, run.recorded())
            return f"after {seed + 1} seeds: {violation}"
    return None


if __name__ == "__main__":
    print(_first_violation(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "stops") or "")
