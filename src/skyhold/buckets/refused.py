"""`RefusedBucket`: takes the place of a bucket that may not be given credentials (`consent`)."""

# ruff: noqa: ARG002 - whatever the arguments are

from __future__ import annotations

from collections.abc import Callable, Iterator

from skyhold.buckets.bucket import WRITE_IF_DEADLINE_S, Bucket, ObjectInfo, Tagged
from skyhold.buckets.consent import destination_of, not_allowed
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.rules import BucketRules
from skyhold.errors import PermissionDenied
from skyhold.units import Buffer


class RefusedBucket(Bucket):
    """A bucket that may not be given credentials: every call is refused, and nothing is sent. The other buckets of its
    store work without it, as without any bucket that refuses this machine."""

    def __init__(self, location: BucketLocation) -> None:
        self.name, self.url = location.name, location.url
        self._destination = destination_of(location)

    def _refuse(self) -> PermissionDenied:
        return not_allowed(self.name, self._destination)

    def read(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        raise self._refuse()

    def read_stream(
        self, key: str, start: int = 0, length: int | None = None, part_bytes: int = 4 << 20
    ) -> Iterator[Buffer]:
        raise self._refuse()

    def read_tagged(self, key: str, *, unless_tag: str | None = None) -> Tagged | None:
        raise self._refuse()

    def write(self, key: str, body: Buffer, *, md5: Callable[[], bytes] | None = None) -> str:
        raise self._refuse()

    def write_if(
        self, key: str, body: Buffer, *, expected_tag: str | None, deadline_s: float = WRITE_IF_DEADLINE_S
    ) -> str:
        raise self._refuse()

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        raise self._refuse()

    def delete(self, key: str) -> None:
        raise self._refuse()

    def rules(self) -> BucketRules:
        raise self._refuse()
