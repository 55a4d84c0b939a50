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


@dataclass(frozen=True)
class Mutant:
    """In `module` of the engine, `shipped` becomes `mutated`. `seeds` are enough to see a violation, with a margin."""

    module: str
    shipped: str
    mutated: str
    seeds: int


MUTANTS = {
    "a put whose reply was lost counts as refused, as a client library that retries it reports": Mutant(
        "voter.py",
        "        except OutcomeUnknown:\n            return Lost(name)",
        "        except OutcomeUnknown:\n            return Refused(name)",
        600,
    ),
    "a failed compare-and-set is answered without completing its round": Mutant(
        "proposer.py",
        "                round_, effects = step(round_, Proposal(_applied(adopted(round_) or (), batch)))\n",
        "                found = adopted(round_) or ()\n                if _applied(found, batch) == found:\n"
        "                    return replace(round_, phase=Phase.DECIDED)\n"
        "                round_, effects = step(round_, Proposal(_applied(found, batch)))\n",
        600,
    ),
    "an operation that is sent again is not known by its id": Mutant(
        "operation.py", "earlier = find(kept, self.operation_id)", "earlier = None", 600
    ),
    "prepare is skipped, as if the condition of the put were enough": Mutant(
        "proposer.py", "plain = len(self._voters) == 1", "plain = True", 600
    ),
    "a read believes a single bucket": Mutant(
        "acceptor.py", "if len(states) > voters // 2 and", "if states[0].value and", 600
    ),
    "a read believes the highest ballot of a majority that does not agree": Mutant(
        "acceptor.py",
        "    for states in by_ballot.values():\n",
        "    if len(seen) > voters // 2:\n        return max(seen.values(), key=lambda state: state.accepted)\n"
        "    for states in by_ballot.values():\n",
        2000,
    ),
    "a refused put counts as a promise": Mutant(
        "voter.py",
        "        except Conflict:\n            return Refused(name)",
        "        except Conflict:\n            return Seen(name, effect.tag, effect.state)",
        600,
    ),
    "an emptied bucket counts as an acceptor in its first state": Mutant(
        "voter.py", "        self.voter.verify()\n", "", 2000
    ),
    "a promise alone counts without asking whose bucket it lies in": Mutant(
        "voter.py", "if found.tag is not None or absence_counts:", "if absence_counts:", 600
    ),
    "whoever creates an object does not ask whose bucket it lies in": Mutant(
        "voter.py", "        if created:\n", "        if False:\n", 2000
    ),
    "an acceptor accepts below its promise": Mutant(
        "acceptor.py",
        "return AcceptorState(following, ballot, value) if state.promised <= ballot else None",
        "return AcceptorState(max(following, state.promised), ballot, value)",
        600,
    ),
    "the adopted value is not that of the highest ballot": Mutant(
        "paxos.py", "highest = max(states", "highest = min(states", 600
    ),
    "half of the voters count as a majority": Mutant(
        "paxos.py", "return len(self.seats) // 2 + 1", "return max(len(self.seats) // 2, 1)", 600
    ),
}
"""By name, which says what is wrong."""


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
        command = [sys.executable, "-m", "tests.consensus.simulation.mutants", str(seeds or mutant.seeds), str(history)]
        done = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, timeout=540, check=False
        )
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return done.stdout.strip() or None


def _first_violation(seeds: int, history: Path) -> str | None:
    from skyhold.errors import SkyholdError
    from tests.consensus.histories.history import write_history
    from tests.consensus.simulation.run import Run

    for seed in range(seeds):
        run = Run(seed)
        try:
            violation = run.execute().violation
        except AssertionError as error:
            violation = f"seed {seed}: {error}"
        except SkyholdError:
            continue  # registers that cannot be read in the end: a fault, but not the one that is looked for
        if violation is not None:
            write_history(history, run.recorded())
            return f"after {seed + 1} seeds: {violation}"
    return None


if __name__ == "__main__":
    print(_first_violation(int(sys.argv[1]), Path(sys.argv[2])) or "")
