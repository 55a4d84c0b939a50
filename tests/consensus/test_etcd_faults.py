"""The engine `etcd` when nodes die or hang, a majority is gone, replies are lost and requests arrive late."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import requests
from urllib3.exceptions import SSLError

from skyhold.consensus import etcd_gateway as gateway
from skyhold.consensus.etcd import EtcdRegisters, NodeStatus
from skyhold.consensus.etcd_errors import broken
from skyhold.consensus.etcd_gateway import Json
from skyhold.consensus.register import CHANGES_KEPT, Versioned
from skyhold.errors import Conflict, OutcomeUnknown, PermissionDenied, QuotaExceeded, SkyholdError, Unavailable
from tests import etcd
from tests.consensus.conformance import KEY
from tests.consensus.etcd_fixtures import PREFIX, TRANSACTION, HoldingProxy, new_store, opened
from tests.etcd import EtcdCluster, Node
from tests.faults.proxy import Fault
from tests.servers import wait_until


@pytest.fixture
def cluster() -> Iterator[EtcdCluster]:
    cluster = etcd.plain_cluster()
    yield cluster
    cluster.heal()


@pytest.fixture
def proxy(cluster: EtcdCluster) -> Iterator[HoldingProxy]:
    proxy = HoldingProxy(cluster.nodes[0].client_port)
    yield proxy
    proxy.close()


def through(proxy: HoldingProxy, store: str, *, attempt_s: float = 1.0, deadline_s: float = 20.0) -> EtcdRegisters:
    """The registers of a store as a client has them that knows the proxy alone."""
    location = f"etcd://127.0.0.1:{proxy.port}/{PREFIX}"
    return opened(location, store, attempt_s=attempt_s, deadline_s=deadline_s)


@contextmanager
def incrementing(cluster: EtcdCluster, store: str, writers: int = 3) -> Iterator[list[int]]:
    """Writers that count in one register meanwhile, each first at another node. Yields the counts that they got; at the
    end each of them has made some more, and every one was made exactly once."""
    counts: list[int] = []
    failed: list[BaseException] = []
    enough = threading.Event()
    hosts = cluster.hosts.split(",")

    def write(writer: int) -> None:
        nodes = hosts[writer:] + hosts[:writer]
        registers = opened(f"etcd://{','.join(nodes)}/{PREFIX}", store)
        try:
            for increment in itertools.count():
                counts.append(_incremented(registers, f"writer-{writer}-{increment}"))
                if enough.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - raised by the test
            failed.append(error)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        enough.set()
        for thread in threads:
            thread.join(60)
    assert failed == []
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(counts) == list(range(1, len(counts) + 1))
    assert opened(cluster, store).read("names") == Versioned(len(counts), b"%d" % len(counts))


def _incremented(registers: EtcdRegisters, operation_id: str) -> int:
    """Add one to the count in a register, while other clients do the same. Returns what this operation set it to."""
    while True:
        current = registers.read("names")
        version, count = (current.version, int(current.data)) if current else (0, 0)
        try:
            return int(registers.compare_and_set("names", version, b"%d" % (count + 1), operation_id).data)
        except Conflict:
            continue


def wait_for_more(counts: list[int], more: int = 20) -> None:
    wanted = len(counts) + more
    wait_until(lambda: len(counts) >= wanted, lambda: f"the writers have reached {len(counts)}")


# ---- nodes


@pytest.mark.parametrize("fault", [Node.kill, Node.pause], ids=["killed", "paused"])
def test_leader_that_goes_away_while_clients_write_loses_and_repeats_nothing(
    cluster: EtcdCluster, fault: Callable[[Node], None]
) -> None:
    with incrementing(cluster, new_store()) as counts:
        wait_for_more(counts)
        fault(cluster.leader())
        wait_for_more(counts)
        cluster.heal()
        wait_for_more(counts)


@pytest.mark.parametrize("fault", [Node.kill, Node.pause], ids=["killed", "paused"])
def test_client_goes_on_at_another_node(cluster: EtcdCluster, fault: Callable[[Node], None]) -> None:
    follower = next(node for node in cluster.nodes if node is not cluster.leader())
    others = [node.host for node in cluster.nodes if node is not follower]
    registers = opened(f"etcd://{','.join([follower.host, *others])}/{PREFIX}", new_store())
    registers.compare_and_set(KEY, 0, b"one", "a")
    assert registers._client.preferred == follower.host
    fault(follower)
    assert registers.compare_and_set(KEY, 1, b"two", "b") == Versioned(2, b"two")
    assert registers.read(KEY) == Versioned(2, b"two")
    assert registers._client.preferred == others[0]


def test_watch_goes_on_at_another_node(cluster: EtcdCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    store, reported = new_store(), []
    registers = opened(cluster, store)
    registers.compare_and_set(KEY, 0, b"one", "a")
    watcher = threading.Thread(target=lambda: reported.append(registers.watch(KEY, 1, timeout_s=30)))
    watcher.start()
    time.sleep(0.2)
    cluster.nodes[0].kill()
    other = opened(f"etcd://{cluster.nodes[1].host}/{PREFIX}", store)
    other.compare_and_set(KEY, 1, b"two", "b")
    watcher.join(30)
    assert reported == [[Versioned(2, b"two")]]


def test_lost_majority_is_an_error_that_names_the_nodes_and_changes_nothing(cluster: EtcdCluster) -> None:
    store = new_store()
    registers = opened(cluster, store, deadline_s=2.5)
    registers.compare_and_set(KEY, 0, b"one", "a")
    for node in cluster.nodes[1:]:
        node.kill()
    with pytest.raises(Unavailable) as caught:
        registers.read(KEY)
    assert caught.value.code == "etcd_unavailable"
    assert caught.value.fields["endpoints"] == sorted(cluster.hosts.split(","))
    assert "no leader" in caught.value.message
    hurried = opened(cluster, store, deadline_s=0.3)
    with pytest.raises(Unavailable, match="nothing was changed"):
        hurried.compare_and_set(KEY, 1, b"two", "b")
    with pytest.raises(OutcomeUnknown):
        hurried.outcome(KEY, "b")
    cluster.heal()
    assert registers.outcome(KEY, "b") is None
    assert registers.read(KEY) == Versioned(1, b"one")


def test_node_that_is_alone_gives_no_answer_of_its_own(cluster: EtcdCluster) -> None:
    """It still trusts its leader, and what it holds may be old: every read asks a majority."""
    alone = next(node for node in cluster.nodes if node is not cluster.leader())
    registers = opened(f"etcd://{alone.host}/{PREFIX}", new_store(), deadline_s=0.5)
    registers.compare_and_set(KEY, 0, b"one", "a")
    reads: list[Callable[[], object]] = [
        lambda: registers.read(KEY),
        lambda: registers.changes(KEY),
        lambda: registers.watch(KEY, 0, timeout_s=0),
        registers.list,
    ]
    for node in cluster.nodes:
        if node is not alone:
            node.pause()
    with ThreadPoolExecutor(len(reads)) as readers:
        errors = [reading.exception() for reading in [readers.submit(read) for read in reads]]
    assert [type(error) for error in errors] == [Unavailable] * len(reads)


def test_nodes_are_reported_with_what_is_wrong_with_them(cluster: EtcdCluster) -> None:
    registers = opened(cluster, new_store())
    nodes = registers.nodes()
    assert list(nodes) == cluster.hosts.split(",")
    assert all(isinstance(node, NodeStatus) for node in nodes.values())
    assert len({node.member_id for node in nodes.values() if isinstance(node, NodeStatus)}) == 3
    cluster.nodes[1].kill()

    def answers() -> list[bool]:
        return [isinstance(node, NodeStatus) for node in registers.nodes().values()]

    # The one that was killed may have been the leader.
    wait_until(lambda: answers() == [True, False, True], lambda: f"the nodes that answer are {answers()}")


def test_cluster_without_space_refuses_changes_and_still_reads(cluster: EtcdCluster) -> None:
    registers = opened(cluster, new_store())
    registers.compare_and_set(KEY, 0, b"one", "a")
    node = registers.nodes()[cluster.nodes[0].host]
    assert isinstance(node, NodeStatus)
    alarm = {"action": "ACTIVATE", "memberID": str(int(node.member_id, 16)), "alarm": "NOSPACE"}
    requests.post(f"{cluster.nodes[0].url}/v3/maintenance/alarm", json=alarm, timeout=10).raise_for_status()
    try:
        with pytest.raises(QuotaExceeded) as caught:
            registers.compare_and_set(KEY, 1, b"two", "b")
        assert caught.value.code == "etcd_space_exceeded"
        assert registers.read(KEY) == Versioned(1, b"one")
    finally:
        cluster.ctl("alarm", "disarm")
    assert registers.compare_and_set(KEY, 1, b"two", "b") == Versioned(2, b"two")


# ---- replies


def test_change_whose_reply_was_lost_is_found_by_its_operation_id(cluster: EtcdCluster, proxy: HoldingProxy) -> None:
    store = new_store()
    registers = through(proxy, store)
    for version, data in enumerate([b"one", b"two", b"three"]):
        proxy.inject(Fault("lose_reply", times=1, target=TRANSACTION))
        assert registers.compare_and_set(KEY, version, data, f"o{version}") == Versioned(version + 1, data)
        assert [seen.fault for seen in proxy.seen if seen.target == TRANSACTION] == ["lose_reply"]
    assert opened(cluster, store).read(KEY) == Versioned(3, b"three")


@pytest.mark.parametrize("kind", ["drop", "answer", "truncate", "delay"])
def test_change_is_made_once_whatever_becomes_of_its_request(proxy: HoldingProxy, kind: str) -> None:
    registers = through(proxy, new_store(), attempt_s=0.4)
    registers.compare_and_set(KEY, 0, b"one", "a")
    proxy.inject(Fault(kind, times=1, delay_s=0.8, target=TRANSACTION))  # type: ignore[arg-type]
    assert registers.compare_and_set(KEY, 1, b"two", "b") == Versioned(2, b"two")
    wait_until(lambda: proxy.connections <= 1, lambda: "the delayed request does not arrive")
    assert registers.read(KEY) == Versioned(2, b"two")


def test_change_whose_replies_are_all_lost_is_unknown_until_it_is_asked_about(
    cluster: EtcdCluster, proxy: HoldingProxy
) -> None:
    store = new_store()
    registers = through(proxy, store, deadline_s=0.6)
    registers.compare_and_set(KEY, 0, b"one", "a")
    proxy.inject(Fault("lose_reply"))
    with pytest.raises(OutcomeUnknown) as caught:
        registers.compare_and_set(KEY, 1, b"two", "b")
    assert caught.value.code == "etcd_outcome_unknown"
    assert "broke the connection" in caught.value.message
    proxy.inject()
    assert registers.outcome(KEY, "b") == Versioned(2, b"two")
    assert registers.compare_and_set(KEY, 1, b"two", "b") == Versioned(2, b"two")


def test_change_on_a_tls_connection_that_broke_is_unknown_where_no_node_answers_any_more(
    cluster: EtcdCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a node refuses a certificate, but here the request may have been taken."""
    registers = opened(f"etcd://{cluster.nodes[0].host}/{PREFIX}", new_store())
    registers.read(KEY)

    def break_off(*_: object) -> None:
        raise broken("node", SSLError("EOF occurred in violation of protocol"))

    monkeypatch.setattr(registers._client, "_post", break_off)
    with pytest.raises(OutcomeUnknown) as caught:
        registers.compare_and_set(KEY, 0, b"one", "a")
    assert caught.value.fields["cause"] == "etcd_tls_failed"
    with pytest.raises(PermissionDenied, match="nothing was changed"):
        registers.read(KEY)


