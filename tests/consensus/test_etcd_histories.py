"""Histories of the engine `etcd` on a real cluster whose nodes are killed and paused, and whose replies get lost.

`SKYHOLD_ETCD_FAULTS_S` sets for how long (4 seconds by default), `SKYHOLD_ETCD_SEED` which random choices.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from skyhold.errors import Conflict, OutcomeUnknown, SkyholdError
from tests import etcd
from tests.consensus.etcd_fixtures import PREFIX, new_store, opened
from tests.consensus.histories.history import Operation, Unknown, check_history
from tests.consensus.histories.linearizability import Verdict
from tests.consensus.histories.porcupine import is_built, porcupine
from tests.consensus.histories.recording import RecordedClient
from tests.consensus.histories.register_model import verdicts
from tests.consensus.histories.watching import watch_violation
from tests.etcd import EtcdCluster, Node
from tests.faults.proxy import Fault, FaultProxy, fault_proxy

FAULTS_S = float(os.environ.get("SKYHOLD_ETCD_FAULTS_S", "4"))
SEED = int(os.environ.get("SKYHOLD_ETCD_SEED") or random.SystemRandom().randrange(10**6))
CLIENTS, WATCHERS = 5, 2
CHANGES_A_REGISTER = 60
"""Fewer than an engine keeps, so that every operation can be settled; then the clients take new registers."""
KINDS = ("drop", "lose_reply", "answer", "truncate", "delay")


@pytest.fixture
def cluster() -> Iterator[EtcdCluster]:
    cluster = etcd.plain_cluster()
    yield cluster
    cluster.heal()


class Run:
    """Clients that read, change and settle a few registers through proxies, watchers, and the answers to them."""

    def __init__(self, cluster: EtcdCluster, proxies: list[FaultProxy]) -> None:
        self._cluster = cluster
        self._proxies = proxies
        self._store = new_store()
        self._ended = threading.Event()
        self._round = 0
        self._changes = 0
        self._clients: list[RecordedClient] = []
        self._failed: list[BaseException] = []
        self._threads = [threading.Thread(target=self._guarded, args=(number,)) for number in range(CLIENTS + WATCHERS)]

    @property
    def history(self) -> list[Operation]:
        return [operation for client in self._clients for operation in client.operations]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(60)
        assert self._failed == []
        assert not any(thread.is_alive() for thread in self._threads)

    def _guarded(self, number: int) -> None:
        try:
            work = self._watch if number >= CLIENTS else self._work
            work(number, random.Random(f"{SEED}-{number}"))
        except BaseException as error:  # noqa: BLE001 - raised by the test
            self._failed.append(error)

    def _client(self, number: int, *, direct: bool) -> RecordedClient:
        ports = [node.client_port for node in self._cluster.nodes]
        if not direct:
            ports = [proxy.port for proxy in self._proxies]
        first = number % len(ports)
        nodes = ",".join(f"127.0.0.1:{port}" for port in ports[first:] + ports[:first])
        registers = opened(f"etcd://{nodes}/{PREFIX}", self._store, attempt_s=0.5, deadline_s=2)
        client = RecordedClient(registers, f"client-{number}", time.monotonic_ns)
        self._clients.append(client)
        return client

    def _key(self, chance: random.Random) -> str:
        return f"repository/{self._round:016x}{chance.randrange(3):016x}"

    def _work(self, number: int, chance: random.Random) -> None:
        client, count = self._client(number, direct=False), 0
        while not self._ended.is_set():
            key, count = self._key(chance), count + 1
            try:
                current = client.read(key)
            except SkyholdError:
                continue
            version, operation_id = current.version if current else 0, f"{number}-{count}"
            data = operation_id.encode()
            try:
                client.compare_and_set(key, version, data, operation_id)
            except OutcomeUnknown:
                self._resolve(client, key, version, data, operation_id, chance)
            except SkyholdError:
                continue
            self._changes += 1
            if self._changes >= CHANGES_A_REGISTER:
                self._changes, self._round = 0, self._round + 1

    def _resolve(
        self, client: RecordedClient, key: str, version: int, data: bytes, operation_id: str, chance: random.Random
    ) -> None:
        """Ask what became of it, or send it again, or leave it: as callers do."""
        what = chance.random()
        try:
            if what < 0.5:
                client.outcome(key, operation_id)
            elif what < 0.8:
                client.compare_and_set(key, version, data, operation_id)
        except (Conflict, SkyholdError):
            pass

    def _watch(self, number: int, chance: random.Random) -> None:
        """Each from the beginning, so that it gets every change."""
        client = self._client(number, direct=True)
        while not self._ended.is_set():
            key, version = self._key(chance), 0
            while not self._ended.is_set() and key.startswith(f"repository/{self._round:016x}"):
                try:
                    reported = client.watch(key, version, timeout_s=0.5)
                except SkyholdError:
                    continue
                assert isinstance(reported, list)
                version = reported[-1].version if reported else version


def do_harm(cluster: EtcdCluster, proxies: list[FaultProxy], chance: random.Random, until_s: float) -> int:
    """Kill or pause one or two nodes for a while, lose requests and replies, compact. Returns how many times."""
    faults = 0
    while time.monotonic() < until_s:
        faults += 1
        for proxy in proxies:
            kinds = [Fault(chance.choice(KINDS), times=3, delay_s=0.7) for _ in range(chance.randrange(3))]  # type: ignore[arg-type]
            proxy.inject(*kinds)
        time.sleep(chance.uniform(0.2, 0.8))
        for node in chance.sample(cluster.nodes, chance.choice([1, 1, 2])):
            chance.choice([Node.kill, Node.pause])(node)
        time.sleep(chance.uniform(0.2, 1.5))
        cluster.heal()
        if chance.random() < 0.5:
            cluster.compact()
    return faults


@pytest.mark.timeout(300 + 3 * FAULTS_S)
def test_histories_of_clients_while_nodes_and_replies_are_lost_are_linearizable(cluster: EtcdCluster) -> None:
    print(f"seed {SEED}")
    with ExitStack() as stack:
        proxies = [stack.enter_context(fault_proxy(node.client_port)) for node in cluster.nodes]
        run = Run(cluster, proxies)
        run.start()
        try:
            faults = do_harm(cluster, proxies, random.Random(SEED), time.monotonic() + FAULTS_S)
        finally:
            run.end()
    history = run.history
    unknown = sum(isinstance(operation.result, Unknown) for operation in history)
    registers = {operation.register for operation in history}
    print(f"{len(history)} operations on {len(registers)} registers, {unknown} unknown, {faults} faults")
    check_history(history)
    assert set(verdicts(history).values()) == {Verdict.OK}
    assert watch_violation(history) is None
    if is_built():
        assert set(porcupine(history).values()) == {Verdict.OK}
    assert unknown < len(history) / 10, "the check is weak"
