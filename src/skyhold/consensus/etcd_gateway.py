"""Bodies of requests to etcd's JSON gateway, and what its answers hold. Pure.

The gateway speaks the messages of etcd's API as JSON: bytes in base64, 64-bit numbers as text, fields with their zero
value left out (https://etcd.io/docs/v3.6/dev-guide/api_grpc_gateway/, `api/etcdserverpb/rpc.proto`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from skyhold.consensus.etcd_records import EtcdKeys, Record, encode_record, end_of
from skyhold.consensus.operation import Kept

Json = dict[str, Any]

RANGE: Final = "/v3/kv/range"
TRANSACTION: Final = "/v3/kv/txn"
WATCH: Final = "/v3/watch"
AUTHENTICATE: Final = "/v3/auth/authenticate"


@dataclass(frozen=True, slots=True)
class Found:
    """One key as etcd holds it; `revision` is that of its last change."""

    name: str
    body: bytes
    revision: int


def encode(request: Mapping[str, object]) -> bytes:
    return json.dumps(request, separators=(",", ":")).encode()


def range_between(start: str, end: str) -> Json:
    """All keys from `start` to before `end`, linearizably: that is etcd's default."""
    return {"key": _text(start), "range_end": _text(end)}


def names_page(start: str, end: str, limit: int) -> Json:
    """As `range_between`, but the keys alone and at most `limit` of them."""
    return {**range_between(start, end), "keys_only": True, "limit": str(limit)}


def register_range(names: EtcdKeys, key: str) -> Json:
    """Head and fence of a register."""
    return range_between(names.register(key), end_of(names.register(key)))


def read_with_changes(names: EtcdKeys, key: str, after_version: int) -> Json:
    """Head, fence and the kept changes after `after_version`, all at one revision of etcd."""
    changes = range_between(names.change(key, after_version + 1), names.changes_end(key))
    return {"success": [{"request_range": register_range(names, key)}, {"request_range": changes}]}


def settle(names: EtcdKeys, key: str, operation_id: str) -> Json:
    """Write the fence anew, and read the register after that, in one transaction.

    What was sent before compares with the older fence, so that it takes effect before this or never.
    """
    fence = {"key": _text(names.fence(key)), "value": _text(operation_id)}
    return {"success": [{"request_put": fence}, {"request_range": register_range(names, key)}]}


def change(
    names: EtcdKeys, key: str, revisions: tuple[int, int], before: Kept, after: Kept, signed: tuple[str, str]
) -> Json:
    """Replace the kept changes `before` by `after`, if head and fence are still at these revisions (0: not there);
    else read the register. Three operations, or one for each change that a restore brings and one more.

    `signed`: writer and time, for display only.
    """
    newest_before = before[-1].value.version if before else 0
    operations = tuple(item.operation_id for item in after)
    steps = [_put(names.head(key), Record(after[-1].value, operations, *signed))]
    steps += [
        _put(names.change(key, item.value.version), Record(item.value, (item.operation_id,), *signed))
        for item in after
        if item.value.version > newest_before
    ]
    if before and before[0].value.version < after[0].value.version:
        fallen_out = range_between(names.change(key, 0), names.change(key, after[0].value.version))
        steps.append({"request_delete_range": fallen_out})
    return {
        "compare": [_at(names.head(key), revisions[0]), _at(names.fence(key), revisions[1])],
        "success": steps,
        "failure": [{"request_range": register_range(names, key)}],
    }


def watch(name: str, from_revision: int) -> Json:
    """The changes of one key from a revision of etcd on."""
    return {"create_request": {"key": _text(name), "start_revision": str(from_revision)}}


def found_in(answer: Json) -> list[Found]:
    """The keys in the answer of a range."""
    return [
        Found(
            base64.b64decode(item["key"]).decode(),
            base64.b64decode(item.get("value", "")),
            int(item["mod_revision"]),
        )
        for item in answer.get("kvs", [])
    ]


def ranges_in(answer: Json) -> list[list[Found]]:
    """The keys in the answer of each range of a transaction."""
    responses: Sequence[Json] = answer.get("responses", [])
    return [found_in(response["response_range"]) for response in responses if "response_range" in response]


def header_of(answer: Json) -> tuple[str, int]:
    """The member that answered, and the revision of etcd at which it answered."""
    header = answer["header"]
    return f"{int(header['member_id']):x}", int(header["revision"])


def _put(name: str, record: Record) -> Json:
    return {"request_put": {"key": _text(name), "value": base64.b64encode(encode_record(record)).decode()}}


def _at(name: str, revision: int) -> Json:
    return {"key": _text(name), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}


def _text(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
