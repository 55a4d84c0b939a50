"""`S3Bucket`: Amazon S3 and every compatible endpoint, on `obstore` (the fastest measured; it releases the GIL).

obstore's own retries are off: ordinary calls go through `retry.py`, and a conditional put is one request. Its only
time limit covers a whole request, so there is one store object, with its own connections, for each of a few limits:
a transfer's grows with its size, and a conditional put's is the caller's deadline. obstore makes room for what a reply
announces, and looks for the next page of a listing for as long as there is one: so a body is taken in parts once its
size is known to be right, and a listing has a limit of its own.
Small objects are read on the connections of conditional puts, which most often follow.
Every upload is signed with the SHA-256 of its body and declares it again as its checksum: the provider refuses others.
That it holds what it acknowledged is seen by its tag, where that is the MD5 of the body; else the bytes are read back.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar

from skyhold.buckets.bounded import Pace, below, check_size, listed, misbehaves
from skyhold.buckets.bucket import (
    OBJECT_BYTES_MAX,
    TAGGED_BYTES_MAX,
    WRITE_IF_DEADLINE_S,
    Bucket,
    Capabilities,
    ObjectInfo,
    Tagged,
    check_key,
    range_not_satisfiable,
)
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.obstore_process import abandon, next_within, obstore_here
from skyhold.buckets.retry import RetryPolicy, resuming, retrying
from skyhold.buckets.rules import BucketRules, unknown_rules
from skyhold.buckets.s3_checksum import md5_in, md5_of, not_confirmed, stored_differently
from skyhold.buckets.s3_errors import Request, failure_of, to_error
from skyhold.buckets.s3_listing import Listing
from skyhold.buckets.s3_options import StoreOptions
from skyhold.errors import NotFound, SkyholdError, Unavailable
from skyhold.units import Buffer

T = TypeVar("T")

READ_LIMIT_STEP: Final = 8
"""64, 512 and 4096 s: so that reads of all sizes share three sets of connections."""
ARRIVING_BYTES_MIN: Final = 1
"""Take what has come, so that a slow reply is noticed: as fast as larger parts, which obstore would put together."""
LIST_BATCH: Final = 1000
DEADLINE_S_MIN: Final = 0.05


@dataclass(frozen=True, slots=True)
class _Opened:
    """What belongs to one process: the options with the credentials in them, and the store object of each limit."""

    process: int
    options: StoreOptions
    stores: dict[tuple[float, bool], Any] = field(default_factory=dict)


class S3Bucket(Bucket):
    """See the module. Options and credentials are looked up when the bucket is first used, and again after a fork."""

    capabilities = Capabilities(compares_md5=True)

    def __init__(self, location: BucketLocation, policy: RetryPolicy | None = None) -> None:
        self.name, self.url = location.name, location.url
        self._location = location
        self._policy = policy or RetryPolicy()
        self._prefix = f"{location.prefix}/" if location.prefix else ""
        self._short_s = _limit_past(self._policy.stall_timeout_s)
        self._opened: _Opened | None = None

    def read(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        check_key(key)
        return b"" if length == 0 else retrying(self._policy, lambda: self._read_once(key, start, length))

    def read_stream(
        self, key: str, start: int = 0, length: int | None = None, part_bytes: int = 4 << 20
    ) -> Iterator[Buffer]:
        check_key(key)
        tag: str | None = None

        def attempt(done_bytes: int) -> Iterator[Buffer]:
            nonlocal tag
            rest = None if length is None else length - done_bytes
            request = Request(self.name, key, start + done_bytes, rest)
            result = self._get(request, {"if_match": tag} if tag else {})
            tag = result.meta["e_tag"]
            expected = _expected_bytes(result, request, OBJECT_BYTES_MAX)
            held = bytearray()
            for part in self._arriving(result, request, expected):
                held += part
                if len(held) >= part_bytes:
                    yield held
                    held = bytearray()
            if held:
                yield held

        return iter(()) if length == 0 else resuming(self._policy, attempt)

    def read_tagged(self, key: str, *, unless_tag: str | None = None) -> Tagged | None:
        request = Request(self.name, check_key(key))
        # Of a default policy this is the limit of a conditional put: the two share their connections.
        small_read_limit_s = _limit_within(min(WRITE_IF_DEADLINE_S, 1.5 * self._policy.stall_timeout_s))

        def attempt() -> Tagged | None:
            try:
                options: dict[str, object] = {"if_none_match": unless_tag} if unless_tag else {}
                result = self._get(request, options, small_read_limit_s)
            except _NotModified:
                return None
            return Tagged(self._body(result, request, TAGGED_BYTES_MAX), result.meta["e_tag"])

        return retrying(self._policy, attempt)

    def write(self, key: str, body: Buffer, *, md5: bytes | None = None) -> str:
        request = Request(self.name, check_key(key))
        limit_s = _limit_past(self._policy.upload_timeout_s(len(body)))
        tag = retrying(self._policy, lambda: self._put(request, body, "overwrite", limit_s))
        if md5_in(tag) != (md5 or md5_of(body)) and not self._holds(key, body):
            raise stored_differently(self.name, key)
        return tag

    def write_if(
        self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = WRITE_IF_DEADLINE_S
    ) -> str:
        check_key(key)
        if deadline_s < DEADLINE_S_MIN:
            raise Unavailable(
                f"The deadline of the write of `{key}` passed before it was sent to bucket `{self.name}`",
                code="deadline_passed",
                bucket=self.name,
                key=key,
            )
        begun_s = time.monotonic()
        request = Request(self.name, key, conditional=True, replacing=expected_tag is not None)
        mode = "create" if expected_tag is None else {"e_tag": expected_tag}
        tag = self._put(request, body, mode, _limit_within(deadline_s))
        if md5_in(tag) != md5_of(body):
            self._confirm(key, body, tag, begun_s + deadline_s - time.monotonic())
        return tag

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        """As the port says. Raises `Corrupt` code `listing_out_of_order` where a store that keeps objects in folders
        (SeaweedFS) lists `a/b` before `a-b`: to go on would pass over objects."""
        return listed(self.name, prefix, after, self._listed(prefix, after))

    def _listed(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        listing = Listing(self.name, prefix, after)
        while True:  # bounded: each round yields an object, or ends, or `retrying` raises
            stream, found = retrying(self._policy, lambda: self._begin(listing))
            while found:
                yield from listing.wanted(found)
                if listing.ended:
                    return
                try:
                    found = self._next_batch(stream)
                except SkyholdError:
                    break  # take it up after the last object, with a budget of its own
            else:
                return

    def delete(self, key: str) -> None:
        request = Request(self.name, check_key(key))

        def attempt() -> None:
            try:
                self._call(request, lambda: obstore_here().delete(self._store(self._short_s), self._prefix + key))
            except NotFound as error:
                if error.code != "object_not_found":
                    raise

        retrying(self._policy, attempt)

    def rules(self) -> BucketRules:
        """What `?lifecycle`, `?versioning` and `?object-lock` tell."""
        from skyhold.buckets.s3_subresources import ask_rules

        signed = StoreOptions(self._location).signed_bucket()
        return ask_rules(signed) if signed else unknown_rules("Only obstore's own chain has this bucket's credentials")

    def server_time(self) -> datetime | None:
        """The clock of the store, from the Date of a reply."""
        from skyhold.buckets.s3_subresources import ask_time

        signed = StoreOptions(self._location).signed_bucket()
        return ask_time(signed) if signed else None

    def close(self) -> None:
        self._opened = None

    def _read_once(self, key: str, start: int, length: int | None) -> Buffer:
        request = Request(self.name, key, start, length)
        return self._body(self._get(request, {}), request, OBJECT_BYTES_MAX)

    def _get(self, request: Request, options: dict[str, object], limit_s: float | None = None) -> Any:
        """The reply to one GET of the request's range, its body still to be read."""
        if request.start < 0 or (request.length or 0) < 0:
            raise range_not_satisfiable(request.key, request.start, request.length)
        if request.length is not None:
            options = options | {"range": (request.start, request.start + request.length)}
        elif request.start:
            options = options | {"range": {"offset": request.start}}
        whole_s = _limit_past(self._policy.download_timeout_s(request.length or OBJECT_BYTES_MAX), READ_LIMIT_STEP)
        store = self._store(whole_s, reading=True) if limit_s is None else self._store(limit_s)
        path = self._prefix + request.key
        return self._call(request, lambda: obstore_here().get(store, path, options=options))

    def _body(self, result: Any, request: Request, limit_bytes: int) -> Buffer:
        body = bytearray(_expected_bytes(result, request, limit_bytes))
        view, filled = memoryview(body), 0
        for part in self._arriving(result, request, len(body)):
            view[filled : filled + len(part)] = part
            filled += len(part)
        return body

    def _arriving(self, result: Any, request: Request, missing: int) -> Iterator[memoryview]:
        """What comes of a reply's body, until all of it is there."""
        pace = Pace(self._policy, self.name, request.key)
        parts = iter(result.stream(min_chunk_size=ARRIVING_BYTES_MIN))
        while missing > 0:
            part = self._call(request, lambda: next(parts, None))
            if part is None or len(part) > missing:
                raise _truncated(request)
            missing -= len(part)
            pace.add(len(part))
            yield memoryview(part)

    def _put(self, request: Request, body: Buffer, mode: object, limit_s: float) -> str:
        result = self._call(
            request,
            lambda: obstore_here().put(
                self._store(limit_s), self._prefix + request.key, body, mode=mode, use_multipart=False
            ),
        )
        return str(result["e_tag"])

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

    def _confirm(self, key: str, body: Buffer, tag: str, left_s: float) -> None:
        """Raise `OutcomeUnknown` unless a conditional put gives back what was sent, under its tag: somebody else may
        have replaced it since, or the store has never held it."""
        request = Request(self.name, key)
        try:
            result = self._get(request, {}, _limit_within(max(DEADLINE_S_MIN, left_s)))
            same = result.meta["e_tag"] == tag and bytes(self._body(result, request, len(body))) == bytes(body)
        except SkyholdError as error:
            raise not_confirmed(self.name, key) from error
        if not same:
            raise not_confirmed(self.name, key)

    def _begin(self, listing: Listing) -> tuple[Any, Sequence[ObjectInfo]]:
        """The stream of what is left of a listing, and its first batch."""
        folder, offset = listing.begin()
        stream = obstore_here().list(
            self._store(self._short_s, reading=True),
            prefix=(self._prefix + folder).rstrip("/") or None,
            offset=self._prefix + offset if offset else None,
            chunk_size=LIST_BATCH,
        )
        return stream, self._next_batch(stream)

    def _next_batch(self, stream: Any) -> Sequence[ObjectInfo]:
        request, limit_s = Request(self.name, "", listing=True), self._policy.listing_timeout_s
        try:
            found = self._call(request, lambda: next_within(stream, limit_s))
        except TimeoutError as error:
            raise misbehaves(self.name, f"lists no object for {limit_s:g} s, and no end") from error
        return [self._info(meta) for meta in found or ()]

    def _info(self, meta: Any) -> ObjectInfo:
        key, tag = below(self.name, self._prefix, meta["path"]), meta["e_tag"] or ""
        return ObjectInfo(key, meta["size"], tag, meta["last_modified"], tag, md5_in(tag))

    def _store(self, limit_s: float, *, reading: bool = False) -> Any:
        """The store object whose requests end after `limit_s`, and those that are `reading` also after a stall; made
        anew in a forked process. Two threads that come
        first may both make one: either serves, so no lock is needed that a fork could leave locked."""
        opened = self._opened
        if opened is None or opened.process != os.getpid():
            if opened is not None:
                abandon(opened)
            opened = self._opened = _Opened(os.getpid(), StoreOptions(self._location))
        store = opened.stores.get((limit_s, reading))
        if store is None:
            store = opened.options.store(self._policy, limit_s, reading=reading)
            opened.stores[limit_s, reading] = store
        return store

    def _call(self, request: Request, call: Callable[[], T]) -> T:
        """The one place where obstore's exceptions become ours."""
        try:
            return call()
        except (SkyholdError, TimeoutError):
            raise
        except Exception as error:
            failure = failure_of(error)
            if failure.status == 304:
                raise _NotModified from error
            raise to_error(failure, request) from error


class _NotModified(Exception):
    """The conditional GET found the tag that the caller has."""


def _limit_past(time_s: float, step: int = 2) -> float:
    """One of few limits, at or after this time: a power of `step`."""
    return float(step ** math.ceil(math.log(time_s, step)))


def _limit_within(deadline_s: float) -> float:
    """One of few limits, none past the deadline."""
    return math.exp2(math.floor(math.log2(deadline_s) * 4) / 4)


def _expected_bytes(result: Any, request: Request, limit_bytes: int) -> int:
    """How many bytes the reply must hold, checked against what was asked, and against what such an object can have
    where all of it was asked for."""
    served_start, served_end = result.range
    if request.length is not None and served_end - served_start < request.length:
        raise range_not_satisfiable(request.key, request.start, request.length)
    if served_start != request.start or (request.length is not None and served_end - served_start > request.length):
        raise _truncated(request)
    if request.length is None:
        check_size(request.bucket, request.key, served_end - served_start, limit_bytes)
    return int(served_end - served_start)


def _truncated(request: Request) -> Unavailable:
    return Unavailable(
        f"Bucket `{request.bucket}` sent other bytes of `{request.key}` than were asked for",
        code="truncated_reply",
        bucket=request.bucket,
        key=request.key,
    )
