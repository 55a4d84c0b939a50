"""What a commit and a log take as the history of a repository grows.

    python benchmarks/bench_growth.py [--versions N …] [--markdown]

Stores of three folders: one whose history goes on growing, by whole commits that each push one small file which
differs from the one before, and small ones that are set back to their first versions. At each size each operation is
timed `TIMES` times in both, by turns, with a store that is opened anew; the ratio of the medians counts, so that a
machine that becomes slower meanwhile changes nothing. The small one has ten versions; for a log of twenty it has
twenty, as it would show half as much otherwise. Where a ratio passes 1.5 the status is 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from report import table

import skyhold

VERSIONS = (100, 1_000, 3_000, 10_000)
TIMES = 15
RATIO_MAX = 1.5
NAME = "bench/growth"


class History:
    """A store with one repository, whose machine state is its own."""

    def __init__(self, root: Path, versions: int) -> None:
        self._root, self._kept = root, root.with_name(f"{root.name}.kept")
        self._model = root / "model"
        self._model.mkdir(parents=True)
        self._count = 0
        self._enter()
        skyhold.init([str(root / name) for name in "abc"]).close()
        self.grow(versions)

    def grow(self, versions: int) -> None:
        with self.opened() as store:
            while self._count < versions:
                self.commit(store)

    def keep(self) -> None:
        """What `set_back` brings back."""
        shutil.copytree(self._root, self._kept)

    def set_back(self) -> None:
        shutil.rmtree(self._root)
        shutil.copytree(self._kept, self._root)

    def opened(self) -> skyhold.Store:
        self._enter()
        return skyhold.open(str(self._root / "a"))

    def commit(self, store: skyhold.Store) -> None:
        self._count += 1
        (self._model / "weights.bin").write_bytes(self._count.to_bytes(8, "little") * 512)
        store.repository(NAME, create=True).push(self._model, message=f"Version {self._count}")

    def took_ms(self, operation: Callable[[History, skyhold.Store], object]) -> float:
        with self.opened() as store:
            store.repository(NAME, create=True)
            began_s = time.perf_counter()
            operation(self, store)
            return (time.perf_counter() - began_s) * 1000

    def _enter(self) -> None:
        os.environ |= {"SKYHOLD_STATE": str(self._root / "state"), "SKYHOLD_CACHE": str(self._root / "cache")}


OPERATIONS: dict[str, tuple[int, Callable[[History, skyhold.Store], object]]] = {
    "`log -n 10`": (10, lambda _, store: store.repository(NAME).log(limit=10)),
    "`log -n 20`": (20, lambda _, store: store.repository(NAME).log(limit=20)),
    "commit": (10, History.commit),
}
"""Each with the versions of the small store that it is compared with."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, nargs="+", default=VERSIONS, metavar="N")
    parser.add_argument("--markdown", action="store_true", help="print the table for docs/performance.md")
    chosen = parser.parse_args()
    rows: list[list[str]] = []
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="skyhold-growth-") as place:
        root, began_s = Path(place), time.perf_counter()
        os.environ |= {"SKYHOLD_AUTHOR": "Ada <ada@example.org>", "XDG_CONFIG_HOME": str(root / "config")}
        grown = History(root / "grown", 0)
        smalls = {
            versions: History(root / f"small-{versions}", versions)
            for versions in sorted({least for least, _ in OPERATIONS.values()})
        }
        for small in smalls.values():
            small.keep()
        for wanted in sorted(chosen.versions):
            grown.grow(wanted)
            cells = []
            for versions, operation in OPERATIONS.values():
                small = smalls[versions]
                small.set_back()
                took = [(small.took_ms(operation), grown.took_ms(operation)) for _ in range(TIMES)]
                first_ms, now_ms = (statistics.median(column) for column in zip(*took, strict=True))
                worst = max(worst, now_ms / first_ms)
                cells.append(f"{now_ms:.1f} ms of {first_ms:.1f} ({now_ms / first_ms:.2f})")
            rows.append([f"{wanted:,}", *cells])
            print(f"{wanted:>7,} versions: {', '.join(cells)}, {time.perf_counter() - began_s:.0f} s", flush=True)
    if chosen.markdown:
        print(table(["versions", *OPERATIONS], rows))
    print(f"worst ratio {worst:.2f}, at most {RATIO_MAX}")
    return 0 if worst <= RATIO_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
