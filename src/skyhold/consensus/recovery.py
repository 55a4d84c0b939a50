"""Recovery: the newest value of every register, read back from the checkpoints in the buckets (format.md, 11)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from skyhold import error_codes
from skyhold.buckets.bucket import Bucket
from skyhold.codec.frame import FrameKeys
from skyhold.consensus.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint_key, read_checkpoint
from skyhold.consensus.register import EngineRegisters, RegisterChange
from skyhold.errors import Corrupt, PermissionDenied, SkyholdError

# Objects by (epoch, version), each with the buckets that list it.
_Listing = dict[tuple[int, int], dict[str, list[Bucket]]]


@dataclass(frozen=True, slots=True)
class DamagedCheckpoint:
    """A checkpoint that was skipped, and why."""

    bucket: str
    key: str
    reason: str


@dataclass(slots=True)
class Recovery:
    """What the buckets held: the newest intact checkpoint of each register, which buckets answered, which failed
    (at any point), and what was damaged. With less than a majority of the buckets a later change may be missing."""

    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    answered: list[str] = field(default_factory=list)
    failed: dict[str, SkyholdError] = field(default_factory=dict)
    damaged: list[DamagedCheckpoint] = field(default_factory=list)


def recover_registers(buckets: Sequence[Bucket], keys: FrameKeys, name_key: bytes) -> Recovery:
    """Read the newest checkpoint of every register from whichever buckets answer.

    Damaged copies are named and another copy, else an older checkpoint, is taken. Raises `Corrupt` code
    `checkpoints_fork` where two machines wrote different data as one change: no choice would be right.
    """
    recovery = Recovery()
    folders: dict[str, _Listing] = {}
    if not buckets:
        return recovery
    with ThreadPoolExecutor(len(buckets), thread_name_prefix="recover") as executor:
        for bucket, listed in zip(buckets, executor.map(_list, buckets), strict=True):
            if isinstance(listed, SkyholdError):
                recovery.failed[bucket.name] = listed
                continue
            recovery.answered.append(bucket.name)
            for object_key, (folder, epoch, version) in listed.items():
                changes = folders.setdefault(folder, {}).setdefault((epoch, version), {})
                changes.setdefault(object_key, []).append(bucket)
    for folder in sorted(folders):
        checkpoint = _newest(folders[folder], recovery, keys, name_key)
        if checkpoint is not None:
            recovery.checkpoints[checkpoint.key] = checkpoint
    return recovery


def restore(checkpoints: Mapping[str, Checkpoint], registers: EngineRegisters) -> None:
    """Create the recovered registers in a fresh engine, each at the version that it had reached."""
    for key in sorted(checkpoints):
        registers.restore(key, [RegisterChange(checkpoints[key].value, None)])


def _list(bucket: Bucket) -> dict[str, tuple[str, int, int]] | SkyholdError:
    try:
        parsed = {info.key: parse_checkpoint_key(info.key) for info in bucket.list("checkpoints/")}
    except SkyholdError as error:
        return error
    return {key: place for key, place in parsed.items() if place is not None}


def _newest(listing: _Listing, recovery: Recovery, keys: FrameKeys, name_key: bytes) -> Checkpoint | None:
    for change in sorted(listing, reverse=True):
        found = [
            checkpoint
            for object_key, holders in sorted(listing[change].items())
            if (checkpoint := _read(object_key, holders, recovery, keys, name_key)) is not None
        ]
        if not found:
            continue
        if any(checkpoint.value != found[0].value for checkpoint in found):
            machines = ", ".join(sorted({checkpoint.machine for checkpoint in found}))
            raise Corrupt(
                f"Change {change[1]} of register {found[0].key} in epoch {change[0]} was written twice with different "
                f"data (by {machines}): two machines worked with one state folder",
                code=error_codes.CHECKPOINTS_FORK,
                hint="Keep the buckets as they are and ask for help: neither history may be dropped unseen",
                key=found[0].key,
            )
        return found[0]
    return None


def _read(
    object_key: str, holders: Sequence[Bucket], recovery: Recovery, keys: FrameKeys, name_key: bytes
) -> Checkpoint | None:
    for bucket in holders:
        try:
            stored = read_checkpoint(bucket, object_key)
        except Corrupt as error:
            recovery.damaged.append(DamagedCheckpoint(bucket.name, object_key, error.message))
            continue
        except SkyholdError as error:
            recovery.failed[bucket.name] = error
            continue
        try:
            return open_checkpoint(stored, object_key, keys, name_key)
        except (Corrupt, PermissionDenied) as error:
            # A flipped key number reads as a key that is missing.
            recovery.damaged.append(DamagedCheckpoint(bucket.name, object_key, error.message))
    return None
