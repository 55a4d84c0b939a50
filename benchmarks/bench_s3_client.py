"""What a request to S3 costs through our driver, beside the client `obstore` (Rust), against one versitygw on loopback.

    python benchmarks/bench_s3_client.py [--rounds N]

Every round runs each operation with both, one after the other: wall and processor time of this process, medians of the
rounds, and the ratio of the two. Both sign each body with its SHA-256, and both compare its MD5 with the tag.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import obstore
from gateway import running_gateway
from obstore.store import S3Store
from report import table

from skyhold.buckets.location import parse_location
from skyhold.buckets.open import open_bucket

PACK = os.urandom(16 << 20)
PACKS = 6
SMALL = b"x" * 500
SMALLS = 100


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall_s, time.process_time() - cpu_s


def put(store: S3Store, key: str, body: bytes, mode: Literal["create", "overwrite"] = "overwrite") -> None:
    tag = obstore.put(store, key, body, mode=mode, use_multipart=False)["e_tag"]
    if tag != f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"':
        raise AssertionError(tag)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of which the medians are shown (default 7)")
    rounds = parser.parse_args().rounds
    with (
        tempfile.TemporaryDirectory() as folder,
        running_gateway(Path(folder), keep_alive=True) as gateway,
        ThreadPoolExecutor(4) as four,
    ):
        at = gateway.make_bucket("models")
        os.environ |= {"BENCH_ACCESS_KEY_ID": at.access_key, "BENCH_SECRET_ACCESS_KEY": at.secret_key}
        ours = open_bucket(parse_location(f"s3://{at.bucket}", endpoint=at.url, credentials="env:BENCH"))
        theirs = S3Store(
            at.bucket, endpoint=at.url, region=at.region, access_key_id=at.access_key, secret_access_key=at.secret_key,
            client_options={"allow_http": True}, checksum_algorithm="sha256", conditional_put="etag",
        )  # fmt: skip
        number = iter(range(1 << 30))
        works: dict[str, tuple[int, Callable[[], object], Callable[[], object]]] = {
            "write 16 MiB": (
                PACKS,
                lambda: [ours.write(f"p{key}", PACK) for key in range(PACKS)],
                lambda: [put(theirs, f"p{key}", PACK) for key in range(PACKS)],
            ),
            "write 16 MiB, 4 threads": (
                PACKS,
                lambda: list(four.map(lambda key: ours.write(f"p{key}", PACK), range(PACKS))),
                lambda: list(four.map(lambda key: put(theirs, f"p{key}", PACK), range(PACKS))),
            ),
            "read 16 MiB": (
                PACKS,
                lambda: [ours.read(f"p{key}") for key in range(PACKS)],
                lambda: [obstore.get(theirs, f"p{key}").bytes() for key in range(PACKS)],
            ),
            "read 16 MiB, 4 threads": (
                PACKS,
                lambda: list(four.map(lambda key: ours.read(f"p{key}"), range(PACKS))),
                lambda: list(four.map(lambda key: obstore.get(theirs, f"p{key}").bytes(), range(PACKS))),
            ),
            "read a register": (
                SMALLS,
                lambda: [ours.read_tagged("small") for _ in range(SMALLS)],
                lambda: [obstore.get(theirs, "small").bytes() for _ in range(SMALLS)],
            ),
            "create by a conditional put": (
                SMALLS,
                lambda: [ours.write_if(f"c{next(number)}", SMALL, expected_tag=None) for _ in range(SMALLS)],
                lambda: [put(theirs, f"c{next(number)}", SMALL, "create") for _ in range(SMALLS)],
            ),
        }
        ours.write("small", SMALL)
        samples: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for _ in range(rounds):
            for name, (_, own, other) in works.items():
                samples.setdefault((name, "skyhold"), []).append(measured(own))
                samples.setdefault((name, "obstore"), []).append(measured(other))
        rows = []
        for name, (count, _, _) in works.items():
            wall = {who: statistics.median(w for w, _ in samples[name, who]) / count for who in ("skyhold", "obstore")}
            cpu = {who: statistics.median(c for _, c in samples[name, who]) / count for who in ("skyhold", "obstore")}
            rows.append(
                [name, *(f"{1e3 * wall[who]:.2f} ({1e3 * cpu[who]:.2f})" for who in ("skyhold", "obstore")),
                 f"{wall['skyhold'] / wall['obstore']:.2f} ({cpu['skyhold'] / cpu['obstore']:.2f})"]
            )  # fmt: skip
        print(table(["ms a call: wall (CPU)", "skyhold", "obstore", "ratio"], rows))


if __name__ == "__main__":
    main()
