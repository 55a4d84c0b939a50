"""What a commit, a log and the walk between two versions take as the history of a repository grows.

    python benchmarks/bench_growth.py [--versions N …] [--markdown]

A store of three folders. Up to each number of versions the history is filled by whole commits: each pushes one small
file that differs from the one before. Then each operation is timed `TIMES` times with a store that is opened anew; the
median counts, and its ratio to that at the first number of versions at which it does the same work: a log of twenty
shows ten at ten. Where a ratio passes 1.5 the status is 1.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

from report import table

import skyhold

VERSIONS = (10, 100, 1_000, 3_000, 10_000)
TIMES = 9
RATIO_MAX = 1.5
NAME = "bench/growth"


def commit(store: skyhold.Store, folder: Path, number: int) -> None:
    (folder / "weights.bin").write_bytes(number.to_bytes(8, "little") * 512)
    store.repository(NAME, create=True).push(folder, message=f"Version {number}")


def _commit_next(folder: Path, numbers: Iterator[int], store: skyhold.Store) -> None:
    commit(store, folder, next(numbers))


def median_ms(url: str, operation: Callable[[skyhold.Store], object]) -> float:
    took_ms = []
    for _ in range(TIMES):
        with skyhold.open(url) as store:
            store.repository(NAME)
            began_s = time.perf_counter()
            operation(store)
            took_ms.append((time.perf_counter() - began_s) * 1000)
    return statistics.median(took_ms)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, nargs="+", default=VERSIONS, metavar="N")
    parser.add_argument("--markdown", action="store_true", help="print the table for docs/performance/store.md")
    chosen = parser.parse_args()
    rows: list[list[str]] = []
    first: dict[int, float] = {}
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="skyhold-growth-") as place:
        root = Path(place)
        os.environ |= {"SKYHOLD_STATE": str(root / "state"), "SKYHOLD_CACHE": str(root / "cache")}
        os.environ |= {"SKYHOLD_AUTHOR": "Ada <ada@example.org>", "XDG_CONFIG_HOME": str(root / "config")}
        folder = root / "model"
        folder.mkdir()
        url = str(root / "a")
        skyhold.init([str(root / name) for name in "abc"]).close()
        done, began_s = 0, time.perf_counter()
        for wanted in sorted(chosen.versions):
            with skyhold.open(url) as store:
                while done < wanted:
                    done += 1
                    commit(store, folder, done)
            took = [
                median_ms(url, lambda store: store.repository(NAME).log(limit=10)),
                median_ms(url, lambda store: store.repository(NAME).log(limit=20)),
                median_ms(url, partial(_commit_next, folder, count(done + 1))),
            ]
            done += TIMES
            cells = []
            for column, now_ms in enumerate(took):
                if column != 1 or wanted >= 20:
                    first.setdefault(column, now_ms)
                ratio = now_ms / first.get(column, now_ms)
                worst = max(worst, ratio)
                cells.append(f"{now_ms:.1f} ms ({ratio:.2f})")
            rows.append([f"{wanted:,}", *cells])
            print(f"{wanted:>7,} versions: {', '.join(cells)}, {time.perf_counter() - began_s:.0f} s", flush=True)
    head = ["versions", "`log -n 10`", "`log -n 20`", "commit"]
    if chosen.markdown:
        print(table(head, rows))
    print(f"worst ratio {worst:.2f}, at most {RATIO_MAX}")
    return 0 if worst <= RATIO_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
