"""An S3 server with faults: what an attacker who controls one bucket can do to every client that reads it.

It serves buckets in memory as S3 does — GET with ranges and conditions, HEAD, PUT with conditions and checksums,
DELETE, ListObjectsV2, multipart uploads —, and `inject` switches on faults of the requests that follow (`s3_faults.py`
has them all). It checks no signature; `seen` keeps each request with its headers, for tests of what is sent to whom.

    with faulty_s3() as server:
        location = server.location("a")            # s3://a with this endpoint; RIGHT_… credentials in `environment`
        server.buckets["a"].fill(folder)            # the objects of a folder bucket
        server.inject(S3Fault("oversize", key="registers/"))
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import format_datetime, formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

from skyhold.buckets.location import BucketLocation, parse_location
from tests.faults.s3_faults import LIST_FAULTS, READ_FAULTS, WRITE_FAULTS, S3Fault
from tests.faults.s3_objects import Objects, Stored, etag_of

PAGE_KEYS: Final = 1000
ZEROS: Final = bytes(1 << 20)
ACCESS_KEY: Final = "never-registered"
SECRET_KEY: Final = "and-never-checked"
CREDENTIALS: Final = {"FAULTY_ACCESS_KEY_ID": ACCESS_KEY, "FAULTY_SECRET_ACCESS_KEY": SECRET_KEY}
"""Environment variables for `credentials="env:FAULTY"`."""
FOREIGN_KEYS: Final = ("../../outside", "a/../../b", "/absolute", "c\x7f\x1b[31m", "d//e", "f\u202e", "k" * 2000)
NAMESPACE: Final = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


@dataclass(frozen=True)
class Seen:
    """A request: `call` is its method, or `LIST`. `fault` is the kind of the fault that it met, or empty."""

    call: str
    bucket: str
    key: str
    headers: Mapping[str, str]
    fault: str


@dataclass
class Reply:
    """A reply before it is sent. `announced_bytes` where the header does not give the body's size; `zeros_bytes` follow
    the body."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    announced_bytes: int | None = None
    zeros_bytes: int = 0
    then_silent: bool = False


class FaultyS3(ThreadingHTTPServer):
    """Listens from construction to `close`. Each name in a URL is a bucket that is there."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.buckets: dict[str, Objects] = defaultdict(Objects)
        self.seen: list[Seen] = []
        self.sent_bytes = 0
        self.closing = threading.Event()
        self._faults: list[S3Fault] = []
        self._lock = threading.Lock()
        self._tokens = itertools.count(1)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def location(self, bucket: str, prefix: str = "") -> BucketLocation:
        """A bucket of this server, in path style, with the credentials of `CREDENTIALS`."""
        url = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        return parse_location(url, endpoint=self.url, credentials="env:FAULTY", name=bucket)

    def inject(self, *faults: S3Fault) -> None:
        """Replace the faults; each request meets the first that applies to it and is not used up. Without: no fault."""
        with self._lock:
            self._faults = list(faults)
            self.seen.clear()

    def count(self, call: str = "") -> int:
        """How many requests came since the last `inject`, of one `call` or of all."""
        with self._lock:
            return sum(call in {"", seen.call} for seen in self.seen)

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def fault_for(self, call: str, bucket: str, key: str, headers: Mapping[str, str]) -> S3Fault | None:
        with self._lock:
            fault = next((fault for fault in self._faults if fault.applies_to(call, bucket, key)), None)
            if fault is not None:
                fault.times -= 1
            self.seen.append(Seen(call, bucket, key, headers, fault.kind if fault else ""))
            return fault

    def token(self) -> str:
        """A token for the next page that was never given before."""
        with self._lock:
            return f"token-{next(self._tokens)}"

    def count_sent(self, size_bytes: int) -> None:
        with self._lock:
            self.sent_bytes += size_bytes

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in mid-reply is what many tests want."""


@contextmanager
def faulty_s3() -> Iterator[FaultyS3]:
    server = FaultyS3()
    try:
        yield server
    finally:
        server.close()


