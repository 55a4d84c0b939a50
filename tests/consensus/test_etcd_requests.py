"""Requests to nodes of etcd are counted, logged and traced as those to buckets are."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import Counter

import pytest

import skyhold
from tests import etcd
from tests.consensus.etcd_fixtures import PASSWORDS, PREFIX, new_store, opened, secure_location

LOGGER = "skyhold.requests"


def counted() -> Counter[tuple[str, str, str]]:
    return Counter(
        {
            (count.bucket, count.verb, count.result): count.count
            for count in skyhold.request_counts()
            if count.bucket.startswith("etcd ")
        }
    )


def records(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [vars(record) for record in caplog.records if record.name == LOGGER]


def test_each_request_to_a_node_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    cluster, before = etcd.plain_cluster(), counted()
    registers = opened(cluster, new_store())
    registers.compare_and_set("names", 0, b"first", "operation-1")
    assert registers.read("names") is not None
    registers.close()
    made = counted() - before
    assert {bucket for bucket, _, _ in made} <= {f"etcd {host}" for host in cluster.hosts.split(",")}
    assert {(verb, result) for _, verb, result in made} == {("range", "ok"), ("txn", "ok")}
    assert made.total() == len(records(caplog))
    first = records(caplog)[0]
    assert (first["verb"], first["key"], first["result"], first["attempt"]) == ("range", "names", "ok", 1)
    assert first["body_bytes"]


def test_node_that_is_away_and_the_attempt_at_the_next_one_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        away = f"127.0.0.1:{closed.getsockname()[1]}"
    registers = opened(f"etcd://{away},{etcd.plain_cluster().hosts}/{PREFIX}", new_store())
    registers.read("names")
    registers.read("config")
    registers.close()
    assert [(record["bucket"], record["result"], record["attempt"]) for record in records(caplog)][:1] == [
        (f"etcd {away}", "etcd_unavailable", 1)
    ]
    assert [(record["key"], record["result"], record["attempt"]) for record in records(caplog)][1:] == [
        ("names", "ok", 2),
        ("config", "ok", 1),
    ]


def test_watch_is_one_request_whether_it_sees_a_change_or_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    store = new_store()
    registers, other = opened(etcd.plain_cluster(), store), opened(etcd.plain_cluster(), store)
    first = registers.compare_and_set("names", 0, b"first", "operation-1").version
    assert registers.watch("names", first, timeout_s=0.3) == []
    change = threading.Thread(
        target=lambda: (time.sleep(0.2), other.compare_and_set("names", first, b"second", "operation-2"))
    )
    change.start()
    assert registers.watch("names", first, timeout_s=10)
    change.join()
    registers.close()
    other.close()
    watches = [record for record in records(caplog) if record["verb"] == "watch"]
    assert {(record["key"], record["result"]) for record in watches} == {("names", "ok")}


def test_authentication_is_counted_and_shows_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    registers = opened(secure_location("writer"), new_store())
    registers.read("names")
    token = registers._client._token
    registers.close()
    assert [(record["verb"], record["result"]) for record in records(caplog)] == [
        ("authenticate", "ok"),
        ("range", "ok"),
    ]
    text = str(records(caplog))
    assert token
    assert not any(secret in text for secret in (token, PASSWORDS["writer"]))
