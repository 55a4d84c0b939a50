"""`GoogleBucket`: Google Cloud Storage through its JSON API (https://cloud.google.com/storage/docs/json_api/v1).

Why neither obstore nor `google-cloud-storage`: `docs/decisions/google-and-azure-drivers.md`. The tag of an object is
its generation. Each write declares its CRC32C in the same request, so that the store refuses other bytes, and the
checksum of the stored object in the reply is compared as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import quote

import requests
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import AuthorizedSession

from skyhold import error_codes
from skyhold.buckets.bounded import Pace, below, check_size, misbehaves
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
from skyhold.buckets.endpoint import is_loopback
from skyhold.buckets.google_credentials import credentials_of
from skyhold.buckets.google_errors import (
    error_of_status,
    error_of_token,
)
from skyhold.buckets.google_upload import MultipartForm, crc32c_base64
from skyhold.buckets.in_time import within
from skyhold.buckets.listing import Listing, Page
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.retry import DEFAULT_POLICY, RetryPolicy
from skyhold.buckets.rules import BucketRules, google_rules
from skyhold.buckets.transfer import Transfer
from skyhold.buckets.wire import (
    NO_REPLY,
    REPLY_BYTES_MAX,
    InTime,
    arriving,
    checksum_refused,
    decode_md5,
    error_of_no_reply,
    no_other_credentials,
    take_reply,
    truncated,
)
from skyhold.errors import NotFound, PermissionDenied, SkyholdError, Unavailable
from skyhold.units import Buffer

CONNECTIONS_MAX: Final = 64


class GoogleBucket(Bucket):
    """A bucket of Google Cloud Storage, or of an emulator of its JSON API.

    For the forms of the credentials reference see `google_credentials.credentials_of`; an emulator (an endpoint on this
    machine, or without TLS) needs none, so there `chain` means anonymous.
    """

    def __init__(self, location: BucketLocation, policy: RetryPolicy = DEFAULT_POLICY) -> None:
        self.name, self.url = location.name, location.url
        self._policy = policy
        self._bucket, self._prefix = location.container, f"{location.prefix}/" if location.prefix else ""
        self._endpoint = location.endpoint or "https://storage.googleapis.com"
        self._anonymous = self._endpoint.startswith("http://") or is_loopback(self._endpoint)
        self._credentials_reference, self._ca_file = location.credentials, location.ca_file
        self._session: AuthorizedSession | None = None

    def __repr__(self) -> str:
        return f"GoogleBucket({self.url!r})"

    def read(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        if length == 0:
            return b""
        response, size_bytes = self._open_range(key, start, length, "", OBJECT_BYTES_MAX)
        with response:
            return self._take(response, key, size_bytes, Pace(self._policy, self.name, key))

    def read_stream(
        self, key: str, start: int = 0, length: int | None = None, part_bytes: int = 4 << 20
    ) -> Iterator[Buffer]:
        generation = ""

        def begin(done_bytes: int) -> Iterator[Buffer]:
            nonlocal generation
            left = None if length is None else length - done_bytes
            response, left_bytes = self._open_range(key, start + done_bytes, left, generation, OBJECT_BYTES_MAX)
            generation, pace = response.headers["x-goog-generation"], Pace(self._policy, self.name, key)
            with response:
                while left_bytes:
                    part = self._take(response, key, min(part_bytes, left_bytes), pace)
                    left_bytes -= len(part)
                    yield part

        return iter(()) if length == 0 else Transfer(begin)

    def read_tagged(self, key: str, *, unless_tag: str | None = None) -> Tagged | None:
        """The JSON API's media reply has no 304, so the reply's generation is compared before its body is read."""
        response, size_bytes = self._open_range(key, 0, None, "", TAGGED_BYTES_MAX)
        with response:
            tag = response.headers["x-goog-generation"]
            if tag == unless_tag:
                return None
            return Tagged(self._take(response, key, size_bytes, Pace(self._policy, self.name, key)), tag)

    def write(self, key: str, body: Buffer, *, md5: Callable[[], bytes] | None = None) -> str:  # noqa: ARG002
        return self._upload(key, body, {}, None)

    def write_if(
        self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = WRITE_IF_DEADLINE_S
    ) -> str:
        check_key(key)
        condition = {"ifGenerationMatch": expected_tag or "0"}
        sent = bytes(body)  # the caller may continue before the put has ended
        return within(deadline_s, lambda: self._upload(key, sent, condition, deadline_s), self.name, key)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        query = {
            "prefix": self._prefix + prefix,
            "maxResults": "1000",
            "fields": "items(name,size,generation,updated,md5Hash),nextPageToken",
        }
        if after:
            query["startOffset"] = self._prefix + after  # inclusive

        def fetch(token: str) -> Page:
            return self._page(query | ({"pageToken": token} if token else {}))

        return Listing(self.name, self._policy, fetch, after)

    def _page(self, query: Mapping[str, str]) -> Page:
        response = self._call("GET", f"/storage/v1/b/{self._bucket}/o", query)
        try:
            page = response.json()
            return Page([self._info(item) for item in page.get("items", ())], str(page.get("nextPageToken") or ""))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise misbehaves(self.name, "sends a listing that cannot be read") from error

    def delete(self, key: str) -> None:
        try:
            self._call("DELETE", self._object_path(key), key=key)
        except NotFound as error:
            if error.code == error_codes.BUCKET_NOT_FOUND:
                raise

    def server_time(self) -> datetime | None:
        query = {"maxResults": "1", "fields": "kind"}
        response = self._call("GET", f"/storage/v1/b/{self._bucket}/o", query)
        date = response.headers.get("date")
        return parsedate_to_datetime(date) if date else None

    def rules(self) -> BucketRules:
        """From the bucket's own metadata; needs `storage.buckets.get`."""
        return google_rules(self._call("GET", f"/storage/v1/b/{self._bucket}").json())

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()  # type: ignore[no-untyped-call]

    # Requests

    def _open_range(
        self, key: str, start: int, length: int | None, generation: str, limit_bytes: int
    ) -> tuple[requests.Response, int]:
        """An open reply and how many bytes of the object follow in it, without a `length` at most `limit_bytes`. An
        empty `generation` means the newest."""
        if start < 0 or (length or 0) < 0:
            raise range_not_satisfiable(key, start, length)
        query = {"alt": "media"} | ({"generation": generation} if generation else {})
        headers: dict[str, str] = {}
        if start or length is not None:
            headers["Range"] = f"bytes={start}-{'' if length is None else start + length - 1}"
        response = self._call("GET", self._object_path(key), query, headers=headers, key=key, stream=True)
        try:
            size_bytes = self._following_bytes(response, key, start, length)
            if length is None:
                check_size(self.name, key, size_bytes, limit_bytes)
        except BaseException:
            response.close()
            raise
        return response, size_bytes

    def _following_bytes(self, response: requests.Response, key: str, start: int, length: int | None) -> int:
        """How many bytes of the object a reply to a read holds, by its headers."""
        try:
            if not response.headers.get("x-goog-generation", "").isdecimal():
                raise ValueError("a reply without a generation")  # noqa: TRY301 - one meaning
            if not start and length is None:
                return max(0, int(response.headers["content-length"]))
            whole_bytes = int(response.headers.get("content-range", "").rpartition("/")[2])
        except (ValueError, KeyError) as error:
            raise self._no_reply(error, key, conditional=False) from error
        return check_range(key, whole_bytes, start, length) - start

    def _take(self, response: requests.Response, key: str, size_bytes: int, pace: Pace) -> Buffer:
        """The next `size_bytes` of a reply's body."""
        body = bytearray()
        try:
            for part in arriving(response, size_bytes, pace):
                body += part
        except NO_REPLY as error:
            raise truncated(self.name, key) from error
        if len(body) != size_bytes:
            raise truncated(self.name, key)
        return body

    def _upload(self, key: str, body: Buffer, condition: dict[str, str], deadline_s: float | None) -> str:
        """One put; the new generation. `deadline_s` is given for a conditional one."""
        checksum = crc32c_base64(body)
        form = MultipartForm({"name": self._prefix + check_key(key), "crc32c": checksum}, body)
        response = self._call(
            "POST",
            f"/upload/storage/v1/b/{self._bucket}/o",
            {"uploadType": "multipart", "fields": "generation,crc32c"} | condition,
            headers={"Content-Type": form.content_type},
            body=form,
            key=key,
            deadline_s=deadline_s,
        )
        try:
            stored = response.json()
            generation, stored_checksum = str(stored["generation"]), stored["crc32c"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._no_reply(error, key, conditional=deadline_s is not None) from error
        if stored_checksum != checksum:
            raise checksum_refused(self.name, key)
        return generation

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: MultipartForm | None = None,
        key: str = "",
        deadline_s: float | None = None,
        stream: bool = False,
    ) -> requests.Response:
        """One request on the wire; a second one only after a 401, which changed nothing, with a fresh token. With a
        `deadline_s` it is the conditional put."""
        conditional, policy = deadline_s is not None, self._policy
        patience_s = policy.stall_timeout_s if body is None else policy.upload_timeout_s(len(body))
        limit_s = deadline_s or patience_s
        timeout = (min(policy.connect_timeout_s, limit_s), limit_s)
        try:
            response: requests.Response = self._opened().request(  # type: ignore[no-untyped-call]
                method,
                self._endpoint + path,
                params=query,
                headers=headers,
                data=body,
                timeout=timeout,
                stream=True,
                allow_redirects=False,
            )
        except GoogleAuthError as error:
            raise error_of_token(error, self.name) from error
        except NO_REPLY as error:
            raise self._no_reply(error, key, conditional=conditional) from error
        sound = response.status_code < 300
        if sound and stream:
            return response
        try:
            take_reply(response, policy, self.name, REPLY_BYTES_MAX)
        except NO_REPLY as error:
            raise self._no_reply(error, key, conditional=conditional) from error
        if sound:
            return response
        if response.status_code == 404 and key:
            self._check_bucket()
        raise error_of_status(response, self.name, key, conditional=conditional)

    def _no_reply(self, error: Exception, key: str, *, conditional: bool) -> SkyholdError:
        return error_of_no_reply(error, self.name, key, conditional=conditional)

    def _check_bucket(self) -> None:
        """Raise `NotFound` where the bucket itself is gone. Without the right to ask, the error names the object
        only."""
        with contextlib.suppress(PermissionDenied, Unavailable):
            self._call("GET", f"/storage/v1/b/{self._bucket}/o", {"maxResults": "1", "fields": "kind"})

    def _opened(self) -> AuthorizedSession:
        session = self._session
        if session is None:
            reference = self._credentials_reference
            credentials = credentials_of(reference, self.name, anonymous_chain=self._anonymous)
            session = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]
            session.verify = self._ca_file or True
            session.auth = no_other_credentials
            session.headers["Accept-Encoding"] = "identity"  # bytes are counted as they come
            adapter = InTime(pool_connections=4, pool_maxsize=CONNECTIONS_MAX, max_retries=0)
            session.mount("https://", adapter)
            session.mount("http://", adapter)
            self._session = session
        return session

    def _object_path(self, key: str) -> str:
        return f"/storage/v1/b/{self._bucket}/o/{quote(self._prefix + check_key(key), safe='')}"

    def _info(self, item: Mapping[str, str]) -> ObjectInfo:
        key = below(self.name, self._prefix, item["name"])
        tag, modified_at = item["generation"], datetime.fromisoformat(item["updated"])
        return ObjectInfo(key, int(item["size"]), tag, modified_at, tag, decode_md5(item.get("md5Hash")))
