"""The body of an upload to Google Cloud Storage, and the checksum that it declares."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator, Mapping
from typing import Final

import google_crc32c

from skyhold.units import Buffer

PART_BYTES: Final = 256 << 10


class MultipartForm:
    """An upload's body (https://cloud.google.com/storage/docs/uploading-objects, multipart), sent without a copy of
    the object's bytes, in slices: a socket's timeout then bounds the silence and not the whole transfer. It can be
    iterated again, so that it survives the refresh of a token."""

    def __init__(self, metadata: Mapping[str, str], body: Buffer) -> None:
        boundary = secrets.token_hex(16)
        self.content_type = f"multipart/related; boundary={boundary}"
        self._head = (
            f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(metadata)}\r\n"
            f"--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n"
        ).encode()
        self._body = memoryview(body).cast("B")
        self._tail = f"\r\n--{boundary}--\r\n".encode()

    def __len__(self) -> int:
        return len(self._head) + len(self._body) + len(self._tail)

    def __iter__(self) -> Iterator[Buffer]:
        yield self._head
        for start in range(0, len(self._body), PART_BYTES):
            yield self._body[start : start + PART_BYTES]
        yield self._tail


def crc32c_base64(body: Buffer) -> str:
    """The CRC32C of `body` as the JSON API writes it: four bytes, most significant first, in base64."""
    view, checksum = memoryview(body).cast("B"), 0
    for start in range(0, len(view), PART_BYTES):
        checksum = google_crc32c.extend(checksum, bytes(view[start : start + PART_BYTES]))  # it takes nothing but bytes
    return base64.b64encode(checksum.to_bytes(4, "big")).decode()
