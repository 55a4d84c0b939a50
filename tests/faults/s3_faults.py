"""The faults of `faulty_s3`, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

GIB: Final = 1 << 30

ReadFault = Literal[
    "oversize",
    "sparse",
    "excess",
    "ignore_range",
    "wrong_range",
    "truncate",
    "short",
    "empty",
    "stale",
    "other",
    "flip",
    "gzip_bomb",
    "missing",
]
"""Of a GET or HEAD of an object.

`oversize`: announces `size_bytes`, sends the object, then nothing. `sparse`: announces and sends `size_bytes`, the
object first, then zeros. `excess`: the range and sizes in the headers are right, and `size_bytes` follow.
`ignore_range`: the whole object where a range was asked for. `wrong_range`: a range that was not asked for.
`truncate`: half of the body, then the connection closes. `short`: half of the body, and announces no more. `empty`: an
empty object. `stale`: the object as it was first. `other`: the body of the object `other_key`. `flip`: one bit of the
body is another one; the ETag is the right one. `gzip_bomb`: `size_bytes` zeros as `Content-Encoding: gzip`.
`missing`: 404.
"""

WriteFault = Literal["wrong_etag", "not_stored", "stored_other", "stored_but_refused", "no_etag"]
"""Of a PUT of an object. `wrong_etag`: 200 with another ETag, and nothing is stored. `not_stored`: 200 with the right
ETag and checksums, and nothing is stored. `stored_other`: the same, and a bit is stored wrong. `stored_but_refused`:
stored, and 412. `no_etag`: stored, and the reply has no ETag."""

ListFault = Literal[
    "endless",
    "endless_empty",
    "repeating",
    "unordered",
    "foreign_keys",
    "outside_prefix",
    "wrong_sizes",
    "negative_sizes",
    "hidden",
    "huge_page",
    "malformed",
    "entities",
    "no_token",
]
"""Of a listing. `endless`: new keys in order for ever, with a new token on every page. `endless_empty`: pages without a
key, each with a new token. `repeating`: the same page with the same token. `unordered`: descending. `foreign_keys`:
keys with `..`, with control characters, absolute and far too long ones. `outside_prefix`: keys that do not have the
prefix. `wrong_sizes`: every size is `size_bytes`. `negative_sizes`: every size is -1. `hidden`: keys with `other_key`
in them are left out. `huge_page`: a page of `size_bytes`. `malformed`: no XML. `entities`: nested XML entities.
`no_token`: more pages are announced, without a token."""

AnyFault = Literal["error", "redirect", "silent", "drip", "drip_head", "endless_head", "drop"]
"""Of any request. `error`: `status` with a body of `size_bytes`. `redirect`: 307 to `location`. `silent`: no answer.
`drip`: the right reply, its body a byte each `delay_s`. `drip_head`: its headers, too. `endless_head`: headers without
an end. `drop`: the connection closes."""

Kind = ReadFault | WriteFault | ListFault | AnyFault

READ_FAULTS: Final[tuple[str, ...]] = get_args(ReadFault)
WRITE_FAULTS: Final[tuple[str, ...]] = get_args(WriteFault)
LIST_FAULTS: Final[tuple[str, ...]] = get_args(ListFault)
ANY_FAULTS: Final[tuple[str, ...]] = get_args(AnyFault)

READS: Final = frozenset({"GET", "HEAD"})
WRITES: Final = frozenset({"PUT", "POST", "DELETE"})
LISTS: Final = frozenset({"LIST"})


@dataclass
class S3Fault:
    """A fault of the next `times` requests whose key (of a listing: whose prefix) contains `key`, in `bucket` where one
    is named. For a kind of `AnyFault`, `calls` limits it to `READS`, `WRITES`, `LISTS` or several."""

    kind: Kind
    key: str = ""
    bucket: str = ""
    times: int = 1_000_000_000
    size_bytes: int = 20 * GIB
    delay_s: float = 1.0
    status: int = 500
    location: str = "http://127.0.0.1:9/"
    other_key: str = ""
    calls: frozenset[str] = READS | WRITES | LISTS

    def applies_to(self, call: str, bucket: str, key: str) -> bool:
        if self.kind in READ_FAULTS:
            calls = READS
        elif self.kind in WRITE_FAULTS:
            calls = frozenset({"PUT"})
        else:
            calls = LISTS if self.kind in LIST_FAULTS else self.calls
        return self.times > 0 and call in calls and self.key in key and self.bucket in {"", bucket}
