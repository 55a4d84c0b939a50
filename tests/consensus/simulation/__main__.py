"""Run one seed and write what its clients saw: `python -m tests.consensus.simulation SEED HISTORY.jsonl`"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.consensus.histories.history import write_history
from tests.consensus.simulation.run import simulate

if __name__ == "__main__":
    seed, path = int(sys.argv[1]), Path(sys.argv[2])
    report = simulate(seed)
    write_history(path, report.history)
    print(report.violation or report.watch_violation or f"seed {seed}: {len(report.history)} operations, no violation")
