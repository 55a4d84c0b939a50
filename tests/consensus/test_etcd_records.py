"""The values under etcd's keys, and what etcd's answers mean: the pure parts of the engine."""

from __future__ import annotations

import json

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from skyhold.consensus.etcd_errors import AttemptFailed, TokenRefused, broken, refused
from skyhold.consensus.etcd_records import EtcdKeys, Record, decode_record, encode_record, without_data
from skyhold.consensus.register import CHANGES_KEPT, Versioned
from skyhold.errors import Corrupt, InvalidInput, PermissionDenied, QuotaExceeded, SkyholdError, Unavailable

operation_ids = st.none() | st.text("abc-09", min_size=1, max_size=64)


@st.composite
def records(draw: st.DrawFn) -> Record:
    operations = tuple(draw(st.lists(operation_ids, min_size=1, max_size=CHANGES_KEPT)))
    version = len(operations) + draw(st.integers(0, 2**40))
    value = Versioned(version, draw(st.binary(max_size=64)), draw(st.none() | st.binary(min_size=1, max_size=64)))
    return Record(value, operations, draw(st.text(max_size=9)), "2026-11-25T19:00:00.000+00:00")


@given(records())
def test_record_is_read_as_it_was_written(record: Record) -> None:
    assert decode_record(encode_record(record), "k") == record


@given(records(), st.data())
def test_record_of_another_length_is_damaged(record: Record, data: st.DataObject) -> None:
    body = encode_record(record)
    cut = data.draw(st.integers(0, len(body) - 1))
    for damaged in (body[:cut], body + b"x"):
        with pytest.raises(Corrupt, match="key k "):
            decode_record(damaged, "k")


@pytest.mark.parametrize(
    "header",
    [
        None,
        [],
        {},
        {"format": 2},
        {"version": "1"},
        {"version": 0},
        {"operations": []},
        {"operations": [1]},
        {"operations": ["a", "b"]},
        {"data_bytes": -1},
        {"next_configuration_bytes": "1"},
        {"writer": None},
    ],
)
def test_header_with_other_fields_is_damaged(header: object) -> None:
    right = json.loads(encode_record(Record(Versioned(1, b""), ("a",), "w", "t")))
    document = {**right, **header} if isinstance(header, dict) and header else header
    with pytest.raises(Corrupt) as caught:
        decode_record(json.dumps(document).encode() + b"\n", "k")
    assert caught.value.code == "registers_damaged"


@given(records())
def test_kept_changes_of_a_record_are_numbered_up_to_its_own(record: Record) -> None:
    versions = [change.value.version for change in record.kept]
    assert versions == list(range(record.value.version - len(versions) + 1, record.value.version + 1))
    assert [change.operation_id for change in record.kept] == list(record.operations)
    assert record.kept[-1].value == record.value
    assert without_data(record.kept) == record.kept


def test_keys_of_one_register_are_never_among_those_of_another() -> None:
    names, keys = EtcdKeys("p"), ["config", "names", "repository/" + "0" * 32, "repository/" + "0" * 31 + "1"]
    for key in keys:
        start, end = names.change(key, 0), names.changes_end(key)
        inside = [other for other in keys if start <= names.change(other, 2**63) < end]
        assert inside == [key]
        assert names.created([names.head(key), names.fence(key), names.change(key, 1)]) == [key]


# ---- what answers mean


@pytest.mark.parametrize(
    ("status", "code", "message", "kind", "our_code", "elsewhere", "maybe_applied"),
    [
        (503, 14, "etcdserver: no leader", Unavailable, "etcd_unavailable", True, False),
        (503, 14, "etcdserver: request timed out", Unavailable, "etcd_unavailable", True, True),
        (503, 14, "etcdserver: leader changed", Unavailable, "etcd_unavailable", True, True),
        (503, 14, "something new", Unavailable, "etcd_unavailable", True, True),
        (504, 4, "context deadline exceeded", Unavailable, "etcd_unavailable", True, True),
        (500, 2, "something unknown", Unavailable, "etcd_unavailable", True, True),
        (429, 8, "etcdserver: too many requests", Unavailable, "etcd_unavailable", True, False),
        (429, 8, "etcdserver: mvcc: database space exceeded", QuotaExceeded, "etcd_space_exceeded", False, False),
        (400, 3, "etcdserver: request is too large", QuotaExceeded, "etcd_limit", False, False),
        (400, 3, "etcdserver: too many operations in txn request", QuotaExceeded, "etcd_limit", False, False),
        (403, 7, "etcdserver: permission denied", PermissionDenied, "etcd_permission_denied", False, False),
        (400, 3, "etcdserver: user name is empty", PermissionDenied, "etcd_permission_denied", False, False),
        (400, 9, "etcdserver: rpc not supported for learner", Unavailable, "etcd_unavailable", True, False),
        (500, 15, "etcdserver: corrupt cluster", Corrupt, "etcd_corrupt", False, False),
        (501, 12, "Method Not Allowed", InvalidInput, "etcd_refused", False, False),
    ],
)
def test_answer_of_etcd_is_our_error(
    status: int,
    code: int,
    message: str,
    kind: type[SkyholdError],
    our_code: str,
    elsewhere: bool,
    maybe_applied: bool,
) -> None:
    failed = refused("etcd-1:2379", status, json.dumps({"code": code, "message": message, "details": []}).encode())
    assert isinstance(failed, AttemptFailed)
    assert (type(failed.error), failed.error.code) == (kind, our_code)
    assert (failed.elsewhere, failed.maybe_applied) == (elsewhere, maybe_applied)
    assert "etcd-1:2379" in failed.error.message
    assert message in failed.error.message


@pytest.mark.parametrize("message", ["etcdserver: invalid auth token", "etcdserver: revision of auth store is old"])
def test_token_that_is_no_longer_accepted_is_recognised(message: str) -> None:
    assert isinstance(refused("e", 401, json.dumps({"code": 16, "message": message}).encode()), TokenRefused)


@pytest.mark.parametrize(
    ("status", "body", "our_code", "maybe_applied"),
    [
        (502, b"<html>bad gateway</html>", "etcd_unavailable", True),
        (404, b"404 page not found\n", "etcd_gateway_missing", False),
    ],
)
def test_answer_of_something_else_is_no_answer_of_etcd(
    status: int, body: bytes, our_code: str, maybe_applied: bool
) -> None:
    failed = refused("e", status, body)
    assert isinstance(failed, AttemptFailed)
    assert (failed.error.code, failed.maybe_applied) == (our_code, maybe_applied)


def test_only_a_connection_that_was_never_made_is_known_to_have_sent_nothing() -> None:
    pool = urllib3.HTTPConnectionPool("127.0.0.1", 1)
    connection = urllib3.connection.HTTPConnection("127.0.0.1", 1)
    unsent = [
        urllib3.exceptions.NewConnectionError(connection, "refused"),
        urllib3.exceptions.NameResolutionError("nowhere", connection, OSError()),  # type: ignore[arg-type]
        urllib3.exceptions.ConnectTimeoutError("late"),
    ]
    sent = [
        urllib3.exceptions.ReadTimeoutError(pool, "/", "late"),
        urllib3.exceptions.ProtocolError("broken"),
        urllib3.exceptions.SSLError("alert"),
        ConnectionResetError(),
        json.JSONDecodeError("x", "y", 0),
    ]
    assert [broken("e", error).maybe_applied for error in unsent] == [False] * len(unsent)
    assert [broken("e", error).maybe_applied for error in sent] == [True] * len(sent)
    assert all(broken("e", error).elsewhere for error in [*unsent, *sent])
