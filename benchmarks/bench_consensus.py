"""The registers on buckets at a distance: latency, throughput, contention, lost clouds; beside bare requests and etcd.

    python benchmarks/bench_consensus.py [--quick] [--only latency|… …] [--rounds N] [--json FILE] [--markdown]

Ends with status 1 when a limit of the house is missed, with 2 when the server is missing. `--markdown` writes
docs/performance/consensus.md and the drawings in docs/images/.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import consensus_scenarios as scenarios
import etcd_peer
from consensus_report import drawings, markdown, missed
from consensus_scenarios import Effort
from far_voters import Cloud, region, running_clouds
from gateway import versitygw_binary

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MARKDOWN = ROOT / "docs" / "performance" / "consensus.md"
IMAGES = ROOT / "docs" / "images"
THREE_MS = (10.0, 40.0, 90.0)
OTHER_REGION_MS = (90.0, 40.0, 10.0)
FIVE_MS = (10.0, 40.0, 90.0, 120.0, 160.0)
Measured = dict[str, object]


def latency(clouds: Sequence[Cloud], effort: Effort) -> Measured:
    return {"rows": scenarios.latencies(clouds[:3], THREE_MS, effort).rows}


def throughput(clouds: Sequence[Cloud], effort: Effort) -> Measured:
    with region(clouds[:3], THREE_MS) as here:
        return {
            "one register": {n: _fields(scenarios.one_register(here, n, effort)) for n in (1, 2, 4, 8, 16, 32)},
            "many registers": {n: _fields(scenarios.many_registers(here, n, effort)) for n in (1, 4, 16, 64)},
        }


def contention(clouds: Sequence[Cloud], effort: Effort) -> Measured:
    with region(clouds[:3], THREE_MS) as here:
        return {"clients": {n: _fields(scenarios.contention(here, n, effort)) for n in (1, 2, 4, 8, 16)}}


def regions(clouds: Sequence[Cloud], effort: Effort) -> Measured:
    return {"rows": scenarios.far_regions(clouds[:3], [THREE_MS, OTHER_REGION_MS], effort)}


def lost(clouds: Sequence[Cloud], effort: Effort) -> Measured:
    cases: dict[str, tuple[Sequence[float], tuple[int, ...]]] = {
        "3: none": (THREE_MS, ()),
        "3: the nearest": (THREE_MS, (0,)),
        "3: the second": (THREE_MS, (1,)),
        "3: the farthest": (THREE_MS, (2,)),
        "5: none": (FIVE_MS, ()),
        "5: the nearest": (FIVE_MS, (0,)),
        "5: the two nearest": (FIVE_MS, (0, 1)),
    }
    return {
        name: scenarios.with_lost(clouds[: len(far)], far, gone, effort).rows for name, (far, gone) in cases.items()
    }


def slow_writes(clouds: Sequence[Cloud], effort: Effort) -> Measured:
    with region(clouds[:3], THREE_MS) as here:
        return {
            "none": scenarios.with_slow_writes(here, None, effort),
            **{f"voter {n}": scenarios.with_slow_writes(here, n, effort) for n in range(3)},
        }


def etcd(folder: Path, effort: Effort) -> Measured:
    """Empty where etcd is not there."""
    if etcd_peer.etcd_binary() is None:
        return {}
    rows: dict[str, list[float]] = {}
    with etcd_peer.running_etcd(folder, THREE_MS) as cluster:
        for number, gone in ((0, None), (2, None), (0, 1), (0, 2)):
            name = f"at node {number}" + ("" if gone is None else f", node {gone} lost")
            node = etcd_peer.Node(cluster.ports[number])
            counter = etcd_peer.Counter(node, f"key-{name}")
            counter.increment()
            with cluster.lost(gone):
                rows[f"read {name}"] = scenarios.timed(counter.read, effort.rounds * effort.operations)
                rows[f"write {name}"] = scenarios.timed(counter.increment, effort.rounds * effort.operations)
            node.close()
    return {"version": etcd_peer.etcd_version(), "rows": rows}


def _fields(throughput: scenarios.Throughput) -> dict[str, float]:
    return {name: getattr(throughput, name) for name in throughput.__slots__}


SCENARIOS: dict[str, Callable[[Sequence[Cloud], Effort], Measured]] = {
    "latency": latency,
    "throughput": throughput,
    "contention": contention,
    "regions": regions,
    "lost": lost,
    "slow writes": slow_writes,
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few operations: whether it works, not how fast")
    parser.add_argument("--only", action="append", choices=[*SCENARIOS, "etcd"], help="this one (may be repeated)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of the latencies (default 3)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write every sample here; what it holds already stays"
    )
    parser.add_argument("--render", action="store_true", help="measure nothing: show what the file of --json holds")
    parser.add_argument("--markdown", action="store_true",
                        help=f"write {MARKDOWN.relative_to(ROOT)} and its drawings")  # fmt: skip
    chosen = parser.parse_args()
    if chosen.render and not (chosen.json and chosen.json.exists()):
        parser.error("--render needs a --json FILE that is there")
    return chosen


def environment(effort: Effort) -> dict[str, str]:
    """What the figures depend on. Raises `FileNotFoundError` (no server)."""
    versitygw_binary()
    module = (ROOT / "tools" / "servers" / "versitygw" / "go.mod").read_text()
    server = next(line for line in module.splitlines() if "versity/versitygw v" in line).split()
    real_time = os.sched_getscheduler(0) in {os.SCHED_RR, os.SCHED_FIFO}
    priority = "at real-time priority, since other work shares the cores" if real_time else "at normal priority"
    return {
        "Date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "Machine": f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}; "
        f"load average at the start {os.getloadavg()[0]:.1f}, {priority}",
        "Voters": f"one process each of {server[0]} {server[1]}, behind a proxy that delays",
        "Rounds": f"{effort.rounds} of {effort.operations} operations; {effort.throughput_s:g} s for each throughput",
    }


def measure(only: Sequence[str], effort: Effort, measured: dict[str, Measured]) -> None:
    """Run scenarios into `measured`."""
    with tempfile.TemporaryDirectory(prefix="skyhold-bench-") as name:
        folder = Path(name)
        with running_clouds(len(FIVE_MS), folder) as clouds:
            wanted = {**{name: partial(run, clouds) for name, run in SCENARIOS.items()}, "etcd": partial(etcd, folder)}
            for scenario in only:
                print(f"{scenario}…", file=sys.stderr, flush=True)
                measured[scenario] = wanted[scenario](effort)


def main() -> int:
    """Measure, print the tables, write what was asked for."""
    chosen = arguments()
    effort = Effort(1, 4, 1.0) if chosen.quick else Effort(chosen.rounds, 20, 5.0)
    try:
        machine = environment(effort)
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    measured: dict[str, Measured] = {}
    if chosen.json and chosen.json.exists():
        measured = json.loads(chosen.json.read_text())
    if not chosen.render:
        measure(chosen.only or [*SCENARIOS, "etcd"], effort, measured)
        measured["environment"] = dict(machine)
        measured = json.loads(json.dumps(measured))  # as it is read back: numbers of clients are text
        if chosen.json:
            chosen.json.write_text(json.dumps(measured, indent=1) + "\n")
    text = markdown(measured)
    print(text)
    if chosen.markdown:
        MARKDOWN.write_text(text)
        drawings(measured, IMAGES)
    failures = missed(measured)
    for failure in failures:
        print(f"missed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
