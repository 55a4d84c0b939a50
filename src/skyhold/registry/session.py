"""What one operation of a store shares."""

from __future__ import annotations

from dataclasses import dataclass

from skyhold.consensus.epochs import PinnedRegisters
from skyhold.errors import SkyholdError
from skyhold.storage.blobs import BucketBlobs
from skyhold.storage.replicas import Replicas


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
