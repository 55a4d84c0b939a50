"""`S3Bucket`: Amazon S3 and every compatible endpoint, over `s3_http`.

Each call is one attempt. Each upload is signed with the SHA-256 of its
body and declares it again as its checksum: the provider refuses other bytes. That it holds what it acknowledged is seen
by its tag, where that is the MD5 of the body, or by the checksum that it repeats; else the bytes are read back.
"""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any

from skyhold import error_codes
from skyhold.buckets.bounded import Pace, check_size, misbehaves
from skyhold.buckets.bucket import (
    OBJECT_BYTES_MAX,
    TAGGED_BYTES_MAX,
    WRITE_IF_DEADLINE_S,
    Bucket,
    ObjectInfo,
    Tagged,
    check_key,
    check_range,
    range_not_satisfiable,
)
from skyhold.buckets.in_time import within
from skyhold.buckets.listing import Listing, Page
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.refusals import parsed_date
from skyhold.buckets.retry import DEFAULT_POLICY, RetryPolicy
from skyhold.buckets.rules import BucketRules
from skyhold.buckets.s3_checksum import (
    CHECKSUM,
    is_sealed_as,
    md5_in,
    md5_of,
    not_confirmed,
    stored_differently,
    usable_tag,
)
from skyhold.buckets.s3_credentials import Source, key_source
from skyhold.buckets.s3_errors import Failure, Request, error_of_no_reply, failure_of, to_error
from skyhold.buckets.s3_http import Closed, NoReply, Reply, Wires
from skyhold.buckets.s3_listing import PAGE_BYTES_MAX, check_order, page_query, read_page
from skyhold.buckets.s3_options import endpoint_of
from skyhold.buckets.s3_subresources import SUBRESOURCES, read_rules
from skyhold.buckets.s3_xml import ERROR_BYTES_MAX, NoDocument
from skyhold.buckets.transfer import Transfer
from skyhold.errors import NotFound, SkyholdError, Unavailable
from skyhold.units import Buffer


