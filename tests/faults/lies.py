"""What `lying_s3` can do wrong, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

GIB: Final = 1 << 30

ReadLie = Literal[
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

WriteLie = Literal["wrong_etag", "not_stored", "stored_other", "stored_but_refused", "no_etag"]
"""Of a PUT of an object. `wrong_etag`: 200 with another ETag, and nothing is stored. `not_stored`: 200 with the right
ETag and checksums, and nothing is stored. `stored_other`: the same, and a bit is stored wrong. `stored_but_refused`:
stored, and 412. `no_etag`: stored, and the reply has no ETag."""

ListLie = Literal[
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

AnyLie = Literal["error", "redirect", "silent", "drip", "drip_head", "endless_head", "drop"]
"""Of any request. `error`: `status` with a body of `size_bytes`. `redirect`: 307 to `location`. `silent`: no answer.
`drip`: the right reply, its body a byte each `delay_s`. `drip_head`: its headers, too. `endless_head`: headers without
an end. `drop`: the connection closes."""

Kind = ReadLie | WriteLie | ListLie | AnyLie

READ_LIES: Final[tuple[str, ...]] = get_args(ReadLie)
WRITE_LIES: Final[tuple[str, ...]] = get_args(WriteLie)
LIST_LIES: Final[tuple[str, ...]] = get_args(ListLie)
ANY_LIES: Final[tuple[str, ...]] = get_args(AnyLie)

READS: Final = frozenset({"GET", "HEAD"})
WRITES: Final = frozenset({"PUT", "POST", "DELETE"})
LISTS: Final = frozenset({"LIST"})


@dataclass
class Lie:
    """A lie about the requests for it: the next `times` whose key (of a listing: whose prefix) contains `key`, in
    `bucket` where one is named. Of what is in `AnyLie`, `calls` says which: `READS`, `WRITES`, `LISTS` or several."""

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

    def is_about(self, call: str, bucket: str, key: str) -> bool:
        if self.kind in READ_LIES:
            calls = READS
        elif self.kind in WRITE_LIES:
            calls = frozenset({"PUT"})
        else:
            calls = LISTS if self.kind in LIST_LIES else self.calls
        return self.times > 0 and call in calls and self.key in key and self.bucket in {"", bucket}
