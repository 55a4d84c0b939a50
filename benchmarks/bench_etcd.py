"""The engine etcd on three nodes of this machine, and two ways to speak to etcd: its JSON gateway, and gRPC.

    tools/servers/build etcd etcdctl
    pip install grpcio
    python benchmarks/bench_etcd.py [--operations 400]

Milliseconds, median and 90th percentile. gRPC sends and takes bare messages, which its row writes by hand, so it is as
fast as no client of it can be; without grpcio it is left out. Contestants take turns.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import os
import secrets
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import urllib3

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.etcd import EtcdCluster, plain_cluster

from skyhold.consensus.etcd import open_etcd
from skyhold.consensus.etcd_location import parse_etcd_location
from skyhold.consensus.register import CHANGES_KEPT, DATA_BYTES_MAX, RegisterChange, Versioned

ROUNDS = 4
SIZES_BYTES = (300, 20_000)
KEY = "repository/" + "0" * 32
Call = Callable[[], object]


def gateway(port: int) -> dict[str, Call]:
    pool = urllib3.HTTPConnectionPool("127.0.0.1", port, retries=False)
    key = base64.b64encode(b"gateway").decode()

    def post(path: str, request: dict[str, str]) -> bytes:
        reply = pool.request("POST", path, body=json.dumps(request), timeout=10)
        assert reply.status == 200, reply.data
        return reply.data

    def write(size_bytes: int) -> Call:
        data = secrets.token_bytes(size_bytes)
        return lambda: post("/v3/kv/put", {"key": key, "value": base64.b64encode(data).decode()})

    def read() -> bytes:
        return base64.b64decode(json.loads(post("/v3/kv/range", {"key": key}))["kvs"][0]["value"])

    return _alternating(write, read)


def grpc_calls(port: int) -> dict[str, Call]:
    import grpc

    channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    def method(name: str) -> Callable[..., bytes]:
        return channel.unary_unary(f"/etcdserverpb.KV/{name}", request_serializer=bytes, response_deserializer=bytes)  # type: ignore[return-value]

    put, get = method("Put"), method("Range")

    def write(size_bytes: int) -> Call:
        request = _field(1, b"grpc") + _field(2, secrets.token_bytes(size_bytes))
        return lambda: put(request, timeout=10)

    def read() -> bytes:
        return get(_field(1, b"grpc"), timeout=10)

    return _alternating(write, read)


def _alternating(write: Callable[[int], Call], read: Call) -> dict[str, Call]:
    """Each read finds what the write before it left."""
    calls: dict[str, Call] = {}
    for size_bytes in SIZES_BYTES:
        calls |= {f"write {size_bytes}": write(size_bytes), f"read {size_bytes}": read}
    return calls


def engine(cluster: EtcdCluster) -> dict[str, Call]:
    location = parse_etcd_location(f"{cluster.url}/benchmark")
    registers = open_etcd(location, store_id=secrets.token_hex(16), epoch=1, writer="benchmark")
    versions = dict.fromkeys(("names", "config"), 0)
    kept = [
        RegisterChange(Versioned(v, secrets.token_bytes(DATA_BYTES_MAX)), secrets.token_hex(16))
        for v in range(1, CHANGES_KEPT + 1)
    ]
    registers.restore(KEY, kept)

    def change(key: str, size_bytes: int) -> Call:
        data = secrets.token_bytes(size_bytes)

        def changed() -> None:
            versions[key] = registers.compare_and_set(key, versions[key], data, secrets.token_hex(16)).version

        return changed

    def woken() -> None:
        """A change, until a watcher that waited for it has it."""
        version = versions["names"]
        watcher = threading.Thread(target=lambda: registers.watch("names", version, timeout_s=10))
        watcher.start()
        time.sleep(0.02)  # it waits by now; left out of the figure below
        change("names", 300)()
        watcher.join()

    return {
        "change of 300 B": change("names", 300),
        "change of 17 KiB": change("config", DATA_BYTES_MAX),
        "read of 17 KiB": lambda: registers.read(KEY),
        "all changes of a register, 64 of 17 KiB": lambda: registers.changes(KEY),
        "restore of 64 changes of 17 KiB": lambda: registers.restore(f"repository/{secrets.token_hex(16)}", kept),
        "change, and a watcher notified (20 ms of it waited)": woken,
    }


def _field(number: int, data: bytes) -> bytes:
    """A bytes field of a protobuf message."""
    size, length = len(data), b""
    while size > 127:
        size, length = size >> 7, length + bytes([size & 127 | 128])
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


def import_ms(module: str) -> float:
    """The fastest of seven fresh interpreters, less one that imports nothing."""

    def fastest(what: str) -> float:
        times = []
        for _ in range(7):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {what}"], check=True)
            times.append(time.perf_counter() - began)
        return min(times)

    return (fastest(module) - fastest("sys")) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=400, help="of each kind (default 400)")
    operations = parser.parse_args().operations
    cluster = plain_cluster()
    port = cluster.nodes[0].client_port
    contestants = {"gateway": gateway(port)}
    if importlib.util.find_spec("grpc") is not None:
        contestants["gRPC"] = grpc_calls(port)
    contestants["engine"] = engine(cluster)
    print(f"load {os.getloadavg()[0]:.1f}")
    for name, module in (("gateway", "urllib3"), ("gRPC", "grpc")):
        if name in contestants:
            print(f"import {module}: {import_ms(module):.0f} ms")
    samples: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for name, calls in contestants.items():
            for what, call in calls.items():
                slow = 10 if "64" in what or "watcher" in what else 1
                for _ in range(max(1, operations // ROUNDS // slow)):
                    began = time.perf_counter()
                    call()
                    samples.setdefault((name, what), []).append((time.perf_counter() - began) * 1e3)
    for (name, what), times in samples.items():
        print(f"{name:8} {what:48} {statistics.median(times):6.2f} {sorted(times)[len(times) * 9 // 10]:6.2f}")


if __name__ == "__main__":
    main()
