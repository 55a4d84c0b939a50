"""Run many seeds on all cores: `python -m tests.consensus.simulation [SEEDS]` (a million by default); or one seed, and
write what its clients saw: `python -m tests.consensus.simulation SEED HISTORY.jsonl`.

Ends with status 1 where a seed violates linearizability, a fault was not met in a phase that it can happen in, or too
many outcomes stayed unknown. Progress goes to standard error, the table to standard output. A run that was ended
continues where it was: what is done is kept in `sim-output`, by the digest of the sources that it ran.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path

from tests.consensus.histories.history import write_history
from tests.consensus.simulation.campaign import Tally, tally
from tests.consensus.simulation.journal import Journal
from tests.consensus.simulation.run import simulate

PART = 200
KEPT = Path("sim-output")


def main(seeds: int) -> int:
    parts = [range(first, min(first + PART, seeds)) for first in range(0, seeds, PART)]
    journal = Journal(KEPT)
    total = Tally()
    for part in parts:
        total.add(journal.done.get(part, Tally()))
    kept, began_s, reported_s = total.seeds, time.monotonic(), 0.0
    if kept:
        print(f"{kept} of {seeds} seeds were run before: {journal.path}", file=sys.stderr, flush=True)
    with multiprocessing.Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        for part, found in pool.imap_unordered(_run, [part for part in parts if part not in journal.done]):
            journal.add(part, found)
            total.add(found)
            for violation in found.violations:
                print(violation, file=sys.stderr, flush=True)
            elapsed_s = time.monotonic() - began_s
            if elapsed_s - reported_s >= 10 or total.seeds == seeds:
                reported_s, done = elapsed_s, total.seeds - kept
                left_s = (seeds - total.seeds) * elapsed_s / done
                print(
                    f"{total.seeds} of {seeds} seeds, {done / elapsed_s:.0f} a second, "
                    f"about {left_s / 60:.0f} min left, {len(total.violations)} violations",
                    file=sys.stderr,
                    flush=True,
                )
    print(total.table())
    complaints = total.complaints()
    for complaint in complaints:
        print(f"error: {complaint}", file=sys.stderr)
    return 1 if complaints else 0


def _run(part: range) -> tuple[range, Tally]:
    return part, tally(part)


def replay(seed: int, path: Path) -> int:
    report = simulate(seed)
    write_history(path, report.history)
    found = report.violation or report.watch_violation or report.fork or report.unreadable
    print(found or f"seed {seed}: {len(report.history)} operations, no violation")
    return 1 if found else 0


if __name__ == "__main__":
    if len(sys.argv) == 3:
        sys.exit(replay(int(sys.argv[1]), Path(sys.argv[2])))
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
