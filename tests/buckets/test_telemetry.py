"""Each attempt of a request is counted, logged and traced, and nothing that is secret leaves with it."""

from __future__ import annotations

import logging
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import skyhold
from skyhold.buckets import telemetry
from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import parse_location
from skyhold.buckets.open import create_bucket, open_bucket
from skyhold.buckets.telemetry import LATENCY_BOUNDS_S, OTHERS, SERIES_MAX, RequestCounts
from skyhold.errors import Conflict, NotFound, OutcomeUnknown, PermissionDenied
from tests.buckets.conformance import QUICK, run_in_child
from tests.buckets.scripted_server import Reply, ScriptedServer, scripted

SECRETS = ("the-access-key", "the-secret-key", "the-session-token", "Authorization", "Signature")
PAGE = """<ListBucketResult><IsTruncated>{more}</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>
<Contents><Key>{key}</Key><LastModified>2026-11-30T20:00:00.000Z</LastModified><ETag>"t"</ETag><Size>1</Size></Contents>
</ListBucketResult>"""


@pytest.fixture
def name() -> str:
    """A bucket of its own for each test: counts are those of the process."""
    return f"lab-{secrets.token_hex(4)}"


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_ACCESS_KEY_ID", "the-access-key")
    monkeypatch.setenv("LAB_SECRET_ACCESS_KEY", "the-secret-key")
    monkeypatch.setenv("LAB_SESSION_TOKEN", "the-session-token")


def bucket_at(server: ScriptedServer, name: str) -> Bucket:
    return open_bucket(parse_location("s3://models", endpoint=server.url, credentials="env:LAB", name=name), QUICK)


def folder(path: Path, name: str) -> Bucket:
    location = parse_location(str(path / "bucket"), name=name)
    create_bucket(location)
    return open_bucket(location, QUICK)


def counted(name: str) -> dict[tuple[str, str], tuple[int, int]]:
    """The count and the bytes of each verb and result."""
    return {
        (count.verb, count.result): (count.count, count.body_bytes)
        for count in skyhold.request_counts()
        if count.bucket == name
    }


# ---- attempts


def test_each_attempt_is_counted_and_logged(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "skyhold.requests")
    with scripted(Reply(503), Reply(lost=True), Reply(200, b"body", {"ETag": '"t"'})) as server:
        assert bytes(bucket_at(server, name).read("a/b")) == b"body"
    assert counted(name) == {("read", "unavailable"): (2, 0), ("read", "ok"): (1, 4)}
    records = [vars(record) for record in caplog.records if vars(record).get("bucket") == name]
    assert [(record["attempt"], record["result"], record["status"]) for record in records] == [
        (1, "unavailable", 503),
        (2, "unavailable", None),
        (3, "ok", None),
    ]
    assert {(record["bucket"], record["verb"], record["key"]) for record in records} == {(name, "read", "a/b")}
    assert records[-1]["body_bytes"] == 4
    assert records[-1]["milliseconds"] > 0
    assert [record["levelname"] for record in records] == ["INFO", "INFO", "DEBUG"]
    assert records[0]["message"].startswith(f"{name}: read a/b: unavailable, ")


def test_conditional_put_whose_reply_is_lost_is_one_attempt(name: str) -> None:
    with scripted(Reply(lost=True)) as server:
        with pytest.raises(OutcomeUnknown):
            bucket_at(server, name).write_if("k", b"four", expected_tag=None)
        assert server.requests == ["PUT /models/k"]
    assert counted(name) == {("write_if", "outcome_unknown"): (1, 0)}


def test_stream_that_is_taken_up_where_it_broke_is_two_requests(name: str) -> None:
    whole = {"ETag": '"t"'}
    rest = {"ETag": '"t"', "Content-Range": "bytes 4-7/8"}
    with scripted(Reply(200, b"1234", whole, announced_bytes=8), Reply(206, b"5678", rest)) as server:
        parts = bucket_at(server, name).read_stream("k", part_bytes=2)
        assert b"".join(map(bytes, parts)) == b"12345678"
    assert counted(name) == {("read_stream", "truncated_reply"): (1, 4), ("read_stream", "ok"): (1, 4)}


def test_stream_that_its_caller_ends_is_a_request_that_succeeded(name: str, tmp_path: Path) -> None:
    bucket = folder(tmp_path, name)
    bucket.write("k", b"12345678")
    parts = bucket.read_stream("k", part_bytes=2)
    next(parts)
    parts.close()  # type: ignore[attr-defined]
    assert counted(name)["read_stream", "ok"] == (1, 2)


def test_each_page_of_a_listing_is_a_request(name: str) -> None:
    pages = [PAGE.format(more="true", token="t", key="a"), PAGE.format(more="false", token="", key="b")]
    script = [Reply(200, pages[0].encode()), Reply(500), Reply(200, pages[1].encode())]
    with scripted(*script) as server:
        assert [info.key for info in bucket_at(server, name).list()] == ["a", "b"]
    assert counted(name) == {("list", "ok"): (2, 0), ("list", "unavailable"): (1, 0)}


