"""The newest checkpoint of each register: which object it is, and what to do where the buckets have lost it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from skyhold.consensus.checkpoint import checkpoint_prefix
from skyhold.errors import SkyholdError
from skyhold.storage.object_keys import CHECKPOINTS
from skyhold.store.connection import Connection

_RANDOM_CHARACTERS = 32


@dataclass(frozen=True, slots=True)
class NewestCheckpoints:
    """`objects` are the keys of the checkpoints that every bucket shall hold, each with its register; `lost` are the
    registers whose newest change has none in any bucket: a recovery would not know it."""

    objects: dict[str, str]
    lost: tuple[str, ...]


def newest_checkpoints(connection: Connection, registers: Iterable[str] | None = None) -> NewestCheckpoints:
    """Look for the checkpoints of the newest acknowledged changes of registers, by default of all.

    A change may have several, from attempts that too few buckets took: then the one that most of them hold. Nothing
    counts as lost while a bucket does not answer, or where a later change has followed since.
    """
    if connection.shared:
        return NewestCheckpoints({}, ())
    name_key, epoch = connection.store_keys.name_key(), connection.document.engine.epoch
    changes = {}  # noted before the buckets are listed: a change that is made meanwhile has later checkpoints
    for key in connection.registers.list() if registers is None else registers:
        version = connection.checkpoints.checkpointed_version(key)
        if version is not None:
            changes[key] = checkpoint_prefix(key, epoch, version, name_key)
    holders: dict[str, Counter[str]] = {}  # by change, then by object
    answered = True
    for bucket in connection.buckets().values():
        try:
            for info in bucket.list(f"{CHECKPOINTS}/"):
                holders.setdefault(info.key[:-_RANDOM_CHARACTERS], Counter())[info.key] += 1
        except SkyholdError:  # the survey names it
            answered = False
    objects: dict[str, str] = {}
    lost: list[str] = []
    for key, change in changes.items():
        found = holders.get(change)
        if found:
            objects[max(found, key=lambda object_key: (found[object_key], object_key))] = key
        elif answered and not any(_follows(other, change) for other in holders):
            lost.append(key)
    return NewestCheckpoints(objects, tuple(lost))


def write_lost_checkpoints(connection: Connection) -> int:
    """Write the newest checkpoints that no bucket holds, from the registers of this machine; returns how many.

    Raises `OutcomeUnknown` code `checkpoint_pending` where too few buckets take one.
    """
    lost = newest_checkpoints(connection).lost
    for key in lost:
        connection.checkpoints.checkpoint_again(key)
    return len(lost)


def _follows(other: str, change: str) -> bool:
    """Whether a change, by the beginning of its checkpoints' keys, is a later one of the same register."""
    return other > change and other.rpartition("/")[0] == change.rpartition("/")[0]
