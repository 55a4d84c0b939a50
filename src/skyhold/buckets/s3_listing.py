"""A listing as the port wants it, from what obstore gives: whole folders only, from an offset on, in batches. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from skyhold.buckets.bucket import ObjectInfo
from skyhold.errors import Corrupt


class Listing:
    """All keys with `prefix` after a given one; it may break off and begin again after the last key that it gave."""

    def __init__(self, bucket: str, prefix: str, after: str) -> None:
        self.ended = False
        self._bucket, self._prefix, self._last = bucket, prefix, after
        self._previous = ""

    def begin(self) -> tuple[str, str]:
        """The folder to list, with its slash, and the key to begin after: just before the first match, or where the
        listing broke off."""
        self._previous = ""
        return self._prefix[: self._prefix.rfind("/") + 1], max(self._last, _just_before(self._prefix))

    def wanted(self, batch: Sequence[ObjectInfo]) -> Iterator[ObjectInfo]:
        """What belongs to the listing. Raises `Corrupt` code `listing_out_of_order`."""
        for info in batch:
            if info.key <= self._previous:
                raise self._out_of_order(info.key)
            self._previous = info.key
            if info.key.startswith(self._prefix) and info.key > self._last:
                self._last = info.key
                yield info
            elif _is_past(info.key, self._prefix):
                self.ended = True
                return

    def _out_of_order(self, key: str) -> Corrupt:
        return Corrupt(
            f"Bucket `{self._bucket}` lists `{key}` after `{self._previous}`: its listings are not in the order of S3",
            code="listing_out_of_order",
            hint="Use another store or prefix; names that differ in `-`, `.` and `/` only cannot be listed there",
            bucket=self._bucket,
            key=key,
        )


def _just_before(prefix: str) -> str:
    """A name that sorts before every key with this prefix and after nearly all others: `~` sorts after every key
    character, and the character before the last one's is below it."""
    return f"{prefix[:-1]}{chr(ord(prefix[-1]) - 1)}~" if prefix else ""


def _is_past(key: str, prefix: str) -> bool:
    """Whether no key with `prefix` can follow `key`, in the order of bytes and in that of folders."""
    return not key.startswith(prefix) and key > prefix and key.replace("/", "\0") > prefix.replace("/", "\0")