def test_all_verbs_of_a_folder_are_counted_by_their_result(name: str, tmp_path: Path) -> None:
    bucket = folder(tmp_path, name)
    bucket.write("k", b"1234")
    bucket.write_if("new", b"12", expected_tag=None)
    with pytest.raises(Conflict):
        bucket.write_if("new", b"1", expected_tag=None)
    bucket.read("k", 1, 2)
    bucket.read_tagged("k")
    assert len(list(bucket.list())) == 2
    bucket.delete("k")
    with pytest.raises(NotFound):
        bucket.read("k")
    assert counted(name) == {
        ("write", "ok"): (1, 4),
        ("write_if", "ok"): (1, 2),
        ("write_if", "conflict"): (1, 0),
        ("read", "ok"): (1, 2),
        ("read", "object_not_found"): (1, 0),
        ("read_tagged", "ok"): (1, 4),
        ("list", "ok"): (1, 0),
        ("delete", "ok"): (1, 0),
    }


# ---- counts


def test_latency_is_counted_by_class() -> None:
    counts = RequestCounts()
    for waited_s in (0.0005, 0.001, 0.002, 0.2, 31.0):
        counts.add("a", "read", "ok", 10, waited_s)
    (count,) = counts.read()
    assert (count.count, count.body_bytes, count.waited_s) == (5, 50, pytest.approx(31.2035))
    assert dict(zip((*LATENCY_BOUNDS_S, None), count.by_latency, strict=True)) == dict.fromkeys(
        (*LATENCY_BOUNDS_S, None), 0
    ) | {0.001: 2, 0.003: 1, 0.3: 1, None: 1}


def test_time_of_the_caller_is_no_latency(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = folder(tmp_path, name)
    bucket.write("k", b"12345678")
    now_s = 0.0
    monkeypatch.setattr(telemetry.time, "perf_counter", lambda: now_s)
    for _ in bucket.read_stream("k", part_bytes=2):
        now_s += 100
    assert [
        count.waited_s for count in skyhold.request_counts() if count.bucket == name and count.verb == "read_stream"
    ] == [0.0]


def test_counts_are_bounded_whatever_buckets_are_called() -> None:
    counts = RequestCounts()
    for number in range(SERIES_MAX + 100):
        counts.add(f"bucket-{number}", "read", "ok", 1, 0.0)
    read = counts.read()
    assert len(read) == SERIES_MAX + 1
    assert sum(count.count for count in read) == SERIES_MAX + 100
    assert next(count.count for count in read if count.bucket == OTHERS) == 100


def test_no_count_is_lost_between_threads() -> None:
    counts = RequestCounts()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: counts.add("a", "read", str(number % 3), 1, 0.0), range(6000)))
    assert [count.count for count in counts.read()] == [2000] * 3


def test_forked_child_counts_from_zero_whatever_its_parent_was_doing(name: str, tmp_path: Path) -> None:
    bucket = folder(tmp_path, name)
    bucket.write("k", b"1")
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with telemetry._COUNTS._lock:
            held.set()
            done.wait(20)

    holding = threading.Thread(target=hold)
    holding.start()
    held.wait(20)

    def in_child() -> None:
        assert skyhold.request_counts() == ()
        bucket.read("k")
        assert counted(name) == {("read", "ok"): (1, 1)}

    try:
        assert run_in_child(in_child) == 0
    finally:
        done.set()
        holding.join()


# ---- records


def test_no_secret_is_in_a_record(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "skyhold.requests")
    denial = b"<Error><Code>AccessDenied</Code><Message>the-access-key: Signature=0123</Message></Error>"
    with scripted(Reply(403, denial), Reply(200, b"x", {"ETag": '"t"'})) as server:
        bucket = bucket_at(server, name)
        with pytest.raises(PermissionDenied):
            bucket.read("k")
        bucket.read("k")
    records = [record for record in caplog.records if vars(record).get("bucket") == name]
    assert len(records) == 2
    for record in records:
        assert not [secret for secret in SECRETS if secret in f"{record.getMessage()} {vars(record)}"]


def test_nothing_is_written_where_no_program_listens(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from skyhold.buckets.location import parse_location\n"
        "from skyhold.buckets.open import open_bucket\n"
        "try: open_bucket(parse_location(sys.argv[1])).read('k')\n"
        "except Exception as error: print(error.code)"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / "gone")]
    ran = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("bucket_not_found\n", "")


# ---- spans


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter, provider = memory.InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_tracer", lambda: provider.get_tracer("skyhold"))
    yield exporter
    provider.shutdown()


def test_each_attempt_is_a_span(name: str, spans: object) -> None:
    with scripted(Reply(503), Reply(200, b"body", {"ETag": '"t"'})) as server:
        bucket_at(server, name).read("a/b")
    first, second = spans.get_finished_spans()  # type: ignore[attr-defined]
    of_both = {
        "server.address": "127.0.0.1",
        "aws.s3.bucket": "models",
        "aws.s3.key": "a/b",
        "skyhold.bucket": name,
        "skyhold.verb": "read",
        "skyhold.key": "a/b",
    }
    assert [span.name for span in (first, second)] == [f"read {name}"] * 2
    assert [span.kind.name for span in (first, second)] == ["CLIENT"] * 2
    assert dict(first.attributes) == of_both | {
        "http.response.status_code": 503,
        "http.response.body.size": 0,
        "error.type": "unavailable",
    }
    assert dict(second.attributes) == of_both | {"http.response.body.size": 4, "http.request.resend_count": 1}
    assert [span.status.status_code.name for span in (first, second)] == ["ERROR", "UNSET"]


def test_requests_are_made_where_opentelemetry_is_not_installed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)  # what makes its import fail
    telemetry._tracer.cache_clear()
    try:
        folder(tmp_path, name).write("k", b"1")
        assert telemetry._tracer() is None
    finally:
        telemetry._tracer.cache_clear()
    assert counted(name) == {("write", "ok"): (1, 1)}
