"""Stores in real etcd clusters, for the tests of that engine."""

from __future__ import annotations

import functools
import json
import secrets
import threading
from pathlib import Path

from skyhold.consensus.etcd import EtcdRegisters, open_etcd
from skyhold.consensus.etcd_location import EtcdLocation, parse_etcd_location
from tests import etcd
from tests.etcd import EtcdCluster
from tests.faults.proxy import FaultProxy
from tests.servers import new_folder

ATTEMPT_S = 1.0
DEADLINE_S = 20.0
TRANSACTION = "/v3/kv/txn"
PREFIX = "team-a/models"
PASSWORDS = {"writer": "w-only-for-tests", "reader": "r-only-for-tests", "stranger": "s-only-for-tests"}


class HoldingProxy(FaultProxy):
    """Can hold back transactions, and deliver them after their sender has given up: as any network may."""

    def __init__(self, upstream_port: int) -> None:
        super().__init__(upstream_port)
        self._delivered = threading.Event()
        self._may_pass = threading.Event()
        self._may_pass.set()

    def hold(self) -> None:
        self._may_pass.clear()

    def release(self) -> None:
        """Deliver what is held, and return when the server has answered it."""
        self._delivered.clear()
        self._may_pass.set()
        assert self._delivered.wait(20)

    def _ask(self, head: bytes, body: bytes, method: bytes) -> tuple[bytes, bytes]:
        if TRANSACTION.encode() in head:
            self._may_pass.wait(60)
        answer = super()._ask(head, body, method)
        self._delivered.set()
        return answer


def new_store() -> str:
    """The id of a store that no other test uses."""
    return secrets.token_hex(16)


def opened(
    place: EtcdCluster | EtcdLocation | str,
    store: str,
    *,
    epoch: int = 1,
    attempt_s: float = ATTEMPT_S,
    deadline_s: float = DEADLINE_S,
) -> EtcdRegisters:
    """The registers of a store, as another process would have them: in a plain cluster, or at a location."""
    if isinstance(place, EtcdCluster):
        place = f"{place.url}/{PREFIX}"
    location = parse_etcd_location(place) if isinstance(place, str) else place
    return open_etcd(location, store_id=store, epoch=epoch, writer="test", attempt_s=attempt_s, deadline_s=deadline_s)


@functools.cache
def cluster_with_users() -> EtcdCluster:
    """The secure cluster: `writer` may write under `team-a/`, `reader` read there, `stranger` write under `team-b/`."""
    cluster = etcd.secure_cluster()
    for user, (permission, prefix) in {
        "writer": ("readwrite", "team-a/"),
        "reader": ("read", "team-a/"),
        "stranger": ("readwrite", "team-b/"),
    }.items():
        cluster.ctl("role", "add", user)
        cluster.ctl("role", "grant-permission", user, permission, prefix, "--prefix")
        cluster.ctl("user", "add", f"{user}:{PASSWORDS[user]}")
        cluster.ctl("user", "grant-role", user, user)
    return cluster


def secure_location(user: str, *, prefix: str = PREFIX, password: str | None = None) -> EtcdLocation:
    """The cluster with users, as `user` reaches it: by TLS both ways, with its credentials in a file."""
    cluster = cluster_with_users()
    assert cluster.authority is not None
    certificate, key = cluster.authority.client_pair
    path = _folder() / f"{secrets.token_hex(8)}.json"
    account = {"user": user, "password": password or PASSWORDS[user], "cert_file": certificate, "key_file": key}
    path.write_text(json.dumps(account))
    path.chmod(0o600)
    return parse_etcd_location(
        f"{cluster.url}/{prefix}", credentials=f"file:{path}", ca_file=str(cluster.authority.ca_file)
    )


@functools.cache
def _folder() -> Path:
    return new_folder("etcd-credentials")
