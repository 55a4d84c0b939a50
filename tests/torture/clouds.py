"""What can be tortured: voters on real servers, each a process of its own behind a network of its own; nodes of etcd;
voters in folders."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from skyhold.buckets.location import parse_location
from skyhold.buckets.open import create_bucket
from tests import servers
from tests.etcd import Node
from tests.torture.engines import Place, admit
from tests.torture.network import Network

CONTAINER: Final = "torture"


@dataclass(frozen=True)
class ServerKind:
    """`keeps`: what it acknowledged is still there when its process was killed. Azurite saves its index every few
    seconds, and fake-gcs-server keeps all in memory: killed, they would be voters with amnesia, which no cloud is."""

    start: Callable[[], servers.Server]
    place: Callable[[str, servers.Server, str], Place]
    keeps: bool


def _s3(name: str, server: servers.Server, endpoint: str) -> Place:
    return Place(name, f"s3://{CONTAINER}/voter", endpoint, "env:TORTURE_S3")


def _azure(name: str, server: servers.Server, endpoint: str) -> Place:
    account = servers.AZURITE_ACCOUNT
    return Place(name, f"az://{account}/{CONTAINER}/voter", f"{endpoint}/{account}", "env:TORTURE_AZURE")


def _google(name: str, server: servers.Server, endpoint: str) -> Place:
    return Place(name, f"gs://{CONTAINER}/voter", endpoint)


SERVER_KINDS: Final = {
    "versitygw": ServerKind(servers.start_versitygw, _s3, keeps=True),
    "azurite": ServerKind(servers.start_azurite, _azure, keeps=False),
    "fake-gcs-server": ServerKind(servers.start_fake_gcs_server, _google, keeps=False),
}


def provide_credentials() -> None:
    """Provides the credentials that the places refer to: in the environment, for this process and its children."""
    os.environ["TORTURE_S3_ACCESS_KEY_ID"] = servers.ACCESS_KEY
    os.environ["TORTURE_S3_SECRET_ACCESS_KEY"] = servers.SECRET_KEY
    os.environ["TORTURE_AZURE_ACCOUNT_KEY"] = servers.AZURITE_KEY


class Cloud:
    """A server and the network before it. `place` is where the workers find it, `direct` where the judge does: no
    faults are between, though the server may be away for a while."""

    def __init__(self, name: str, kind_name: str, seed: int, rate: float, *, strip: str = "") -> None:
        kind = SERVER_KINDS[kind_name]
        self.keeps = kind.keeps
        self._server = kind.start().with_bucket(CONTAINER)
        self.direct = kind.place(name, self._server, self._server.url)
        with self.direct.open() as bucket:
            admit(self.direct, bucket)
        self.network = Network(self._server.port, seed, rate, strip)
        self.place = kind.place(name, self._server, f"http://127.0.0.1:{self.network.port}")

    def pause(self) -> None:
        self._server.running.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._server.running.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._server.running.kill()

    def start_again(self) -> None:
        self._server.running.start()

    def close(self) -> tuple[int, Counter[str]]:
        """End it; how many requests came to its network, and the faults that they met."""
        with suppress(ProcessLookupError):
            self.go_on()
        seen = self.network.close()
        self._server.running.kill()
        return seen


class EtcdNode:
    """A node of a cluster that is there until this process ends. Its clients reach it without a network of ours:
    `tests/consensus/test_etcd_histories.py` puts one between."""

    keeps = True
    network = None

    def __init__(self, node: Node) -> None:
        self._node = node

    def pause(self) -> None:
        self._node.pause()

    def go_on(self) -> None:
        if self._node.process is not None:
            self._node.resume()

    def kill(self) -> None:
        self._node.kill()

    def start_again(self) -> None:
        self._node.start()

    def close(self) -> tuple[int, Counter[str]]:
        return 0, Counter()


def make_folders(root: Path, voters: int) -> tuple[Place, ...]:
    """Voters that are folders."""
    places = tuple(Place(f"cloud-{number}", (root / f"cloud-{number}").as_uri()) for number in range(voters))
    for place in places:
        create_bucket(parse_location(place.url, name=place.name))
        with place.open() as bucket:
            admit(place, bucket)
    return places
