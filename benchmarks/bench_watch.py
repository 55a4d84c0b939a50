"""What waiting for changes costs while nothing changes: requests of a store whose repositories are all watched.

    python benchmarks/bench_watch.py [--repositories N] [--seconds S]

A store of three folders; every request of a driver is counted. Then one ref is moved by another client, and the time
until it is seen is measured, `TIMES` times. Ends with status 1 where the store is asked more often than once in five
seconds and once a minute for each register and voter, or a change is seen after more than six seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import skyhold
from skyhold.buckets.folder import FolderBucket

TIMES = 5
LISTEN_S = 5.0
SEEN_S_MAX = 6.0
S3_GET_USD = 0.4e-6
MONTH_S = 30 * 86_400


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=int, default=20, metavar="N")
    parser.add_argument("--seconds", type=float, default=120.0, metavar="S")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skyhold-watch-") as place:
        root = Path(place)
        os.environ |= {"SKYHOLD_STATE": str(root / "state"), "SKYHOLD_CACHE": str(root / "cache")}
        os.environ |= {"SKYHOLD_AUTHOR": "Ada <ada@example.org>", "XDG_CONFIG_HOME": str(root / "config")}
        folder = root / "model"
        folder.mkdir()
        (folder / "weights.bin").write_bytes(bytes(4096))
        url = str(root / "a")
        skyhold.init([str(root / name) for name in "abc"]).close()
        asked: Counter[str] = Counter()
        _count(asked)
        with skyhold.open(url) as store, skyhold.open(url) as other:
            names = [f"bench/m{number}" for number in range(chosen.repositories)]
            for name in names:
                store.repository(name, create=True).push(folder)
            seen: dict[str, float] = {}
            stop = threading.Event()
            watchers = [threading.Thread(target=_watch, args=(store, name, seen, stop)) for name in names]
            for watcher in watchers:
                watcher.start()
            time.sleep(2 * LISTEN_S)
            asked.clear()
            time.sleep(chosen.seconds)
            idle = Counter(asked)
            took_s = []
            for number in range(TIMES):
                time.sleep(LISTEN_S / TIMES * number)
                other.repository(names[number % len(names)]).set_refs({f"alias/a{number}": "main"})
                began_s = time.monotonic()
                while seen.get(names[number % len(names)], 0.0) < began_s - 1.0:
                    time.sleep(0.01)
                took_s.append(time.monotonic() - began_s)
            stop.set()
            for watcher in watchers:
                watcher.join()
    bells, others = idle["bell"], idle.total() - idle["bell"]
    most = 3 * chosen.repositories * (chosen.seconds / 60 / 0.9 + 1)
    a_month = idle.total() / chosen.seconds * MONTH_S * S3_GET_USD
    print(f"{chosen.repositories} repositories watched for {chosen.seconds:.0f} s, three voters")
    print(f"conditional GETs of the bell: {bells}, at most {chosen.seconds / LISTEN_S + 1:.0f}")
    print(f"other requests: {others}, at most {most:.0f} (a read of a majority for each register and minute)")
    print(f"in all {idle.total() / chosen.seconds * 5:.1f} requests in 5 s; ${a_month:.2f} a month at $0.40 a million")
    print(f"a change is seen after {statistics.median(took_s):.1f} s in the median, {max(took_s):.1f} s at most")
    return 0 if bells <= chosen.seconds / LISTEN_S + 1 and others <= most and max(took_s) <= SEEN_S_MAX else 1


def _watch(store: skyhold.Store, name: str, seen: dict[str, float], stop: threading.Event) -> None:
    for _ in store.repository(name).watch(stop=stop):
        seen[name] = time.monotonic()


def _count(asked: Counter[str]) -> None:
    """Count what is asked of every folder from now on, by the first part of the key."""
    for verb in ("read", "read_tagged", "write", "write_if", "list", "head"):
        plain = getattr(FolderBucket, verb, None)
        if plain is None:
            continue

        def counted(
            self: FolderBucket, key: str = "", *rest: object, _plain: object = plain, **given: object
        ) -> object:
            asked[key.partition("/")[0]] += 1
            return _plain(self, key, *rest, **given)  # type: ignore[operator]

        setattr(FolderBucket, verb, counted)


if __name__ == "__main__":
    sys.exit(main())
