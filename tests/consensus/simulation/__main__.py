"""Run many seeds on all cores: `python -m tests.consensus.simulation [SEEDS]` (a million by default); or one seed, and
write what its clients saw: `python -m tests.consensus.simulation SEED HISTORY.jsonl`.

Ends with status 1 where a seed violates linearizability, a fault was not met in a phase that it can happen in, or too
many outcomes stayed unknown. Progress goes to standard error, the table to standard output.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path

from tests.consensus.histories.history import write_history
from tests.consensus.simulation.campaign import Tally, tally
from tests.consensus.simulation.run import simulate

PART = 200


def main(seeds: int) -> int:
    parts = [range(first, min(first + PART, seeds)) for first in range(0, seeds, PART)]
    total, began_s, told_s = Tally(), time.monotonic(), 0.0
    with multiprocessing.Pool(os.cpu_count()) as pool:
        for part in pool.imap_unordered(tally, parts):
            total.add(part)
            for violation in part.violations:
                print(violation, file=sys.stderr, flush=True)
            elapsed_s = time.monotonic() - began_s
            if elapsed_s - told_s >= 10 or total.seeds == seeds:
                told_s = elapsed_s
                left_s = (seeds - total.seeds) * elapsed_s / total.seeds
                print(
                    f"{total.seeds} of {seeds} seeds in {elapsed_s:.0f} s, {total.seeds / elapsed_s:.0f} a second, "
                    f"about {left_s / 60:.0f} min left, {len(total.violations)} violations",
                    file=sys.stderr,
                    flush=True,
                )
    print(total.table())
    complaints = total.complaints()
    for complaint in complaints:
        print(f"error: {complaint}", file=sys.stderr)
    return 1 if complaints else 0


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
