"""The engine `etcd` on real clusters of three nodes: plain, and with TLS and users."""

from __future__ import annotations

import dataclasses
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import rule

from skyhold.consensus.etcd import EtcdRegisters
from skyhold.consensus.etcd_gateway import Json
from skyhold.consensus.etcd_location import EtcdLocation, parse_etcd_location
from skyhold.consensus.register import CHANGES_KEPT, DATA_BYTES_MAX, RegisterChange, Registers, Versioned
from skyhold.errors import Corrupt, InvalidInput, PermissionDenied, Unavailable
from tests import etcd
from tests.consensus.conformance import KEY, RegistersConformance
from tests.consensus.epochs import Epochs
from tests.consensus.etcd_fixtures import PASSWORDS, PREFIX, cluster_with_users, new_store, opened, secure_location
from tests.consensus.test_state_machine import STEPS, EpochMachine, RegistersMachine
from tests.etcd import EtcdCluster

ROOT = Path(__file__).parents[2]
INCREMENT = """
import sys
from skyhold.consensus.etcd import open_etcd
from skyhold.consensus.etcd_location import parse_etcd_location
from skyhold.errors import Conflict

location, racer, increments = parse_etcd_location(sys.argv[1]), sys.argv[3], int(sys.argv[4])
registers = open_etcd(location, store_id=sys.argv[2], epoch=1, writer=racer)
for increment in range(increments):
    while True:
        current = registers.read("names")
        version, count = (current.version, int(current.data)) if current else (0, 0)
        try:
            registers.compare_and_set("names", version, b"%d" % (count + 1), f"{racer}-{increment}")
            break
        except Conflict:
            pass
"""


class TestEtcdRegisters(RegistersConformance):
    @pytest.fixture
    def registers(self) -> Iterator[Registers]:  # type: ignore[override]
        registers = opened(etcd.plain_cluster(), new_store())
        yield registers
        registers.close()


class TestEtcdRegistersOfAUser(RegistersConformance):
    """By TLS, as a user who may use one prefix and nothing else."""

    @pytest.fixture
    def registers(self) -> Iterator[Registers]:  # type: ignore[override]
        registers = opened(secure_location("writer"), new_store())
        yield registers
        registers.close()