class S3Bucket(Bucket):
    """See the module. Endpoint and credentials are looked up when the bucket is first used."""

    def __init__(self, location: BucketLocation, policy: RetryPolicy = DEFAULT_POLICY) -> None:
        self.name, self.url = location.name, location.url
        self._location = location
        self._policy = policy
        self._prefix = f"{location.prefix}/" if location.prefix else ""
        self._lock = threading.Lock()
        self._opened: tuple[Wires, Source] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"S3Bucket({self.url!r})"

    def read(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        request = Request(self.name, check_key(key), start, length)
        if length == 0:
            return b""
        with self._get(request) as reply:
            return self._body(reply, request, self._following_bytes(reply, request, OBJECT_BYTES_MAX))

    def read_stream(
        self, key: str, start: int = 0, length: int | None = None, part_bytes: int = 4 << 20
    ) -> Iterator[Buffer]:
        check_key(key)
        tag = ""

        def begin(done_bytes: int) -> Iterator[Buffer]:
            nonlocal tag
            left = None if length is None else length - done_bytes
            request = Request(self.name, key, start + done_bytes, left, resumed=bool(tag))
            with self._get(request, {"if-match": tag} if tag else {}) as reply:
                if tag and _tag_of(reply) != tag:  # a store that does not know the condition
                    raise to_error(Failure(412), request)
                tag = _tag_of(reply)
                left_bytes = self._following_bytes(reply, request, OBJECT_BYTES_MAX)
                pace = Pace(self._policy, self.name, key)
                while left_bytes:
                    part = self._body(reply, request, min(part_bytes, left_bytes), pace)
                    left_bytes -= len(part)
                    yield part

        return iter(()) if length == 0 else Transfer(begin)

    def read_tagged(self, key: str, *, unless_tag: str | None = None) -> Tagged | None:
        return self._read_tagged(Request(self.name, check_key(key)), TAGGED_BYTES_MAX, unless_tag)

    def write(self, key: str, body: Buffer, *, md5: Callable[[], bytes] | None = None) -> str:
        request, digest = Request(self.name, check_key(key)), sha256(body).digest()
        with self._put(request, body, digest, {}) as reply:
            tag = _tag_of(reply)
            confirmed = md5_in(tag) == (md5() if md5 else md5_of(body)) or is_sealed_as(digest, reply.headers)
        if not confirmed and not self._holds(key, body):
            raise stored_differently(self.name, key)
        return tag

    def write_if(
        self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = WRITE_IF_DEADLINE_S
    ) -> str:
        request = Request(self.name, check_key(key), conditional=True, replacing=expected_tag is not None)
        condition = {"if-none-match": "*"} if expected_tag is None else {"if-match": expected_tag}
        sent = bytes(body)  # the caller may continue before the put has ended
        digest = sha256(sent).digest()

        def attempt() -> str:
            with self._put(request, sent, digest, condition, deadline_s) as reply:
                tag = _tag_of(reply)
                if tag and (md5_in(tag) == md5_of(sent) or is_sealed_as(digest, reply.headers)):
                    return tag
            return self._confirmed(request, sent, tag)

        return within(deadline_s, attempt, self.name, key)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        """See the port. Raises `Corrupt` code `listing_out_of_order` where a store that keeps objects in folders
        (SeaweedFS) lists `a/b` before `a-b`: to continue would skip objects."""
        last = ""

        def fetch(token: str) -> Page:
            nonlocal last
            page = self._page(prefix, after, token)
            last = check_order(self.name, page.found, last)
            return page

        return Listing(self.name, self._policy, fetch, after)

    def _page(self, prefix: str, after: str, token: str) -> Page:
        request = Request(self.name, "", listing=True)
        query = page_query(self._prefix + prefix, after and self._prefix + after, token)
        with self._call(request, "GET", query=query) as reply:
            body = self._whole(reply, request, PAGE_BYTES_MAX)
        if body is None:
            raise misbehaves(self.name, f"sends a page of a listing of more than {PAGE_BYTES_MAX} bytes")
        try:
            return read_page(body, self.name, self._prefix)
        except NoDocument as error:
            raise misbehaves(self.name, f"sends a listing that cannot be read: {str(error)[:80]}") from error

    def delete(self, key: str) -> None:
        request = Request(self.name, check_key(key))
        try:
            self._call(request, "DELETE").close()
        except NotFound as error:
            if error.code != error_codes.OBJECT_NOT_FOUND:
                raise

    def rules(self) -> BucketRules:
        """What `?lifecycle`, `?versioning` and `?object-lock` report."""
        return read_rules({name: self._told(name)[1:] for name in SUBRESOURCES})

    def server_time(self) -> datetime | None:
        """The clock of the store, from the Date of a reply."""
        return parsed_date(self._told("versioning")[0].get("date", ""))

    def close(self) -> None:
        """End what is under way, too."""
        with self._lock:
            self._closed = True
            opened = self._opened
        if opened is not None:
            opened[0].close()

    # Requests

    def _get(self, request: Request, headers: Mapping[str, str] | None = None) -> Reply:
        """The reply to one GET of the request's range, its body still to be read."""
        start, length, wanted = request.start, request.length, dict(headers or {})
        if start < 0 or (length or 0) < 0:
            raise range_not_satisfiable(request.key, start, length)
        if start or length is not None:
            wanted["range"] = f"bytes={start}-{'' if length is None else start + length - 1}"
        return self._call(request, "GET", headers=wanted)

    def _read_tagged(self, request: Request, limit_bytes: int, unless_tag: str | None = None) -> Tagged | None:
        with self._get(request, {"if-none-match": unless_tag} if unless_tag else {}) as reply:
            if reply.status == 304:
                return None
            return Tagged(
                self._body(reply, request, self._following_bytes(reply, request, limit_bytes)), _tag_of(reply)
            )

    def _following_bytes(self, reply: Reply, request: Request, limit_bytes: int) -> int:
        """How many bytes of the object a reply to a read holds: by its headers, which agree with the request."""
        start, length, announced = request.start, request.length, reply.announced_bytes
        try:
            if start or length is not None:
                served, _, whole = reply.headers.get("content-range", "").removeprefix("bytes ").partition("/")
                end = check_range(request.key, int(whole), start, length)
                agreed = reply.status == 206 and served == f"{start}-{end - 1}" and announced == end - start
            else:
                agreed, end = reply.status == 200 and announced is not None, announced or 0
        except ValueError:
            agreed, end = False, 0
        if not agreed:
            raise _truncated(request)
        if length is None:
            check_size(request.bucket, request.key, end - start, limit_bytes)
        return end - start

    def _body(self, reply: Reply, request: Request, size_bytes: int, pace: Pace | None = None) -> bytearray:
        """The next bytes of a reply's body, which must have them."""
        body, filled = bytearray(size_bytes), 0
        try:
            for part in reply.take(size_bytes, pace or Pace(self._policy, self.name, request.key)):
                body[filled : filled + len(part)] = part
                filled += len(part)
        except NoReply as error:
            raise error_of_no_reply(error, request) from error
        if filled != size_bytes:
            raise _truncated(request)
        return body

    def _whole(self, reply: Reply, request: Request, limit_bytes: int) -> bytes | None:
        """All of the body of a reply that is no object's, or None where it has more than `limit_bytes`."""
        announced = reply.announced_bytes
        if announced is not None and announced > limit_bytes:
            return None
        try:
            body = b"".join(reply.take(limit_bytes + 1, Pace(self._policy, self.name, "")))
        except NoReply as error:
            raise error_of_no_reply(error, request) from error
        if len(body) > limit_bytes:
            return None
        if announced is not None and len(body) != announced:
            raise _truncated(request)
        return body

    def _put(
        self,
        request: Request,
        body: Buffer,
        digest: bytes,
        condition: Mapping[str, str],
        limit_s: float | None = None,
    ) -> Reply:
        headers = {"x-amz-content-sha256": digest.hex(), CHECKSUM: b64encode(digest).decode(), **condition}
        return self._call(request, "PUT", headers=headers, body=body, limit_s=limit_s)

    def _holds(self, key: str, body: Buffer) -> bool:
        """Whether the bytes of an object are these, by reading them back."""
        view, offset = memoryview(body).cast("B"), 0
        try:
            for part in self.read_stream(key):
                if bytes(view[offset : offset + len(part)]) != bytes(part):  # a view compares by element
                    return False
                offset += len(part)
        except NotFound:
            return False
        return offset == len(view)

    def _confirmed(self, request: Request, body: bytes, tag: str) -> str:
        """The tag of what a conditional put has stored. Raises `OutcomeUnknown` unless the store gives it back: another
        client may have replaced it since, or the store has never held it."""
        try:
            found = self._read_tagged(Request(self.name, request.key), len(body))
        except SkyholdError as error:
            raise not_confirmed(self.name, request.key) from error
        if found is None or bytes(found.body) != body or not found.tag or found.tag != (tag or found.tag):
            raise not_confirmed(self.name, request.key)
        return found.tag

    def _told(self, subresource: str) -> tuple[Mapping[str, str], int, bytes]:
        """Headers, status and body of the reply to a question about the bucket."""
        request = Request(self.name, "")
        with self._exchange(request, "GET", query={subresource: ""}) as reply:
            return reply.headers, reply.status, self._whole(reply, request, ERROR_BYTES_MAX) or b""

    def _call(self, request: Request, method: str, **sent: Any) -> Reply:
        """The reply to a request where it is a success, or reports that nothing was modified."""
        reply = self._exchange(request, method, **sent)
        if reply.status in _successes(method, sent.get("headers") or {}):
            return reply
        with reply:
            try:
                failure = failure_of(reply.status, reply.headers, self._whole(reply, request, ERROR_BYTES_MAX))
            except Unavailable:  # the status alone shows what happened
                failure = failure_of(reply.status, reply.headers, None)
        raise to_error(failure, request)

    def _exchange(self, request: Request, method: str, **sent: Any) -> Reply:
        """One request on the wire, with what `Wires.exchange` takes, and its reply."""
        wires, keys = self._here()
        path = f"/{self._prefix}{request.key}" if request.key else ""
        try:
            return wires.exchange(method, keys(), path=path, **sent)
        except NoReply as error:
            raise error_of_no_reply(error, request) from error

    def _here(self) -> tuple[Wires, Source]:
        """The connections and keys. Two threads that come first may both make them, and those of one are kept: to look
        for a role's keys takes a while, and `close` must not wait for it."""
        made = self._opened
        if made is None and not self._closed:
            made = Wires(endpoint_of(self._location), self._policy), key_source(self._location)
        with self._lock:
            if made is None or self._closed:
                raise error_of_no_reply(Closed(sent=False), Request(self.name, ""))
            self._opened = self._opened or made
            return self._opened


def _successes(method: str, headers: Mapping[str, str]) -> frozenset[int]:
    """The statuses by which a request succeeds: a part where one was asked for, and none where a condition was
    given."""
    if method != "GET":
        return frozenset({200, 204})
    return frozenset({206 if "range" in headers else 200, *({304} if "if-none-match" in headers else ())})


def _tag_of(reply: Reply) -> str:
    return usable_tag(reply.headers.get("etag", ""))


def _truncated(request: Request) -> Unavailable:
    return Unavailable(
        f"Bucket `{request.bucket}` sent other bytes of `{request.key}` than were asked for",
        code=error_codes.TRUNCATED_REPLY,
        hint="Try again; if it stays so, look at the bucket: skyhold bucket check " + request.bucket,
        bucket=request.bucket,
        key=request.key,
    )
