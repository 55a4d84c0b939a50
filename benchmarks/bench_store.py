"""Skyhold against restic and rclone as whole processes: push, pull, memory and bytes stored.

    python benchmarks/bench_store.py [--only family|pull|shaped|three|real …] [--rounds N] [--json FILE] [--markdown]

Ends with status 1 when a limit of the house is missed, with 2 when a tool is missing or fails. `--tools restic,rclone`
measures the peers alone.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import NoReturn

import scenarios
from contestants import Contestant, Rclone, Restic, Skyhold, ToolMissingError
from gateway import versitygw_binary
from measure import CommandError
from report import markdown, missed
from results import Results
from scenarios import Bench, MismatchError

HERE = Path(__file__).resolve().parent
VERSITYGW_MODULE = HERE.parent / "tools" / "servers" / "versitygw" / "go.mod"
MARKDOWN = HERE.parent / "docs" / "performance" / "store.md"
CONTESTANTS: dict[str, type[Contestant]] = {kind.name: kind for kind in (Skyhold, Restic, Rclone)}
GROUPS = {
    "family": scenarios.push_family,
    "pull": scenarios.pull_versions,
    "shaped": scenarios.over_shaped_link,
    "three": scenarios.to_three_buckets,
    "real": scenarios.real_weights,
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=GROUPS, help="measure this group (may be repeated)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of everything; medians are shown (default 3)")
    parser.add_argument("--tools", default=",".join(CONTESTANTS), help="comma-separated (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "skyhold-bench",
                        help="where models and servers live; about 12 GB (default: %(default)s)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample here")
    parser.add_argument("--markdown", action="store_true",
                        help=f"write the tables to {MARKDOWN.relative_to(HERE.parent)}")  # fmt: skip
    chosen = parser.parse_args()
    chosen.tools = chosen.tools.split(",")
    if unknown := [tool for tool in chosen.tools if tool not in CONTESTANTS]:
        parser.error(f"no such tool: {', '.join(unknown)}")
    if chosen.rounds < 1:
        parser.error("--rounds must be at least 1")
    return chosen


def environment(tools: list[str], rounds: int) -> dict[str, str]:
    """What the figures depend on. Raises `ToolMissingError` or `FileNotFoundError` (no server)."""
    versions = [CONTESTANTS[tool].version() for tool in tools]
    versitygw_binary()
    server = next(line for line in VERSITYGW_MODULE.read_text().splitlines() if "versity/versitygw v" in line)
    processors = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = processors[0].partition(":")[2].strip() if processors else platform.machine()
    return {
        "Date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "Machine": f"{os.cpu_count()} cores ({model}), Linux {platform.release()}, Python {platform.python_version()}",
        "Tools": ", ".join(versions),
        "Server": f"{server.split()[0]} {server.split()[1]}, data on the same disk as the client's",
        "Runs": f"{rounds}, tools in turn; before each the machine is brought to rest (`benchmarks/rest.py`)",
    }


def make_inputs(group: str, folder: Path) -> dict[str, Path]:
    """Run a group's maker of models in a process of its own (numpy would swell this one, see `measure`)."""
    maker = [str(HERE.parent / "demo" / "models.py"), "network"] if group == "real" else [str(HERE / "family.py")]
    made = subprocess.run([sys.executable, *maker, str(folder)], check=True, stdout=subprocess.PIPE, text=True)
    return {label: Path(path) for label, path in json.loads(made.stdout).items()}


def end_in_order(signal_number: int, _frame: FrameType | None) -> NoReturn:
    """End by an exception, so that servers and namespaces are removed."""
    sys.exit(128 + signal_number)


def main() -> int:
    """Measure, print the tables, write what was asked for."""
    chosen = arguments()
    groups = [group for group in GROUPS if not chosen.only or group in chosen.only]
    try:
        machine = environment(chosen.tools, chosen.rounds)
    except (ToolMissingError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, end_in_order)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    results = Results()
    work = Path(tempfile.mkdtemp(prefix="run-", dir=chosen.folder))
    try:
        for group in groups:
            folders = make_inputs(group, chosen.folder)
            GROUPS[group](Bench(work / group, chosen.tools, chosen.rounds, results), folders)
    except (CommandError, MismatchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(work)
    text = markdown(results, machine)
    print(text)
    if chosen.json:
        chosen.json.write_text(json.dumps({"environment": machine, **results.to_json()}, indent=1) + "\n")
    if chosen.markdown:
        MARKDOWN.write_text(text)
    failures = missed(results)
    for failure in failures:
        print(f"missed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
