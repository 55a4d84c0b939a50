"""Real etcd clusters of three nodes on loopback, plain or with TLS and users, whose nodes can be killed and paused.

The programs come from `tools/servers/build etcd etcdctl`. Each test process has at most one cluster of each kind.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.servers import end_with_parent, free_port, new_folder, program, wait_until
from tests.tls import Authority

NODES = 3
ROOT_PASSWORD = "only-for-the-tests-of-skyhold"


@dataclass
class Node:
    """One etcd process, which keeps its ports and data when it is started again."""

    name: str
    folder: Path
    client_port: int
    peer_port: int
    options: list[str]
    scheme: str
    authority: Authority | None
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.client_port}"

    def start(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(program("etcd")), *self.options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=end_with_parent,  # noqa: PLW1509 - calls one function of libc, which takes no lock
            )

    def kill(self) -> None:
        """End it as `kill -9` does, also where it is paused."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def pause(self) -> None:
        """Its port goes on to take connections, and nothing answers there: each of its threads has stopped."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def is_healthy(self) -> bool:
        """Whether it serves linearizable reads: there is a majority, and it belongs to it."""
        options = {"verify": self.authority.ca_file, "cert": self.authority.client_pair} if self.authority else {}
        try:
            return requests.get(f"{self.url}/health", timeout=2, **options).status_code == 200  # type: ignore[arg-type]
        except requests.RequestException:
            return False

    def complaint(self) -> str:
        return f"{self.name} is not healthy: {(self.folder / 'server.log').read_text(errors='replace')[-2000:]}"


@dataclass
class EtcdCluster:
    """Three nodes; `has_users` once authentication was enabled. `hosts` is what an `etcd://` location names."""

    nodes: list[Node]
    authority: Authority | None
    has_users: bool = False

    @property
    def hosts(self) -> str:
        return ",".join(node.host for node in self.nodes)

    @property
    def url(self) -> str:
        return f"{'etcds' if self.authority else 'etcd'}://{self.hosts}"

    def wait_until_healthy(self) -> None:
        for node in self.nodes:
            wait_until(node.is_healthy, node.complaint)

    def heal(self) -> None:
        """Start what was killed, resume what was paused, and wait for all of them."""
        for node in self.nodes:
            if node.process is None:
                node.start()
            else:
                node.resume()
        self.wait_until_healthy()

    def leader(self) -> Node:
        """The node that leads now."""
        found = json.loads(self.ctl("endpoint", "status", "-w", "json"))
        leads = [status["Status"]["leader"] == status["Status"]["header"]["member_id"] for status in found]
        return self.nodes[leads.index(True)]

    def ctl(self, *arguments: str, input_text: str | None = None) -> str:
        """Run `etcdctl`, as root where the cluster has users."""
        return self._run([str(program("etcdctl")), *arguments], {}, input_text)

    def shell(self, commands: str, **environment: str) -> None:
        """Run commands of bash with `etcdctl` on the path, set up for this cluster, until one goes wrong."""
        path = f"{program('etcdctl').parent}:{os.environ['PATH']}"
        self._run(["bash", "-euo", "pipefail", "-c", commands], {"PATH": path, **environment}, None)

    def _run(self, command: list[str], environment: dict[str, str], input_text: str | None) -> str:
        given = {"ETCDCTL_ENDPOINTS": ",".join(node.url for node in self.nodes)}
        if self.has_users:
            given["ETCDCTL_USER"] = f"root:{ROOT_PASSWORD}"
        if self.authority:
            certificate, key = self.authority.client_pair
            given |= {"ETCDCTL_CACERT": str(self.authority.ca_file), "ETCDCTL_CERT": certificate, "ETCDCTL_KEY": key}
        run = subprocess.run(
            command,
            env=os.environ | given | environment,
            input=input_text,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert run.returncode == 0, f"{command}: {run.stderr}"
        return run.stdout

    def revision(self) -> int:
        """The revision of the newest change of the cluster."""
        found = json.loads(self.ctl("endpoint", "status", "-w", "json"))
        return max(int(status["Status"]["header"]["revision"]) for status in found)

    def compact(self) -> None:
        """Forget all history but the present state."""
        self.ctl("compact", str(self.revision()))

    def end(self) -> None:
        for node in self.nodes:
            node.kill()


@functools.cache
def plain_cluster() -> EtcdCluster:
    """A cluster without authentication."""
    return _started(None)


@functools.cache
def secure_cluster() -> EtcdCluster:
    """A cluster that speaks TLS to clients with a certificate of its authority, and has the user `root`."""
    cluster = _started(Authority(new_folder("etcd-tls")))
    cluster.ctl("user", "add", f"root:{ROOT_PASSWORD}")
    cluster.ctl("user", "grant-role", "root", "root")
    cluster.ctl("auth", "enable")
    cluster.has_users = True
    return cluster


def _started(authority: Authority | None) -> EtcdCluster:
    for name in ("etcd", "etcdctl"):
        program(name)
    ports = [(free_port(), free_port()) for _ in range(NODES)]
    members = ",".join(f"node-{number}=http://127.0.0.1:{peer}" for number, (_, peer) in enumerate(ports))
    nodes = [_node(number, client, peer, members, authority) for number, (client, peer) in enumerate(ports)]
    cluster = EtcdCluster(nodes, authority)
    owner = os.getpid()
    atexit.register(lambda: cluster.end() if os.getpid() == owner else None)
    for node in nodes:
        node.start()
    cluster.wait_until_healthy()
    return cluster


def _node(number: int, client_port: int, peer_port: int, members: str, authority: Authority | None) -> Node:
    folder = new_folder(f"etcd-{number}")
    scheme = "https" if authority else "http"
    options = {
        "name": f"node-{number}",
        "data-dir": folder / "data",
        "listen-client-urls": f"{scheme}://127.0.0.1:{client_port}",
        "advertise-client-urls": f"{scheme}://127.0.0.1:{client_port}",
        "listen-peer-urls": f"http://127.0.0.1:{peer_port}",
        "initial-advertise-peer-urls": f"http://127.0.0.1:{peer_port}",
        "initial-cluster": members,
        "initial-cluster-state": "new",
        "log-level": "warn",
    }
    if authority:
        certificate, key = authority.server_pair
        options |= {"cert-file": certificate, "key-file": key, "trusted-ca-file": authority.ca_file}
        options["bcrypt-cost"] = 4  # a log-in takes a millisecond instead of a tenth of a second
    flags = [f"--{name}={value}" for name, value in options.items()]
    if authority:
        flags.append("--client-cert-auth")
    return Node(f"node-{number}", folder, client_port, peer_port, flags, scheme, authority)
