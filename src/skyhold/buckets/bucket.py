"""The `Bucket` port: one object-store location, as small as its callers allow.

A driver is synchronous and thread-safe: many threads call one bucket at once. It does not cross a fork: a store
refuses that for all that it has opened (`docs/decisions/031-fork.md`). Errors leave as our classes only.

A driver makes one attempt in each call. What `open_bucket` returns repeats every call but `write_if` a bounded number
of times on throttling (429, 503), a dropped connection or a timeout, with jittered back-off (`RetryingBucket`).
`write_if` is one attempt: a client library that retries a conditional put reports its own success as a lost race.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from skyhold import error_codes
from skyhold.buckets.rules import BucketRules, unknown_rules
from skyhold.errors import InvalidInput
from skyhold.units import Buffer

KEY_BYTES_MAX: Final = 512
KEY_PART_BYTES_MAX: Final = 255
WRITE_IF_DEADLINE_S: Final = 30.0
OBJECT_BYTES_MAX: Final = 65 << 20
"""The most that an object of a store has, whatever its kind (format.md): a longer one is not read whole."""
TAGGED_BYTES_MAX: Final = 2 << 20
"""The same of an object that is read with its tag: a register, or `store.json`."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a listing reports of one object. `tag` changes whenever the object's bytes change (ETag, generation); it is
    comparable for equality only, and is empty where a listing does not report it.

    `stamp` is what `write` returned as long as nothing has been written to the object since, as far as the store shows;
    comparable for equality only, and empty where the store shows nothing. `md5` is what the store gives as the MD5 of
    its bytes, empty where it gives none; it may be another number of that length (S3 with SSE-KMS), so that only
    agreement means something."""

    key: str
    size_bytes: int
    tag: str
    modified_at: datetime | None
    stamp: str = ""
    md5: bytes = b""


@dataclass(frozen=True, slots=True)
class Tagged:
    """An object's bytes together with the tag that they had."""

    body: Buffer
    tag: str


def check_key(key: str) -> str:
    """Return `key`, or raise `InvalidInput`: keys are ASCII names of 1 to 512 bytes, made of `/`-separated parts of
    1 to 255 of `[A-Za-z0-9._=-]`, none of them `.` or `..`, so that they mean the same in every store and folder.
    The first part `.skyhold` is reserved for what a driver keeps of its own. One key must not be a folder of another
    (`a` and `a/b`): stores that keep objects as files cannot hold both."""
    if not is_key(key):
        raise InvalidInput(f"Expected an object key but got {key!r}", code=error_codes.INVALID_KEY, key=key)
    return key


def is_key(name: str) -> bool:
    """Whether `check_key` returns `name`."""
    if not 1 <= len(name) <= KEY_BYTES_MAX:
        return False
    parts = name.split("/")
    return parts[0] != ".skyhold" and all(
        1 <= len(part) <= KEY_PART_BYTES_MAX and part not in {".", ".."} and _PART_CHARACTERS.issuperset(part)
        for part in parts
    )


def check_range(key: str, size_bytes: int, start: int, length: int | None) -> int:
    """Return where the range `[start, start + length)` ends, or raise `InvalidInput` where it is not inside an object
    of `size_bytes`. To begin at or past the end is outside, except for all of an empty object."""
    end = size_bytes if length is None else start + length
    if start < 0 or end > size_bytes or start > end or (length is None and 0 < start >= size_bytes):
        raise range_not_satisfiable(key, start, length)
    return end


def range_not_satisfiable(key: str, start: int, length: int | None) -> InvalidInput:
    """The error of every driver for a range outside its object."""
    asked = f"{length} bytes" if length is not None else "all bytes"
    return InvalidInput(
        f"Object `{key}` does not have {asked} from offset {start}", code=error_codes.RANGE_NOT_SATISFIABLE, key=key
    )


_PART_CHARACTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._=-")


class Bucket(ABC):
    """One object-store location (a provider's bucket with an optional prefix, or a folder).

    All keys are relative to the location's prefix and obey `check_key`. Common errors of every method:
    `PermissionDenied` (credentials missing, wrong or insufficient), `Unavailable` (unreachable, throttled or failing
    after the bounded retries; code `bucket_misbehaves`: it goes past the bounds of `bounded.py`), `NotFound` with
    code `bucket_not_found` (the bucket or folder itself is gone).
    """

    name: str
    url: str

    @abstractmethod
    def read(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        """The bytes `[start, start + length)` of an object, or all from `start`.

        Raises `NotFound` (no object), `InvalidInput` code `range_not_satisfiable` (the range is not inside the object),
        `Unavailable` code `truncated_reply` (the store sent fewer bytes than asked, also after retries), `Corrupt` code
        `object_too_large` (no `length` is given, and what follows is more than `OBJECT_BYTES_MAX`). A range never
        returns fewer bytes than asked; `check_range` defines what is inside. `length=0` returns no bytes and may skip
        the request.
        """

    @abstractmethod
    def read_stream(
        self, key: str, start: int = 0, length: int | None = None, part_bytes: int = 4 << 20
    ) -> Iterator[Buffer]:
        """As `read`, in parts of about `part_bytes` (bounded memory). Closing the iterator early ends the transfer."""

    @abstractmethod
    def read_tagged(self, key: str, *, unless_tag: str | None = None) -> Tagged | None:
        """A small object whole, with its tag, or None where its tag is still `unless_tag` (a conditional GET).

        Raises `NotFound`, and `Corrupt` code `object_too_large` for one of more than `TAGGED_BYTES_MAX`.
        """

    @abstractmethod
    def write(self, key: str, body: Buffer, *, md5: Callable[[], bytes] | None = None) -> str:
        """Write an object whole, replacing what is there; returns its stamp (`ObjectInfo`). Returns once the store has
        acknowledged it durably, and its bytes have been checked: what the store gives as the checksum of what it holds
        has been compared, or they were read back. The buffer must not change meanwhile. `md5` computes that of `body`:
        a caller that writes it to several buckets computes it once, and only where a driver compares it.

        Raises `QuotaExceeded` (no space), `Corrupt` code `checksum_refused` (the store received other bytes).
        """

    @abstractmethod
    def write_if(
        self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = WRITE_IF_DEADLINE_S
    ) -> str:
        """Conditional put with exactly one wire attempt; returns the new tag.

        `expected_tag=None` creates the object only where none is; a tag replaces only the object that has it.
        Raises `Conflict` only when the store itself answered that the condition was false (412, or 404 for a
        replace) — so our put had no effect. Raises `Unavailable` when the request provably had no effect (refused
        connection, 429 before it was taken), and `OutcomeUnknown` for everything else: the deadline passed, the
        connection dropped, a 409 or 5xx came back. Never retries.
        """

    @abstractmethod
    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        """All objects whose keys start with `prefix` (a string prefix, which need not end at `/`) and sort after
        `after`, in ascending byte order of their keys, over as many pages as there are. Names that are no keys are
        skipped."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is no error."""

    def rules(self) -> BucketRules:
        """The provider's own rules of the bucket. Raises `PermissionDenied` where the credentials may not ask."""
        return unknown_rules("This driver cannot ask for them")

    def server_time(self) -> datetime | None:
        """The store's clock as of now, to the second, or None where it does not show it."""
        return None

    def close(self) -> None:  # noqa: B027 - most drivers hold nothing to release
        """Release connections. The bucket must not be used afterwards."""

    def __enter__(self) -> Bucket:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