def test_lost_seal_and_lost_restore_are_finished_by_the_next_attempt(proxy: HoldingProxy) -> None:
    registers = through(proxy, new_store())
    registers.compare_and_set("config", 0, b"one", "a")
    proxy.inject(Fault("lose_reply", times=1, target=TRANSACTION))
    sealed = registers.seal("config", 1, b"next")
    assert sealed == Versioned(2, b"one", b"next")
    kept = registers.changes("config")
    proxy.inject(Fault("lose_reply", times=1, target=TRANSACTION))
    registers.restore(KEY, kept)
    assert registers.changes(KEY) == kept


def test_change_that_others_buried_while_its_reply_was_lost_is_unknown(
    cluster: EtcdCluster, proxy: HoldingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many followed that the register no longer shows whether it was among them."""
    store = new_store()
    registers, others = through(proxy, store), opened(cluster, store)
    registers.compare_and_set(KEY, 0, b"0", "o0")
    proxy.inject(Fault("lose_reply", times=1, target=TRANSACTION))
    look = registers._look

    def after_others(call: object, key: str) -> object:
        for version in range(2, CHANGES_KEPT + 3):
            others.compare_and_set(KEY, version, b"x", f"other-{version}")
        return look(call, key)  # type: ignore[arg-type]

    monkeypatch.setattr(registers, "_look", after_others)
    with pytest.raises(OutcomeUnknown) as caught:
        registers.compare_and_set(KEY, 1, b"1", "o1")
    assert caught.value.code == "outcome_forgotten"


# ---- requests that come late


def send_late(proxy: HoldingProxy, store: str, version: int) -> None:
    """Send a change that is still on its way when its sender has given up."""
    sender = through(proxy, store)
    sender.read(KEY)
    proxy.hold()
    sender._client.attempt_s = sender._client.deadline_s = 0.3
    with pytest.raises(OutcomeUnknown):
        sender.compare_and_set(KEY, version, b"late", "late")
    sender.close()


@pytest.mark.parametrize("version", [0, 1], ids=["create", "change"])
def test_change_that_arrives_late_takes_effect_unless_it_was_settled(
    cluster: EtcdCluster, proxy: HoldingProxy, version: int
) -> None:
    """Without this the next test would show nothing."""
    store = new_store()
    direct = opened(cluster, store)
    for earlier in range(version):
        direct.compare_and_set(KEY, earlier, b"early", f"early-{earlier}")
    send_late(proxy, store, version)
    before = direct.read(KEY)
    assert (before.version if before else 0) == version
    proxy.release()
    assert direct.read(KEY) == Versioned(version + 1, b"late")


@pytest.mark.parametrize("version", [0, 1], ids=["create", "change"])
def test_change_that_arrives_late_is_void_once_it_was_settled(
    cluster: EtcdCluster, proxy: HoldingProxy, version: int
) -> None:
    store = new_store()
    direct = opened(cluster, store)
    for earlier in range(version):
        direct.compare_and_set(KEY, earlier, b"early", f"early-{earlier}")
    before = direct.read(KEY)
    send_late(proxy, store, version)
    assert direct.outcome(KEY, "late") is None
    proxy.release()
    assert direct.read(KEY) == before
    assert direct.outcome(KEY, "late") is None
    assert direct.compare_and_set(KEY, version, b"again", "late") == Versioned(version + 1, b"again")


def test_change_that_arrives_late_would_undo_what_was_settled_without_the_fence(
    cluster: EtcdCluster, proxy: HoldingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head alone does not change when an operation is settled."""
    store, change = new_store(), gateway.change
    direct = opened(cluster, store)
    direct.compare_and_set(KEY, 0, b"early", "early")

    def without_fence(*arguments: object) -> Json:
        request = change(*arguments)  # type: ignore[arg-type]
        return {**request, "compare": request["compare"][:1]}

    monkeypatch.setattr(gateway, "change", without_fence)
    send_late(proxy, store, 1)
    assert direct.outcome(KEY, "late") is None
    proxy.release()
    assert direct.read(KEY) == Versioned(2, b"late")


def test_change_that_arrives_late_is_void_after_another_change(cluster: EtcdCluster, proxy: HoldingProxy) -> None:
    store = new_store()
    direct = opened(cluster, store)
    direct.compare_and_set(KEY, 0, b"early", "early")
    send_late(proxy, store, 1)
    direct.compare_and_set(KEY, 1, b"other", "other")
    proxy.release()
    assert direct.read(KEY) == Versioned(2, b"other")


def test_unreachable_cluster_is_unavailable() -> None:
    registers = opened("etcd://127.0.0.1:1,127.0.0.1:2/x", new_store(), deadline_s=0.2)
    calls: list[Callable[[], object]] = [
        lambda: registers.read(KEY),
        lambda: registers.compare_and_set(KEY, 0, b"x", "a"),
        registers.list,
        lambda: registers.watch(KEY, 0, timeout_s=5),
    ]
    for call in calls:
        with pytest.raises(SkyholdError) as caught:
            call()
        assert caught.value.code == "etcd_unavailable"
        assert type(caught.value) is Unavailable
