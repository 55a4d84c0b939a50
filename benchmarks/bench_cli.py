"""How long `skyhold --help` and `import skyhold` take beyond bare Python (limit for `--help`: 0.15 s).

    python benchmarks/bench_cli.py [--rounds N] [--json FILE]

Ends with status 1 when the limit is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from contestants import skyhold_binary
from measure import Command, run
from report import table

HELP_LIMIT_S = 0.15
BARE = "python -c pass"
COMMANDS = {
    BARE: [sys.executable, "-c", "pass"],
    "python -c 'import skyhold'": [sys.executable, "-c", "import skyhold"],
    "skyhold --version": [skyhold_binary(), "--version"],
    "skyhold --help": [skyhold_binary(), "--help"],
    "skyhold push --help": [skyhold_binary(), "push", "--help"],
}


def main() -> int:
    """Run all commands in turn, print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="runs of each command (default 15)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample here")
    chosen = parser.parse_args()
    wall_s: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for argv in COMMANDS.values():
        run(Command(argv, {}))  # warms the page cache and the .pyc files
    for _ in range(chosen.rounds):
        for name, argv in COMMANDS.items():
            wall_s[name].append(run(Command(argv, {})).wall_s)
    median_s = {name: statistics.median(runs) for name, runs in wall_s.items()}
    over_bare_s = {name: value - median_s[BARE] for name, value in median_s.items()}
    rows = [[f"`{name}`", f"{median_s[name]:.3f}", f"{over_bare_s[name]:.3f}"] for name in COMMANDS]
    print(table(["command", "wall, s", "over bare Python, s"], rows))
    if chosen.json:
        chosen.json.write_text(json.dumps({"wall_s": wall_s}, indent=1) + "\n")
    if over_bare_s["skyhold --help"] > HELP_LIMIT_S:
        print(f"missed: `skyhold --help` may take {HELP_LIMIT_S} s more than bare Python", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
