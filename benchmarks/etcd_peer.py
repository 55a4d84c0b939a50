"""etcd beside the registers: three real nodes, at the same distances, through its own JSON gateway.

The client is as far from each node as from each voter, and so are the other nodes from the nearest one, to which the
lead is moved: a message there and back takes 40 or 90 ms where a request to the voter does. A read is linearizable, a
write is a transaction that compares the version of the key, as a register does.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distance import Path as Distance
from distance import running_paths
from gateway import free_port

READY_S_MAX = 30.0
DATA_BYTES = 512


def etcd_binary() -> Path | None:
    """The program in the cache of test servers, or None."""
    cache = Path(os.environ.get("SKYHOLD_SERVERS", "~/.cache/skyhold-servers")).expanduser()
    binary = cache / "bin" / "etcd"
    return binary if binary.is_file() else None


def etcd_version() -> str:
    """As it prints it."""
    binary = etcd_binary()
    assert binary is not None
    return subprocess.run([binary, "--version"], check=True, capture_output=True, text=True).stdout.splitlines()[0]


class Node:
    """A client of one node, on one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def call(self, path: str, body: dict[str, object]) -> dict[str, object]:
        """One request. Raises `RuntimeError` unless it is answered by 200."""
        self._connection.request("POST", f"/v3/{path}", json.dumps(body), {"Content-Type": "application/json"})
        reply = self._connection.getresponse()
        text = reply.read()
        if reply.status != 200:
            raise RuntimeError(f"etcd answered {reply.status} to {path}: {text[:300]!r}")
        return json.loads(text)

    def read(self, key: str) -> dict[str, object]:
        """Linearizable, as it is where nothing else is asked for."""
        return self.call("kv/range", {"key": _base64(key.encode())})

    def compare_and_set(self, key: str, version: int, data: bytes) -> bool:
        """Put `data` if the key has been put `version` times; whether it was."""
        name = _base64(key.encode())
        done = self.call(
            "kv/txn",
            {
                "compare": [{"key": name, "target": "VERSION", "result": "EQUAL", "version": str(version)}],
                "success": [{"request_put": {"key": name, "value": _base64(data)}}],
                "failure": [{"request_range": {"key": name}}],
            },
        )
        return bool(done.get("succeeded"))

    def close(self) -> None:
        self._connection.close()


@dataclass(slots=True)
class Counter:
    """A key that is changed by who knows how often it was."""

    node: Node
    key: str
    version: int = 0

    def increment(self) -> None:
        assert self.node.compare_and_set(self.key, self.version, os.urandom(DATA_BYTES))
        self.version += 1

    def read(self) -> None:
        self.node.read(self.key)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Three nodes; `ports` are where the client reaches them at their distance."""

    ports: tuple[int, ...]
    processes: tuple[subprocess.Popen[bytes], ...]

    @contextlib.contextmanager
    def lost(self, number: int | None) -> Iterator[None]:
        """One node does not answer."""
        if number is None:
            yield
            return
        self.processes[number].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.processes[number].send_signal(signal.SIGCONT)


@contextlib.contextmanager
def running_etcd(folder: Path, round_trips_ms: Sequence[float]) -> Iterator[Cluster]:
    """Three nodes with the leader at the nearest."""
    binary = etcd_binary()
    assert binary is not None
    count = len(round_trips_ms)
    client = [free_port("127.0.0.1") for _ in range(count)]
    peer = [free_port("127.0.0.1") for _ in range(count)]
    far_client = [free_port("127.0.0.1") for _ in range(count)]
    far_peer = [free_port("127.0.0.1") for _ in range(count)]
    # A node sends on the connections that its peers have made to it, so a message is delayed by half of the distance
    # before its sender, and one there and back by half of both: no distance is before the nearest, and twice before
    # the others.
    nearest = min(range(count), key=lambda number: round_trips_ms[number])
    apart = [0.0 if number == nearest else 2 * far for number, far in enumerate(round_trips_ms)]
    paths = [Distance(*at) for at in zip(far_client, client, round_trips_ms, strict=True)]
    paths += [Distance(*at) for at in zip(far_peer, peer, apart, strict=True)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(running_paths(paths))
        members = ",".join(f"n{n}=http://127.0.0.1:{port}" for n, port in enumerate(far_peer))
        processes = []
        for n in range(count):
            command = [
                str(binary), "--name", f"n{n}", "--data-dir", str(folder / f"etcd-{n}"), "--log-level", "error",
                "--listen-client-urls", f"http://127.0.0.1:{client[n]}",
                "--advertise-client-urls", f"http://127.0.0.1:{far_client[n]}",
                "--listen-peer-urls", f"http://127.0.0.1:{peer[n]}",
                "--initial-advertise-peer-urls", f"http://127.0.0.1:{far_peer[n]}",
                "--initial-cluster", members, "--heartbeat-interval", "100", "--election-timeout", "1000",
            ]  # fmt: skip
            log = stack.enter_context((folder / f"etcd-{n}.log").open("wb"))
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        _lead_by(client, nearest)
        yield Cluster(tuple(far_client), tuple(processes))


def _lead_by(ports: Sequence[int], wanted: int) -> None:
    """Wait for a leader, and move the lead to the node `wanted`."""
    give_up_s = time.monotonic() + READY_S_MAX
    while True:
        try:
            states = []
            for port in ports:
                node = Node(port)
                states.append(node.call("maintenance/status", {}))
                node.close()
            ids = [str(state["header"]["member_id"]) for state in states]  # type: ignore[index]
            leaders = {str(state["leader"]) for state in states if "leader" in state}
            if len(leaders) == 1 and leaders != {"0"}:
                leader = ids.index(leaders.pop())
                if leader == wanted:
                    return
                node = Node(ports[leader])
                node.call("maintenance/transfer-leadership", {"targetID": ids[wanted]})
                node.close()
        except (OSError, http.client.HTTPException, RuntimeError, ValueError, KeyError):
            pass
        if time.monotonic() > give_up_s:
            raise RuntimeError("the etcd nodes have not elected a leader")
        time.sleep(0.2)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
