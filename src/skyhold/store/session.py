"""What one operation of a store shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from skyhold import error_codes
from skyhold.consensus.pinned_registers import PinnedRegisters
from skyhold.errors import Conflict, SkyholdError
from skyhold.storage.blobs import BucketBlobs
from skyhold.storage.replicas import Replicas

MOVES_FOLLOWED_MAX: Final = 3

T = TypeVar("T")


@dataclass(slots=True)
class Session:
    """What one operation shares: the registers, in which nothing changes once the buckets of the store are others than
    those that it writes to; the buckets that failed it, and the objects that end with it."""

    registers: PinnedRegisters
    blobs: BucketBlobs
    store_replicas: Replicas
    lagging: dict[str, SkyholdError]
    closing: list[Replicas]

    def close(self) -> None:
        for replicas in self.closing:
            replicas.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def retry_on_reconfiguration(operation: Callable[[], T]) -> T:
    """Do what changes refs or names in a session of its own; again, in the epoch of now, where the buckets of the store
    were changed meanwhile. Nothing of a change that meets that takes effect, and an operation of several must be one
    that can be repeated: they keep their ids."""
    for _ in range(MOVES_FOLLOWED_MAX):
        try:
            return operation()
        except Conflict as error:
            if error.code != error_codes.MEMBERSHIP_CHANGED:
                raise
    return operation()
