"""What a store of many repositories takes from far: reading all of them, looking after them, moving their registers.

    python benchmarks/bench_repositories.py [--repositories N …] [--markdown]

Three S3 servers, 10, 40 and 90 ms away (`distance.py`). The store is made without distance. Each time is that of one
run of a store that is opened anew, beside the bare conditional PUT of the second-fastest server, which is what a
majority of three costs at least. `--markdown` prints the table for docs/performance/consensus.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from distance import Path as Way
from distance import running_paths
from far_voters import BUCKET, Cloud, running_clouds
from gateway import free_port
from report import table

import skyhold
from skyhold.buckets.location import BucketLocation, parse_location
from skyhold.buckets.open import open_bucket

THREE_MS = (10.0, 40.0, 90.0)
HERE_MS = (0.0, 0.0, 0.0)
PUTS = 20


def locations(clouds: Sequence[Cloud], ports: Sequence[int], prefix: str) -> list[BucketLocation]:
    return [
        parse_location(
            f"s3://{BUCKET}/{prefix}", endpoint=f"http://127.0.0.1:{port}", credentials=f"env:BENCH{cloud.number}",
            name=f"cloud-{cloud.number}", allow_http=True,
        )
        for cloud, port in zip(clouds, ports, strict=True)
    ]  # fmt: skip


def bare_put_ms(location: BucketLocation) -> float:
    """A conditional put there, the median."""
    took_ms = []
    with open_bucket(location) as bucket:
        tag = bucket.write_if("bare", bytes(512), expected_tag=None)
        for _ in range(PUTS):
            began_s = time.perf_counter()
            tag = bucket.write_if("bare", os.urandom(512), expected_tag=tag)
            took_ms.append((time.perf_counter() - began_s) * 1000)
    return statistics.median(took_ms)


class Waiting:
    """A client that moves one ref as often as it can: how long its longest move took."""

    def __init__(self, location: BucketLocation) -> None:
        self._location = location
        self._ended = threading.Event()
        self.longest_s = 0.0
        self.moves = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Waiting:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        with skyhold.open(self._location.url) as store:
            while not self._ended.is_set():
                began_s = time.perf_counter()
                store.create_repository(f"meanwhile/m{self.moves}")
                self.longest_s = max(self.longest_s, time.perf_counter() - began_s)
                self.moves += 1


def timed(location: BucketLocation, action: Callable[[skyhold.Store], object]) -> float:
    with skyhold.open(location.url) as store:
        began_s = time.perf_counter()
        action(store)
        return time.perf_counter() - began_s


def measure(clouds: Sequence[Cloud], count: int) -> list[list[str]]:
    ports = [free_port("127.0.0.1") for _ in clouds]

    def ways(distances_ms: Sequence[float]) -> list[Way]:
        return [Way(port, cloud.port, far) for port, cloud, far in zip(ports, clouds, distances_ms, strict=True)]

    places = locations(clouds, ports, f"store-{count}")
    with running_paths(ways(HERE_MS)), skyhold.init(places) as store:
        for number in range(count):
            store.create_repository(f"team/m{number:05}")
    rows = []
    with running_paths(ways(THREE_MS)):
        put_ms = bare_put_ms(places[1])
        actions: dict[str, Callable[[skyhold.Store], object]] = {
            "`skyhold list`": lambda store: store.repositories(),
            "`skyhold status`": lambda store: store.status(),
            "`skyhold sync`": lambda store: store.sync(),
            "`store voters replace` (three voters to three)": lambda store: store.replace_voter("cloud-2"),
            "`store engine set sqlite`": lambda store: store.move_engine("sqlite"),
            "`store engine set buckets`": lambda store: store.move_engine("buckets"),
        }
        for name, action in actions.items():
            if "voters" in name:
                with Waiting(places[0]) as client:
                    took_s = timed(places[0], action)
                waited = f"{client.longest_s:.1f}"
            else:
                took_s, waited = timed(places[0], action), ""
            each = took_s * 1000 / count
            rows.append([name, f"{count:,}", f"{took_s:.1f}", f"{each:.1f}", f"{each / put_ms:.2f}", waited])
            print(*rows[-1], sep="  ", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=int, nargs="+", default=[100, 1000], metavar="N", help="how many")
    parser.add_argument("--markdown", action="store_true", help="print the table for the manual")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"SKYHOLD_STATE": f"{folder}/state", "SKYHOLD_CACHE": f"{folder}/cache"}
        with running_clouds(3, Path(folder)) as clouds:
            rows = [row for count in chosen.repositories for row in measure(clouds, count)]
    if chosen.markdown:
        heads = ["", "repositories", "s", "ms each", "bare PUTs each", "longest wait of a client meanwhile, s"]
        print(table(heads, rows))


if __name__ == "__main__":
    main()
