"""`AzureBucket`: Azure Blob Storage, by `azure-storage-blob`.

Why not obstore: `docs/decisions/google-and-azure-drivers.md`. The tag of an object is its ETag. Each write is one Put
Blob that declares its MD5, so that the store refuses other bytes, and the Content-MD5 of the reply is compared as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Final

from azure.core import MatchConditions
from azure.core.exceptions import AzureError
from azure.storage.blob import BlobServiceClient, ContainerClient

from skyhold import error_codes
from skyhold.buckets.azure_credentials import credentials_of
from skyhold.buckets.azure_errors import translated
from skyhold.buckets.azure_transport import WholeReplies
from skyhold.buckets.bounded import below, check_size, misbehaves
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
from skyhold.buckets.retry import DEFAULT_POLICY, RetryPolicy
from skyhold.buckets.rules import BucketRules, azure_rules
from skyhold.buckets.transfer import Transfer
from skyhold.buckets.wire import (
    checksum_refused,
    error_of_no_reply,
    truncated,
)
from skyhold.errors import Conflict, InvalidInput, NotFound, PermissionDenied, SkyholdError
from skyhold.units import Buffer

PUT_BYTES_MAX: Final = 5000 << 20
"""The largest Put Blob (https://learn.microsoft.com/rest/api/storageservices/put-blob)."""
GET_BYTES_MAX: Final = 1 << 40
"""So that a read is always one request."""
PAGE_OBJECTS: Final = 1000


class AzureBucket(Bucket):
    """A container of an Azure storage account, or of Azurite (`endpoint=http://127.0.0.1:PORT/ACCOUNT`).

    For the forms of the credentials reference see `azure_credentials.credentials_of`.
    """

    def __init__(self, location: BucketLocation, policy: RetryPolicy = DEFAULT_POLICY) -> None:
        self.name, self.url = location.name, location.url
        self._location, self._policy = location, policy
        self._prefix = f"{location.prefix}/" if location.prefix else ""
        self._client: BlobServiceClient | None = None

    def __repr__(self) -> str:
        return f"AzureBucket({self.url!r})"

    def read(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        return b"" if length == 0 else self._get(key, start, length, OBJECT_BYTES_MAX).body

    def read_stream(
        self, key: str, start: int = 0, length: int | None = None, part_bytes: int = 4 << 20
    ) -> Iterator[Buffer]:
        """One request a part: the SDK has no reply that is read while it comes. All are of one state of the object."""
        check_key(key)
        first: Tagged | None = None
        end = 0

        def begin(done_bytes: int) -> Iterator[Buffer]:
            nonlocal first, end
            position = start + done_bytes
            if first is None:
                first, end = self._first_part(key, start, length, part_bytes)
                position += len(first.body)
                if first.body:
                    yield first.body
            unchanged = {"etag": first.tag, "match_condition": MatchConditions.IfNotModified}
            for offset in range(position, end, part_bytes):
                yield self._get(key, offset, min(part_bytes, end - offset), OBJECT_BYTES_MAX, **unchanged).body

        return iter(()) if length == 0 else Transfer(begin)

    def read_tagged(self, key: str, *, unless_tag: str | None = None) -> Tagged | None:
        if unless_tag is None:
            return self._get(key, 0, None, TAGGED_BYTES_MAX)
        changed = {"etag": unless_tag, "match_condition": MatchConditions.IfModified}
        try:
            return self._get(key, 0, None, TAGGED_BYTES_MAX, **changed)
        except SkyholdError as error:
            if error.fields.get("status") != 304:
                raise
            return None

    def write(self, key: str, body: Buffer, *, md5: Callable[[], bytes] | None = None) -> str:  # noqa: ARG002
        send_s = self._policy.upload_timeout_s(len(memoryview(body).cast("B")))
        return self._put(key, body, {"overwrite": True}, connection_timeout=send_s, read_timeout=send_s)

    def write_if(
        self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = WRITE_IF_DEADLINE_S
    ) -> str:
        condition: dict[str, Any] = {"overwrite": False}
        if expected_tag is not None:
            condition = {"overwrite": True, "etag": expected_tag, "match_condition": MatchConditions.IfNotModified}
        check_key(key)
        sent = bytes(body)  # the caller may continue before the put has ended
        wait = {"connection_timeout": min(self._policy.connect_timeout_s, deadline_s), "read_timeout": deadline_s}
        return within(deadline_s, lambda: self._put(key, sent, condition, conditional=True, **wait), self.name, key)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        """Azure sorts by name but cannot begin after one, so all pages before `after` are asked for, too."""
        return Listing(self.name, self._policy, partial(self._page, prefix), after)

    def delete(self, key: str) -> None:
        try:
            self._opened().get_blob_client(self._blob(key)).delete_blob(**self._patience())
        except AzureError as error:
            failure = translated(error, self.name, key)
            if isinstance(failure, NotFound) and failure.code != error_codes.BUCKET_NOT_FOUND:
                return
            raise failure from error

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def server_time(self) -> datetime | None:
        """The clock of the container's server, from the Date of a reply."""
        seen: list[str] = []
        try:
            self._opened().get_container_properties(
                raw_response_hook=lambda reply: seen.append(reply.http_response.headers.get("Date", "")),
                **self._patience(),
            )
        except AzureError as error:
            raise translated(error, self.name) from error
        return parsedate_to_datetime(seen[-1]) if seen and seen[-1] else None

    def rules(self) -> BucketRules:
        """What the data plane reports. Only Azure's management plane reports lifecycle rules and blob versioning."""
        try:
            container = self._opened().get_container_properties(**self._patience())
        except AzureError as error:
            raise translated(error, self.name) from error
        retained = bool(container.has_immutability_policy or container.has_legal_hold)
        return azure_rules(retained=retained, soft_delete_days=self._soft_delete_days())

    def _soft_delete_days(self) -> int | None:
        """For how many days the account keeps what was deleted; None where the credentials may not ask."""
        try:
            properties = self._service().get_service_properties(**self._patience())
        except AzureError as error:
            failure = translated(error, self.name)
            if isinstance(failure, PermissionDenied):
                return None
            raise failure from error
        policy = properties["delete_retention_policy"]
        return int(policy.days or 0) if policy.enabled else 0

    # Requests: each is one on the wire, for the SDK's own retries are off

    def _put(
        self, key: str, body: Buffer, condition: Mapping[str, Any], *, conditional: bool = False, **wait: Any
    ) -> str:
        """One Put Blob; the new tag."""
        data = bytes(body)
        blob = self._opened().get_blob_client(self._blob(key))
        try:
            reply = blob.upload_blob(data, length=len(data), validate_content=True, **condition, **wait)
        except AzureError as error:
            failure = translated(error, self.name, key, conditional=conditional)
            if conditional and failure.code == error_codes.OBJECT_NOT_FOUND:  # what was to be replaced is gone
                failure = Conflict(f"There is no `{key}` in bucket `{self.name}` any more", bucket=self.name, key=key)
            raise failure from error
        if conditional and not (reply.get("content_md5") and reply.get("etag")):
            raise error_of_no_reply(ValueError("no checksum or tag"), self.name, key, conditional=True)
        if reply.get("content_md5") != hashlib.md5(data, usedforsecurity=False).digest():
            raise checksum_refused(self.name, key)
        return _tag(reply["etag"])

    def _get(self, key: str, start: int, length: int | None, limit_bytes: int, **condition: Any) -> Tagged:
        """One Get Blob of `[start, start + length)`, under an `etag` and a `match_condition` where they are given;
        without a `length` at most of `limit_bytes`."""
        tagged, whole_bytes = self._get_part(key, start, length, **condition)
        end = check_range(key, whole_bytes, start, length)
        if length is None:
            check_size(self.name, key, end - start, limit_bytes)
        return tagged

    def _first_part(self, key: str, start: int, length: int | None, part_bytes: int) -> tuple[Tagged, int]:
        """The first part of a range, and where the range ends."""
        first_bytes = part_bytes if length is None else min(part_bytes, length)
        try:
            first, whole_bytes = self._get_part(key, start, first_bytes)
        except InvalidInput:
            if start:
                raise
            first, whole_bytes = self._get_part(key, 0, None)  # an empty object has no range at all
        end = check_range(key, whole_bytes, start, length)
        if length is None:
            check_size(self.name, key, end - start, OBJECT_BYTES_MAX)
        return first, end

    def _get_part(self, key: str, start: int, length: int | None, **condition: Any) -> tuple[Tagged, int]:
        """One Get Blob of what the object has of `[start, start + length)`, and the object's size in bytes."""
        if start < 0 or (length or 0) < 0:
            raise range_not_satisfiable(key, start, length)
        first = None if not start and length is None else start
        try:
            reply = (
                self._opened()
                .get_blob_client(self._blob(key))
                .download_blob(first, length, max_concurrency=1, **condition, **self._patience())
            )
            body = reply.readall()
        except ValueError as error:  # the SDK's error for a reply without its Content-Range
            raise truncated(self.name, key) from error
        except AzureError as error:
            raise translated(error, self.name, key) from error
        whole_bytes = int((reply.properties.content_range or "").rpartition("/")[2]) if body else 0
        end = whole_bytes if length is None else min(whole_bytes, start + length)
        if len(body) != max(0, end - start):
            raise truncated(self.name, key)
        return Tagged(body, _tag(reply.properties.etag)), whole_bytes

    def _page(self, prefix: str, token: str) -> Page:
        client = self._opened()
        try:
            blobs = client.list_blobs(self._prefix + prefix, results_per_page=PAGE_OBJECTS, **self._patience())
            pages: Any = blobs.by_page(token or None)  # an iterator that has a `continuation_token`
            page = [self._info(blob) for blob in next(pages, ())]
        except AzureError as error:
            raise translated(error, self.name) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:  # the SDK's XML reader failed
            raise misbehaves(self.name, "sends a listing that cannot be read") from error
        return Page(page, pages.continuation_token or "")

    def _info(self, blob: Any) -> ObjectInfo:
        key, tag = below(self.name, self._prefix, blob.name), _tag(blob.etag)
        md5 = bytes(blob.content_settings.content_md5 or b"")
        return ObjectInfo(key, blob.size, tag, blob.last_modified, tag, md5)

    def _opened(self) -> ContainerClient:
        return self._service().get_container_client(self._location.container)

    def _service(self) -> BlobServiceClient:
        client = self._client
        if client is None:
            location = self._location
            client = BlobServiceClient(
                location.endpoint or f"https://{location.account}.blob.core.windows.net",
                credential=credentials_of(location.credentials, location.account, self.name),
                retry_total=0,
                max_single_put_size=PUT_BYTES_MAX,
                max_single_get_size=GET_BYTES_MAX,
                connection_data_block_size=1 << 20,
                permit_redirects=False,  # which would carry the signature, the token or the SAS to another host
                transport=WholeReplies(self.name, self._policy, connection_verify=location.ca_file or True),
            )
            self._client = client
        return client

    def _patience(self) -> dict[str, Any]:
        return {"connection_timeout": self._policy.connect_timeout_s, "read_timeout": self._policy.stall_timeout_s}

    def _blob(self, key: str) -> str:
        return self._prefix + check_key(key)


def _tag(etag: str) -> str:
    """Replies quote the ETag and listings do not."""
    return '"' + etag.strip('"') + '"'
