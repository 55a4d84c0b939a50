"""A link of a known rate between two network namespaces of our own: the server in one, the client in the other.

A veth pair with a token bucket filter at both ends, so that both directions have the rate. Needs root and iproute2.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SERVER_ADDRESS = "10.213.77.1"
CLIENT_ADDRESS = "10.213.77.2"
PREFIX = "skyhold-bench-"
PROBE_BYTES = 64 << 20

SENDER = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as server:
    print("listening", flush=True)
    peer = server.accept()[0]
    peer.settimeout(30)
    block = bytes(1 << 20)
    for _ in range(int(sys.argv[3]) >> 20):
        peer.sendall(block)
    peer.close()
"""
RECEIVER = """
import socket, sys, time
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30)
begin_s, size_bytes, buffer = time.perf_counter(), 0, bytearray(1 << 20)
while count := peer.recv_into(buffer):
    size_bytes += count
print(size_bytes * 8 / (time.perf_counter() - begin_s))
"""


@dataclass(frozen=True, slots=True)
class ShapedLink:
    """Two namespaces; a command runs in one of them with the prefix."""

    server_namespace: str
    client_namespace: str

    @property
    def server_prefix(self) -> Sequence[str]:
        """What to put before a command that shall run at the server's end."""
        return ("nsenter", f"--net=/run/netns/{self.server_namespace}")

    @property
    def client_prefix(self) -> Sequence[str]:
        """What to put before a command that shall run at the client's end."""
        return ("nsenter", f"--net=/run/netns/{self.client_namespace}")

    def measured_bits_per_s(self, port: int = 9700) -> float:
        """The rate that one plain TCP connection gets from server to client."""
        sender = subprocess.Popen(
            [*self.server_prefix, sys.executable, "-c", SENDER, SERVER_ADDRESS, str(port), str(PROBE_BYTES)],
            stdout=subprocess.PIPE,
        )
        try:
            assert sender.stdout is not None
            sender.stdout.readline()
            received = subprocess.run(
                [*self.client_prefix, sys.executable, "-c", RECEIVER, SERVER_ADDRESS, str(port)],
                check=True, capture_output=True, text=True, timeout=60,
            )  # fmt: skip
        finally:
            sender.kill()
            sender.wait()
        return float(received.stdout)


def why_not_possible() -> str | None:
    """Why this machine cannot have a shaped link, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "tc", "nsenter") if shutil.which(tool) is None]
    return f"no {', '.join(missing)} here (Debian: apt-get install iproute2 util-linux)" if missing else None


@contextlib.contextmanager
def shaped_link(rate: str = "1gbit") -> Iterator[ShapedLink]:
    """Make the link and remove it afterwards. `rate` is as `tc` takes it."""
    _remove_leftovers()
    link = ShapedLink(f"{PREFIX}server-{os.getpid()}", f"{PREFIX}client-{os.getpid()}")
    try:
        for namespace in (link.server_namespace, link.client_namespace):
            _call("ip", "netns", "add", namespace)
        # Born inside a namespace, so that no interface of ours is ever in the machine's own.
        _call("ip", "-n", link.server_namespace, "link", "add", "server", "type", "veth",
              "peer", "name", "client", "netns", link.client_namespace)  # fmt: skip
        for namespace, name, address in (
            (link.server_namespace, "server", SERVER_ADDRESS),
            (link.client_namespace, "client", CLIENT_ADDRESS),
        ):
            _call("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", name)
            _call("ip", "-n", namespace, "link", "set", "lo", "up")
            _call("ip", "-n", namespace, "link", "set", name, "up")
            _call("tc", "-n", namespace, "qdisc", "add", "dev", name, "root",
                  "tbf", "rate", rate, "burst", "256kb", "latency", "50ms")  # fmt: skip
        yield link
    finally:
        for namespace in (link.server_namespace, link.client_namespace):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True, timeout=30)


def _call(*argv: str) -> None:
    subprocess.run(argv, check=True, timeout=30)


def _remove_leftovers() -> None:
    """Remove the namespaces of benchmarks that were killed before they could."""
    for path in Path("/run/netns").glob(f"{PREFIX}*"):
        if not Path(f"/proc/{path.name.rpartition('-')[2]}").exists():
            subprocess.run(["ip", "netns", "del", path.name], check=False, timeout=30)