class EtcdMachine(RegistersMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = new_store()
        self.place = self.cluster()
        self.registers = opened(self.place, self.store)

    def cluster(self) -> EtcdCluster | EtcdLocation:
        return etcd.plain_cluster()

    @rule()
    def another_process(self) -> None:
        self.registers.close()
        self.registers = opened(self.place, self.store)


class SecureEtcdMachine(EtcdMachine):
    def cluster(self) -> EtcdLocation:
        return secure_location("writer")


class EtcdEpochs(Epochs):
    """In buckets, in etcd, in a dict, and again."""

    def __init__(self) -> None:
        super().__init__()
        self._store = new_store()

    def open(self, next_configuration: bytes) -> Registers:
        number = int(next_configuration)
        if number % 3 == 2:
            return opened(etcd.plain_cluster(), self._store, epoch=number)
        return super().open(next_configuration)


class EtcdEpochMachine(EpochMachine):
    """Registers come to etcd from another engine, and leave for the next, with all that is kept of them."""

    def new_epochs(self) -> Epochs:
        return EtcdEpochs()


TestEtcd = EtcdMachine.TestCase
TestEtcd.settings = settings(max_examples=8, stateful_step_count=STEPS)
TestEtcdOfAUser = SecureEtcdMachine.TestCase
TestEtcdOfAUser.settings = settings(max_examples=3, stateful_step_count=STEPS)


TestEtcdAmongEpochs = EtcdEpochMachine.TestCase
TestEtcdAmongEpochs.settings = settings(max_examples=4, stateful_step_count=STEPS)


@pytest.fixture
def cluster() -> EtcdCluster:
    return etcd.plain_cluster()


@pytest.fixture
def registers(cluster: EtcdCluster) -> Iterator[EtcdRegisters]:
    registers = opened(cluster, new_store())
    yield registers
    registers.close()


def count_requests(registers: EtcdRegisters, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of all requests that are sent from now on, but for watches."""
    paths: list[str] = []
    post = registers._client.post

    def counted(endpoint: str, path: str, *arguments: Any) -> Json:
        paths.append(path)
        return post(endpoint, path, *arguments)

    monkeypatch.setattr(registers._client, "post", counted)
    return paths


# ---- stores and prefixes


def test_stores_prefixes_and_epochs_are_isolated_from_each_other(cluster: EtcdCluster) -> None:
    store = new_store()
    first = opened(cluster, store)
    first.compare_and_set(KEY, 0, b"one", "a")
    others = [
        opened(cluster, new_store()),
        opened(cluster, store, epoch=2),
        opened(f"{cluster.url}/{PREFIX}-2", store),
        opened(f"{cluster.url}/{PREFIX}/deeper", store),
    ]
    for other in others:
        assert other.read(KEY) is None
        assert other.list() == []
        assert other.outcome(KEY, "a") is None
    assert first.list() == [KEY]


def test_register_that_was_only_asked_about_is_not_listed(registers: EtcdRegisters) -> None:
    assert registers.outcome(KEY, "a") is None
    assert registers.list() == []
    assert registers.read(KEY) is None
    assert registers.compare_and_set(KEY, 0, b"one", "a") == Versioned(1, b"one")


def test_list_goes_over_many_pages(registers: EtcdRegisters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyhold.consensus.etcd.LIST_PAGE", 3)
    keys = [f"repository/{number:032x}" for number in range(8)]
    for key in keys:
        registers.compare_and_set(key, 0, b"x", "a")
        registers.outcome(key, "b")  # its fence is beside it
    assert registers.list() == keys
    assert registers.list("repository/" + "0" * 31) == keys


def test_only_the_last_changes_are_kept(registers: EtcdRegisters, cluster: EtcdCluster) -> None:
    for version in range(CHANGES_KEPT + 9):
        registers.compare_and_set(KEY, version, b"x", f"o{version}")
    found = cluster.ctl("get", "--prefix", "--keys-only", registers._names.change(KEY, 0).rpartition("/")[0])
    assert len(found.split()) == CHANGES_KEPT


def test_value_that_another_program_wrote_is_named_as_damaged(registers: EtcdRegisters, cluster: EtcdCluster) -> None:
    registers.compare_and_set(KEY, 0, b"one", "a")
    registers.compare_and_set(KEY, 1, b"two", "b")
    cluster.ctl("put", registers._names.change(KEY, 1), '{"format":1}')
    with pytest.raises(Corrupt) as caught:
        registers.changes(KEY)
    assert caught.value.code == "registers_damaged"
    cluster.ctl("put", registers._names.head(KEY), "not ours")
    for call in (lambda: registers.read(KEY), lambda: registers.compare_and_set(KEY, 2, b"three", "c")):
        with pytest.raises(Corrupt, match="head"):
            call()


def test_deleted_change_is_not_an_unnoticed_gap(registers: EtcdRegisters, cluster: EtcdCluster) -> None:
    for version in range(5):
        registers.compare_and_set(KEY, version, b"x", f"o{version}")
    cluster.ctl("del", registers._names.change(KEY, 3))
    with pytest.raises(Corrupt):
        registers.watch(KEY, 1, timeout_s=0)


def test_last_writer_is_reported(registers: EtcdRegisters) -> None:
    assert registers.inspect(KEY) is None
    registers.compare_and_set(KEY, 0, b"one", "a")
    reported = registers.inspect(KEY)
    assert reported is not None
    assert (reported.value, reported.writer) == (Versioned(1, b"one"), "test")
    assert datetime.fromisoformat(reported.time).tzinfo is not None


# ---- what is documented


def test_users_are_made_as_documented() -> None:
    page = (ROOT / "docs" / "how-to" / "etcd.md").read_text()
    [commands] = re.findall(r"^```sh etcdctl\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    password, cluster, store = "p-only-for-tests", cluster_with_users(), new_store()
    cluster.shell(commands, USER_PASSWORD=password)
    writer, reader = (opened(secure_location(user, password=password), store) for user in ("ci", "dashboard"))
    assert writer.compare_and_set(KEY, 0, b"one", "a") == Versioned(1, b"one")
    assert reader.read(KEY) == Versioned(1, b"one")
    with pytest.raises(PermissionDenied):
        reader.compare_and_set(KEY, 1, b"two", "b")
    with pytest.raises(PermissionDenied):
        opened(secure_location("ci", prefix="team-a/other", password=password), store).read(KEY)


# ---- what a change costs, and etcd's limits


def test_change_of_a_register_that_was_read_is_one_request(
    registers: EtcdRegisters, monkeypatch: pytest.MonkeyPatch
) -> None:
    registers.compare_and_set(KEY, 0, b"one", "a")
    registers.read(KEY)
    paths = count_requests(registers, monkeypatch)
    registers.compare_and_set(KEY, 1, b"two", "b")
    registers.compare_and_set(KEY, 2, b"three", "c")
    assert paths == ["/v3/kv/txn"] * 2


def test_change_by_another_client_is_found_by_the_transaction(registers: EtcdRegisters) -> None:
    registers.compare_and_set(KEY, 0, b"one", "a")
    prefix = registers._names.registers.removesuffix("/registers/")
    other = EtcdRegisters(registers._client, prefix, writer="other")
    other.read(KEY)
    registers.compare_and_set(KEY, 1, b"two", "b")
    with pytest.raises(Exception, match="is at version 2, not 1"):
        other.compare_and_set(KEY, 1, b"other", "c")
    other.outcome(KEY, "never")  # moves the fence, and no version
    assert registers.compare_and_set(KEY, 2, b"three", "d").version == 3


def test_register_of_the_greatest_size_is_restored_within_the_limits_of_etcd(registers: EtcdRegisters) -> None:
    """All kept changes at their greatest, the last of them a seal: no more would have to go into one request."""
    chance = random.Random(11)
    changes = [
        RegisterChange(Versioned(version, chance.randbytes(DATA_BYTES_MAX)), f"{version:064x}")
        for version in range(5, 5 + CHANGES_KEPT)
    ]
    last = changes[-1].value
    changes[-1] = RegisterChange(dataclasses.replace(last, next_configuration=chance.randbytes(DATA_BYTES_MAX)), None)
    registers.restore(KEY, changes)
    registers.restore(KEY, changes)
    assert registers.changes(KEY) == changes
    assert registers.read(KEY) == changes[-1].value


def test_change_of_the_greatest_size_is_far_from_the_limits_of_etcd(registers: EtcdRegisters) -> None:
    chance = random.Random(12)
    changes = [
        RegisterChange(Versioned(v, chance.randbytes(DATA_BYTES_MAX)), f"{v:064x}") for v in range(1, CHANGES_KEPT + 1)
    ]
    registers.restore(KEY, changes)
    data = chance.randbytes(DATA_BYTES_MAX)
    assert registers.compare_and_set(KEY, CHANGES_KEPT, data, "x" * 64).version == CHANGES_KEPT + 1
    assert registers.changes(KEY)[0] == changes[1]


# ---- watch


def test_waiting_watch_does_not_poll(registers: EtcdRegisters, monkeypatch: pytest.MonkeyPatch) -> None:
    registers.compare_and_set(KEY, 0, b"one", "a")
    paths = count_requests(registers, monkeypatch)
    assert registers.watch(KEY, 1, timeout_s=1.0) == []
    assert len(paths) <= 2


def test_compaction_of_history_takes_nothing_from_a_watch(registers: EtcdRegisters, cluster: EtcdCluster) -> None:
    for version in range(5):
        registers.compare_and_set(KEY, version, b"%d" % version, f"o{version}")
    reported: list[object] = []
    watcher = threading.Thread(target=lambda: reported.append(registers.watch(KEY, 5, timeout_s=30)))
    watcher.start()
    time.sleep(0.3)
    cluster.compact()
    registers.compare_and_set(KEY, 5, b"5", "o5")
    watcher.join(30)
    assert reported == [[Versioned(6, b"5")]]
    cluster.compact()
    assert registers.watch(KEY, 2, timeout_s=0) == [Versioned(v, b"%d" % (v - 1)) for v in range(3, 7)]
    assert registers.read(KEY) == Versioned(6, b"5")


def test_watch_from_a_revision_that_was_compacted_in_between_reads_again(
    registers: EtcdRegisters, cluster: EtcdCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    registers.compare_and_set(KEY, 0, b"one", "a")
    wait = registers._client.wait_for_change
    waited: list[int] = []

    def compacted_first(key: str, name: str, from_revision: int, timeout_s: float) -> None:
        if not waited:
            registers.compare_and_set(KEY, 1, b"two", "b")
            registers.compare_and_set("names", 0, b"x", "a")
            cluster.compact()
        waited.append(from_revision)
        wait(key, name, from_revision, timeout_s)

    monkeypatch.setattr(registers._client, "wait_for_change", compacted_first)
    assert registers.watch(KEY, 1, timeout_s=30) == [Versioned(2, b"two")]
    assert len(waited) == 1


# ---- processes


def test_processes_that_race_lose_no_update(cluster: EtcdCluster) -> None:
    """Each asks another node first."""
    store, nodes = new_store(), cluster.hosts.split(",")
    urls = [f"etcd://{','.join(nodes[first:] + nodes[:first])}/{PREFIX}" for first in range(3)]
    processes = [
        subprocess.Popen([sys.executable, "-c", INCREMENT, url, store, f"racer-{number}", "20"])
        for number, url in enumerate(urls)
    ]
    assert [process.wait(120) for process in processes] == [0] * 3
    assert opened(cluster, store).read("names") == Versioned(60, b"60")


# ---- users and TLS


def test_user_reaches_no_prefix_but_its_own() -> None:
    store = new_store()
    opened(secure_location("writer"), store).compare_and_set(KEY, 0, b"one", "a")
    stranger = opened(secure_location("stranger"), store)
    for call in (
        lambda: stranger.read(KEY),
        stranger.list,
        lambda: stranger.watch(KEY, 0, timeout_s=5),
        lambda: stranger.compare_and_set(KEY, 1, b"two", "b"),
    ):
        with pytest.raises(PermissionDenied) as caught:
            call()
        assert caught.value.code == "etcd_permission_denied"
    own = opened(secure_location("stranger", prefix="team-b"), store)
    assert own.compare_and_set(KEY, 0, b"other", "a") == Versioned(1, b"other")
    assert opened(secure_location("writer"), store).read(KEY) == Versioned(1, b"one")


def test_user_who_may_only_read_reads_and_watches() -> None:
    store = new_store()
    opened(secure_location("writer"), store).compare_and_set(KEY, 0, b"one", "a")
    reader = opened(secure_location("reader"), store)
    assert reader.read(KEY) == Versioned(1, b"one")
    assert reader.watch(KEY, 0, timeout_s=5) == [Versioned(1, b"one")]
    assert reader.watch(KEY, 1, timeout_s=0.1) == []
    assert reader.list() == [KEY]
    assert reader.outcome(KEY, "a") == Versioned(1, b"one")
    with pytest.raises(PermissionDenied) as caught:
        reader.compare_and_set(KEY, 1, b"two", "b")
    assert caught.value.code == "etcd_permission_denied"
    assert reader.read(KEY) == Versioned(1, b"one")


def test_wrong_password_is_refused_and_not_repeated_in_the_error() -> None:
    with pytest.raises(PermissionDenied) as caught:
        opened(secure_location("writer", password="wrong-password"), new_store()).read(KEY)
    assert caught.value.code == "etcd_credentials_refused"
    assert "wrong-password" not in str(caught.value) + str(caught.value.fields) + str(caught.value.hint)


def test_token_that_the_cluster_forgot_is_renewed() -> None:
    registers = opened(secure_location("writer"), new_store())
    registers.compare_and_set(KEY, 0, b"one", "a")
    token = registers._client._token
    cluster_with_users().ctl("user", "passwd", "writer", "--interactive=false", input_text=PASSWORDS["writer"])
    assert registers.compare_and_set(KEY, 1, b"two", "b") == Versioned(2, b"two")
    assert registers.watch(KEY, 1, timeout_s=5) == [Versioned(2, b"two")]
    assert registers._client._token not in {None, token}


def test_cluster_of_an_unknown_authority_is_not_spoken_to() -> None:
    location = dataclasses.replace(secure_location("writer"), ca_file=None)
    with pytest.raises(PermissionDenied) as caught:
        opened(location, new_store()).read(KEY)
    assert caught.value.code == "etcd_tls_failed"
    assert "ca_file" in str(caught.value.hint)


def test_cluster_that_asks_for_a_certificate_refuses_who_shows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_USER", "writer")
    monkeypatch.setenv("TEAM_PASSWORD", PASSWORDS["writer"])
    with pytest.raises(PermissionDenied) as caught:
        opened(dataclasses.replace(secure_location("writer"), credentials="env:TEAM"), new_store()).read(KEY)
    assert caught.value.code == "etcd_tls_failed"


def test_user_of_a_cluster_without_users_is_an_error(cluster: EtcdCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """To continue without would hide that any client may write there."""
    monkeypatch.setenv("ETCDCTL_USER", "writer:secret")
    with pytest.raises(InvalidInput) as caught:
        opened(cluster, new_store()).read(KEY)
    assert caught.value.code == "etcd_auth_disabled"


def test_plain_location_of_a_cluster_with_tls_gets_a_hint() -> None:
    location = parse_etcd_location(f"etcd://{cluster_with_users().hosts}/{PREFIX}")
    with pytest.raises(Unavailable) as caught:
        opened(location, new_store(), deadline_s=0.5).read(KEY)
    assert caught.value.code == "etcd_unavailable"
    assert "etcds://" in str(caught.value.hint)