class _Handler(BaseHTTPRequestHandler):
    server: FaultyS3
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_one_call(self) -> None:
        parts = urlsplit(self.path)
        _, bucket, *rest = unquote(parts.path).split("/", 2)
        key, query = rest[0] if rest else "", dict(parse_qsl(parts.query, keep_blank_values=True))
        body = self._body()
        is_list = self.command == "GET" and not key and not query.keys() & _SUBRESOURCES
        call = "LIST" if is_list else self.command
        about = query.get("prefix", "") if is_list else key
        fault = self.server.fault_for(call, bucket, about, dict(self.headers.items()))
        objects = self.server.buckets[bucket]
        if fault is not None and fault.kind in WRITE_FAULTS:
            reply = _faulty_put(fault, objects, key, body, self.headers)
        elif is_list:
            reply = _page(self.server, objects, query, fault)
        elif not key:
            reply = _of_bucket(self.command, objects, query, body)
        elif query.keys() & {"uploads", "uploadId"}:
            reply = _multipart(self.command, objects, key, query, body)
        elif self.command == "PUT":
            reply = _put(objects, key, body, self.headers)
        elif self.command == "DELETE":
            objects.delete(key)
            reply = Reply(204)
        elif fault is not None and fault.kind in READ_FAULTS:
            reply = _faulty_get(fault, objects, key, self.headers)
        else:
            reply = _get(objects.get(key), self.headers)
        self._answer(reply, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one_call  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def _answer(self, reply: Reply, fault: S3Fault | None) -> None:
        kind = fault.kind if fault is not None else ""
        if fault is None or kind in READ_FAULTS + WRITE_FAULTS + LIST_FAULTS:
            self._send(reply)
        elif kind == "error":
            code = b"<Error><Code>InternalError</Code><Message>"
            self._send(Reply(fault.status, code, zeros_bytes=max(0, fault.size_bytes - len(code))))
        elif kind == "redirect":
            self._send(Reply(307, headers={"location": fault.location}))
        elif kind == "silent":
            self._silence()
        elif kind == "drop":
            self.close_connection = True
        elif kind == "endless_head":
            self._write(b"HTTP/1.1 200 OK\r\n")
            while not self.server.closing.wait(fault.delay_s / 100):
                self._write(b"x-more: and more\r\n" * 100)
        else:
            self._drip(reply, fault)

    def _send(self, reply: Reply) -> None:
        self._write(self._head(reply))
        if self.command == "HEAD" or reply.status in {204, 304}:
            return
        self._write(reply.body)
        left = reply.zeros_bytes
        while left > 0 and not self.server.closing.is_set():
            self._write(ZEROS[: min(left, len(ZEROS))])
            left -= len(ZEROS)
        if reply.then_silent:
            self._silence()
        elif reply.announced_bytes is not None:
            self.close_connection = True

    def _drip(self, reply: Reply, fault: S3Fault) -> None:
        head = self._head(reply)
        if fault.kind == "drip":
            self._write(head)
            head = b""
        for byte in head + (b"" if self.command == "HEAD" else reply.body):
            self._write(bytes([byte]))
            if self.server.closing.wait(fault.delay_s):
                return

    def _head(self, reply: Reply) -> bytes:
        size = len(reply.body) + reply.zeros_bytes if reply.announced_bytes is None else reply.announced_bytes
        headers = {"Date": formatdate(usegmt=True), "Server": "faulty", **reply.headers}
        if reply.status not in {204, 304}:
            headers.setdefault("Content-Length", str(size))
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Fault')}\r\n{lines}\r\n".encode()

    def _write(self, data: bytes) -> None:
        self.wfile.write(data)
        self.server.count_sent(len(data))

    def _silence(self) -> None:
        """Send nothing until the client gives up or the server closes."""
        self.connection.settimeout(0.1)
        self.close_connection = True
        while not self.server.closing.is_set():
            try:
                if not self.connection.recv(1):
                    return
            except TimeoutError:
                continue
            except OSError:
                return

    def handle(self) -> None:
        with suppress(OSError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        pass


_REASONS: Final = {200: "OK", 206: "Partial Content", 404: "Not Found", 412: "Precondition Failed"}
_SUBRESOURCES: Final = frozenset({"location", "versioning", "lifecycle", "object-lock", "uploads", "policy", "acl"})


# -- without faults --------------------------------------------------------------------------------------------------


def _error(status: int, code: str) -> Reply:
    return Reply(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())


def _object_headers(stored: Stored) -> dict[str, str]:
    return {
        "ETag": stored.etag,
        "Last-Modified": format_datetime(stored.modified_at, usegmt=True),
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        "x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(stored.body).digest()).decode(),
    }


def _get(stored: Stored | None, asked: Mapping[str, str]) -> Reply:
    if stored is None:
        return _error(404, "NoSuchKey")
    if asked.get("if-match", stored.etag) != stored.etag:
        return _error(412, "PreconditionFailed")
    if asked.get("if-none-match") == stored.etag:
        return Reply(304, headers={"ETag": stored.etag})
    headers = _object_headers(stored)
    if "range" not in asked:
        return Reply(200, stored.body, headers)
    first, last = _range(asked["range"], len(stored.body))
    if first >= len(stored.body):
        return _error(416, "InvalidRange")
    headers["Content-Range"] = f"bytes {first}-{last}/{len(stored.body)}"
    return Reply(206, stored.body[first : last + 1], headers)


def _range(text: str, size_bytes: int) -> tuple[int, int]:
    """The first and the last byte of a Range header."""
    first, _, last = text.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size_bytes - int(last)), size_bytes - 1
    return int(first), min(int(last), size_bytes - 1) if last else size_bytes - 1


def _put(objects: Objects, key: str, body: bytes, asked: Mapping[str, str]) -> Reply:
    if not _declared(body, asked):
        return _error(400, "BadDigest")
    with objects.lock:
        current = objects.get(key)
        if asked.get("if-none-match") == "*" and current is not None:
            return _error(412, "PreconditionFailed")
        if "if-match" in asked and current is None:
            return _error(404, "NoSuchKey")
        if current is not None and asked.get("if-match", current.etag) != current.etag:
            return _error(412, "PreconditionFailed")
        return _put_reply(objects.put(key, body))


def _put_reply(stored: Stored) -> Reply:
    headers = _object_headers(stored)
    return Reply(200, headers={name: headers[name] for name in ("ETag", "x-amz-checksum-sha256")})


def _declared(body: bytes, asked: Mapping[str, str]) -> bool:
    """Whether the body matches its checksums."""
    digest = hashlib.sha256(body)
    signed = asked.get("x-amz-content-sha256", digest.hexdigest())
    declared = asked.get("x-amz-checksum-sha256", base64.b64encode(digest.digest()).decode())
    return signed in {digest.hexdigest(), "UNSIGNED-PAYLOAD"} and declared == base64.b64encode(digest.digest()).decode()


def _of_bucket(command: str, objects: Objects, query: Mapping[str, str], body: bytes) -> Reply:
    if command == "HEAD":
        return Reply(200)
    if command == "POST" and "delete" in query:
        for part in body.decode().split("<Key>")[1:]:
            objects.delete(part.partition("</Key>")[0])
        return Reply(200, f"<DeleteResult {NAMESPACE}/>".encode())
    if "versioning" in query:
        return Reply(200, f"<VersioningConfiguration {NAMESPACE}/>".encode())
    if "location" in query:
        return Reply(200, f"<LocationConstraint {NAMESPACE}/>".encode())
    missing = {"lifecycle": "NoSuchLifecycleConfiguration", "object-lock": "ObjectLockConfigurationNotFoundError"}
    return next((_error(404, code) for name, code in missing.items() if name in query), _error(501, "NotImplemented"))


def _multipart(command: str, objects: Objects, key: str, query: Mapping[str, str], body: bytes) -> Reply:
    with objects.lock:
        if "uploads" in query:
            upload = f"upload-{len(objects.uploads)}"
            objects.uploads[upload] = {}
            return Reply(200, f"<R {NAMESPACE}><Key>{escape(key)}</Key><UploadId>{upload}</UploadId></R>".encode())
        if query["uploadId"] not in objects.uploads:
            return _error(404, "NoSuchUpload")
        if command == "PUT":
            objects.uploads[query["uploadId"]][int(query["partNumber"])] = body
            return Reply(200, headers={"ETag": etag_of(body)})
        parts = objects.uploads.pop(query["uploadId"])
        if command == "DELETE":
            return Reply(204)
        stored = objects.put(key, b"".join(parts[number] for number in sorted(parts)))
        return Reply(200, f"<R {NAMESPACE}><ETag>{escape(stored.etag)}</ETag></R>".encode())


# -- faults of objects -----------------------------------------------------------------------------------------------


def _faulty_get(fault: S3Fault, objects: Objects, key: str, asked: Mapping[str, str]) -> Reply:
    stored = objects.get(key)
    if stored is None:
        return _error(404, "NoSuchKey")
    return _READS[fault.kind](fault, objects, key, stored, asked)


FaultyRead = Callable[[S3Fault, Objects, str, Stored, Mapping[str, str]], Reply]


def _oversize(fault: S3Fault, _objects: Objects, _key: str, stored: Stored, asked: Mapping[str, str]) -> Reply:
    headers, first = _object_headers(stored), 0
    if "range" in asked:
        first, _ = _range(asked["range"], fault.size_bytes)
        headers["Content-Range"] = f"bytes {first}-{fault.size_bytes - 1}/{fault.size_bytes}"
    return Reply(
        206 if "range" in asked else 200,
        stored.body[first:],
        headers,
        announced_bytes=fault.size_bytes - first,
        then_silent=fault.kind == "oversize",
        zeros_bytes=max(0, fault.size_bytes - len(stored.body)) if fault.kind == "sparse" else 0,
    )


def _excess(fault: S3Fault, _objects: Objects, _key: str, stored: Stored, asked: Mapping[str, str]) -> Reply:
    reply = _get(stored, asked)
    if reply.status in {200, 206}:
        reply.zeros_bytes = fault.size_bytes
        reply.headers.setdefault("Content-Range", f"bytes 0-{len(stored.body) - 1}/{len(stored.body)}")
        reply.status = 206
    return reply


def _wrong_range(_fault: S3Fault, _objects: Objects, _key: str, stored: Stored, asked: Mapping[str, str]) -> Reply:
    first, last = _range(asked.get("range", "bytes=0-"), len(stored.body))
    headers = {**_object_headers(stored), "Content-Range": f"bytes {first + 1}-{last + 1}/{len(stored.body) + 1}"}
    return Reply(206, stored.body[first : last + 1], headers)


def _truncate(fault: S3Fault, _objects: Objects, _key: str, stored: Stored, asked: Mapping[str, str]) -> Reply:
    reply = _get(stored, asked)
    if reply.status in {200, 206}:
        whole = len(reply.body)
        reply.body = reply.body[: whole // 2]
        reply.announced_bytes = whole if fault.kind == "truncate" else len(reply.body)
    return reply


def _body_of(change: Callable[[S3Fault, Objects, str, Stored], Stored]) -> FaultyRead:
    """A reply that is right but for the object that it is of."""

    def reply(fault: S3Fault, objects: Objects, key: str, stored: Stored, asked: Mapping[str, str]) -> Reply:
        return _get(change(fault, objects, key, stored), asked)

    return reply


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else b"\1"


def _gzip_bomb(fault: S3Fault, _objects: Objects, _key: str, stored: Stored, _asked: Mapping[str, str]) -> Reply:
    body = _bomb(min(fault.size_bytes, 1 << 30))
    return Reply(200, body, {**_object_headers(stored), "Content-Encoding": "gzip"})


@functools.cache
def _bomb(size_bytes: int) -> bytes:
    """So many zeros compressed, a thousandth of it. A block is compressed once and repeated: to compress all of them
    for each request would stop this machine, and not the client."""
    press = zlib.compressobj(wbits=31)
    first = press.compress(ZEROS) + press.flush(zlib.Z_FULL_FLUSH)
    again = press.compress(ZEROS) + press.flush(zlib.Z_FULL_FLUSH)  # without the header
    end = zlib.compressobj(wbits=-15).flush()
    checksum, count = 0, size_bytes // len(ZEROS)
    for _ in range(count):
        checksum = zlib.crc32(ZEROS, checksum)
    trailer = checksum.to_bytes(4, "little") + (count * len(ZEROS) % (1 << 32)).to_bytes(4, "little")
    return first + again * (count - 1) + end + trailer


_READS: Final[dict[str, FaultyRead]] = {
    "oversize": _oversize,
    "sparse": _oversize,
    "excess": _excess,
    "wrong_range": _wrong_range,
    "truncate": _truncate,
    "short": _truncate,
    "gzip_bomb": _gzip_bomb,
    "ignore_range": lambda _fault, _objects, _key, stored, _asked: _get(stored, {}),
    "missing": lambda _fault, _objects, _key, _stored, _asked: _error(404, "NoSuchKey"),
    "empty": lambda _fault, _objects, _key, _stored, _asked: Reply(200, b"", _object_headers(Stored.of(b""))),
    "stale": _body_of(lambda _fault, objects, key, stored: objects.first(key) or stored),
    "other": _body_of(lambda fault, objects, _key, stored: objects.get(fault.other_key) or stored),
    "flip": _body_of(lambda _fault, _objects, _key, stored: Stored(_flipped(stored.body), stored.etag)),
}


def _faulty_put(fault: S3Fault, objects: Objects, key: str, body: bytes, asked: Mapping[str, str]) -> Reply:
    if fault.kind in {"wrong_etag", "not_stored"}:
        return _put_reply(Stored.of(_flipped(body) if fault.kind == "wrong_etag" else body))
    reply = _put(objects, key, body, asked)
    if fault.kind == "stored_but_refused":
        return _error(412, "PreconditionFailed")
    if fault.kind == "no_etag":
        del reply.headers["ETag"]
    elif reply.status == 200:
        objects.put(key, _flipped(body))
    return reply


# -- listings --------------------------------------------------------------------------------------------------------


def _page(server: FaultyS3, objects: Objects, query: Mapping[str, str], fault: S3Fault | None) -> Reply:
    kind, prefix = fault.kind if fault is not None else "", query.get("prefix", "")
    token = query.get("continuation-token", "")
    keys_max = min(PAGE_KEYS, int(query.get("max-keys", PAGE_KEYS)))
    if fault is not None and kind in {"endless", "endless_empty", "huge_page", "malformed", "entities"}:
        return _faulty_page(server, fault, prefix, keys_max)
    after = token.removeprefix("after:") if token.startswith("after:") else query.get("start-after", "")
    found = list(objects.listed(prefix, after))
    page, more = found[:keys_max], len(found) > keys_max
    rows = [(key, len(stored.body), stored.etag, stored) for key, stored in page]
    if kind == "unordered":
        rows.reverse()
    elif kind == "foreign_keys":
        rows += [(prefix + key, 1, '"0"', Stored.of(b"x")) for key in FOREIGN_KEYS]
    elif kind == "outside_prefix":
        rows += [(f"elsewhere/{number}", 1, '"0"', Stored.of(b"x")) for number in range(3)]
    elif kind in {"wrong_sizes", "negative_sizes"} and fault is not None:
        size_bytes = -1 if kind == "negative_sizes" else fault.size_bytes
        rows = [(key, size_bytes, etag, stored) for key, _, etag, stored in rows]
    elif kind == "hidden" and fault is not None:
        rows = [row for row in rows if fault.other_key not in row[0]]
    next_token = f"after:{page[-1][0]}" if more else ""
    if kind == "repeating":
        more, next_token = True, "token-always"
    elif kind == "no_token":
        more, next_token = True, ""
    return Reply(200, _page_xml(prefix, [(key, size, etag) for key, size, etag, _ in rows], next_token, more=more))


def _faulty_page(server: FaultyS3, fault: S3Fault, prefix: str, keys_max: int) -> Reply:
    if fault.kind == "huge_page":
        head = _page_xml(prefix, [], "", more=False).removesuffix(b"</ListBucketResult>") + b"<Comment>"
        return Reply(200, head, zeros_bytes=max(0, fault.size_bytes - len(head)))
    if fault.kind == "malformed":
        return Reply(200, b"\0\1 no XML at all <")
    if fault.kind == "entities":
        levels = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
        return Reply(200, f'<!DOCTYPE x [<!ENTITY a0 "ha">{levels}]><ListBucketResult>&a9;</ListBucketResult>'.encode())
    token = server.token()
    number = int(token.removeprefix("token-"))
    rows = [] if fault.kind == "endless_empty" else [
        (f"{prefix.rstrip('/') or 'k'}{'/' if prefix.endswith('/') else ''}{number:012d}-{row:04d}", 1, '"0"')
        for row in range(keys_max)
    ]  # fmt: skip
    return Reply(200, _page_xml(prefix, rows, token, more=True))


def _page_xml(prefix: str, rows: Sequence[tuple[str, int, str]], token: str, *, more: bool) -> bytes:
    modified = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    contents = "".join(
        f"<Contents><Key>{_xml_text(key)}</Key><LastModified>{modified}</LastModified><ETag>{escape(etag)}</ETag>"
        f"<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for key, size, etag in rows
    )
    next_token = f"<NextContinuationToken>{escape(token)}</NextContinuationToken>" if token else ""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult {NAMESPACE}><Name>b</Name>'
        f"<Prefix>{_xml_text(prefix)}</Prefix><KeyCount>{len(rows)}</KeyCount><MaxKeys>1000</MaxKeys>"
        f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{next_token}{contents}</ListBucketResult>"
    ).encode()


def _xml_text(text: str) -> str:
    """Text in XML, also what XML 1.0 does not have."""
    return "".join(character if character >= " " else f"&#{ord(character)};" for character in escape(text))
