"""Checkpoints: what a change of a machine's register leaves in the buckets, so that the refs outlive the machine.

The change is committed by the engine first and acknowledged last; in between its value is written to the buckets
(format.md, 11). A crash in between leaves it pending: the next process that opens the store writes it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from time import monotonic
from typing import Final, Protocol

import rfc8785
from blake3 import blake3

from skyhold import error_codes
from skyhold.buckets.bounded import read_bounded
from skyhold.buckets.bucket import Bucket
from skyhold.codec.frame import FrameKeys, Kind, decode_frame, encode_frame
from skyhold.consensus.register import (
    VERSION_MAX,
    EngineRegisters,
    RegisterChange,
    Resync,
    Versioned,
    check_register_key,
)
from skyhold.errors import Conflict, Corrupt, InvalidInput, OutcomeUnknown, SkyholdError
from skyhold.units import KIB

CHECKPOINTS_KEPT: Final = 8
STRAGGLER_GRACE_S: Final = 2.0
EPOCH_MAX: Final = 2**32 - 1
CHECKPOINT_BYTES_MAX: Final = 64 * KIB
"""Twice `DATA_BYTES_MAX` in base64 (the data, and the configuration after a seal), with the frame and other fields."""

_FOLDER: Final = "checkpoints"
_OBJECT: Final = re.compile(r"checkpoints/([0-9a-f]{32})/([0-9a-f]{8})-([0-9a-f]{16})-[0-9a-f]{32}")


class CheckpointLog(Protocol):
    """Where an engine notes which change of a register has reached the buckets."""

    def pending_checkpoints(self) -> tuple[str, ...]:
        """The keys whose newest change is not noted."""

    def last_checkpoint(self, key: str) -> tuple[int, str] | None:
        """Version and digest (SHA-256 of the body, hex) of the checkpoint that was noted last."""

    def note_checkpoint(self, key: str, version: int, digest: str, configured: int) -> bool:
        """Note a checkpoint; one of an older version than the noted one changes nothing. False, and nothing is noted,
        where the register `config` is not at version `configured` any more."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The value of a register after one change, as a bucket keeps it. Checkpoints sort by (epoch, version)."""

    key: str
    epoch: int
    value: Versioned
    machine: str
    previous: str | None

    def encode(self) -> bytes:
        """Canonical JSON. Raises `InvalidInput` for what a reader would refuse."""
        self._check()
        body: dict[str, str | int | None] = {
            "key": self.key,
            "term": self.epoch,
            "version": self.value.version,
            "data": base64.b64encode(self.value.data).decode(),
            "machine": self.machine,
            "previous": self.previous,
        }
        if self.value.next_configuration is not None:
            body["next_configuration"] = base64.b64encode(self.value.next_configuration).decode()
        return rfc8785.dumps(body)

    @classmethod
    def decode(cls, body: bytes, object_key: str, name_key: bytes) -> Checkpoint:
        """The checkpoint in a frame's body. Raises `Corrupt` unless it belongs into this object."""
        try:
            fields = json.loads(body)
            sealed = fields.get("next_configuration")
            value = Versioned(
                fields["version"],
                base64.b64decode(fields["data"], validate=True),
                None if sealed is None else base64.b64decode(sealed, validate=True),
            )
            checkpoint = cls(str(fields["key"]), fields["term"], value, str(fields["machine"]), fields["previous"])
            checkpoint._check()
        except (ValueError, KeyError, TypeError, AttributeError, binascii.Error, InvalidInput) as error:
            raise _damaged(object_key, f"it is no checkpoint: {error!r}") from error
        if not object_key.startswith(checkpoint_prefix(checkpoint.key, checkpoint.epoch, value.version, name_key)):
            raise _damaged(object_key, "it is that of another register or change")
        return checkpoint

    def _check(self) -> None:
        check_register_key(self.key)
        for what, counter, least, greatest in (
            ("term", self.epoch, 0, EPOCH_MAX), ("version", self.value.version, 1, VERSION_MAX),
        ):  # fmt: skip
            if type(counter) is not int or not least <= counter <= greatest:
                raise InvalidInput(
                    f"Expected the {what} of a checkpoint from {least} to {greatest} but got {counter!r}",
                    code=error_codes.INVALID_VERSION,
                )


@dataclass(frozen=True, slots=True)
class Holders:
    """The buckets that hold checkpoints, and how many of them have to, in the configuration that register `config` has
    at this version."""

    buckets: tuple[Bucket, ...]
    needed: int
    configured: int

    def __post_init__(self) -> None:
        if not 1 <= self.needed <= len(self.buckets):
            raise ValueError(f"needed={self.needed} of {len(self.buckets)} buckets")


class CheckpointedRegisters(EngineRegisters):
    """Wraps the registers of this machine: a change is acknowledged once as many of the store's buckets as `holders`
    requires hold its checkpoint. It is called for every change, since another process may have changed the
    configuration.

    `epoch` and `machine` are those of the store's engine in `store.json`. `read_holder` reads both in a bucket's
    `store.json`: where the epoch is greater, or another machine's, the store was recovered elsewhere, and nothing is
    acknowledged here any more (`Conflict` code `store_recovered_elsewhere`).

    Where too few buckets take a checkpoint a change raises `OutcomeUnknown` code `checkpoint_pending`: it is committed
    on this machine and would be lost with it. The next change of the register, or `flush`, completes it; a process that
    opens the store calls `flush` first.
    """

    def __init__(
        self,
        registers: EngineRegisters,
        log: CheckpointLog,
        holders: Callable[[], Holders],
        keys: FrameKeys,
        name_key: bytes,
        *,
        epoch: int,
        machine: str,
        read_holder: Callable[[Bucket], tuple[int, str]],
    ) -> None:
        if not 0 <= epoch <= EPOCH_MAX:
            raise ValueError(f"term={epoch}")
        self._registers = registers
        self._log = log
        self._holders = holders
        self._keys = keys
        self._name_key = name_key
        self._epoch = epoch
        self._machine = machine
        self._read_holder = read_holder

    def read(self, key: str) -> Versioned | None:
        return self._registers.read(key)

    def compare_and_set(self, key: str, expected_version: int, data: bytes, operation_id: str) -> Versioned:
        value = self._registers.compare_and_set(key, expected_version, data, operation_id)
        self._settle(key)
        return value

    def configured(self) -> int | None:
        return self._registers.configured()

    def compare_and_set_in(
        self, configured: int | None, key: str, expected_version: int, data: bytes, operation_id: str
    ) -> Versioned:
        value = self._registers.compare_and_set_in(configured, key, expected_version, data, operation_id)
        self._settle(key)
        return value

    def outcome(self, key: str, operation_id: str) -> Versioned | None:
        value = self._registers.outcome(key, operation_id)
        self._settle(key)
        return value

    def watch(self, key: str, after_version: int, *, timeout_s: float) -> Sequence[Versioned] | Resync:
        return self._registers.watch(key, after_version, timeout_s=timeout_s)

    def changes(self, key: str) -> Sequence[RegisterChange]:
        changes = self._registers.changes(key)
        if changes and changes[-1].value.sealed:
            self._settle(key)  # another epoch begins with it, so a recovery has to know it
        return changes

    def list(self, prefix: str = "") -> list[str]:
        return self._registers.list(prefix)

    def seal(self, key: str, expected_version: int, next_configuration: bytes) -> Versioned:
        value = self._registers.seal(key, expected_version, next_configuration)
        self._settle(key)
        return value

    def restore(self, key: str, changes: Sequence[RegisterChange]) -> None:
        self._registers.restore(key, changes)
        self._settle(key)

    def flush(self) -> tuple[str, ...]:
        """Write the checkpoints that are pending; returns the keys of their registers. Raises as a change does."""
        pending = self._log.pending_checkpoints()
        for key in pending:
            self._settle(key)
        return pending

    def checkpointed_version(self, key: str) -> int | None:
        """Version of the newest change of a register whose checkpoint is known to have reached its buckets."""
        noted = self._log.last_checkpoint(key)
        return None if noted is None else noted[0]

    def checkpoint_again(self, key: str, *, over: str | None = None) -> None:
        """Write the checkpoint of a register's newest change once more: the buckets have lost it, or all of them hold
        it damaged, in the object `over`. Raises as a change does."""
        self._settle(key, again=True, over=over)

    def is_new(self) -> bool:
        return self._registers.is_new()

    def close(self) -> None:
        self._registers.close()

    def _settle(self, key: str, *, again: bool = False, over: str | None = None) -> None:
        """Write the checkpoint of a register's newest change, unless it is noted. It covers all changes before."""
        while True:
            value = self._registers.read(key)
            noted = self._log.last_checkpoint(key)
            if value is None or (noted is not None and noted[0] >= value.version and not again):
                return
            holders = self._holders()
            digest = self._write_to(holders, key, value, noted[1] if noted else None, over)
            if self._log.note_checkpoint(key, value.version, digest, holders.configured):
                return
            # The configuration was changed meanwhile: other buckets have to hold it by now.

    def _write_to(
        self, holders: Holders, key: str, value: Versioned, previous: str | None, over: str | None = None
    ) -> str:
        """Write a checkpoint to as many buckets as are needed, or raise; its digest. It takes the place of the object
        `over` where that is of the same change."""
        body = Checkpoint(key, self._epoch, value, self._machine, previous).encode()
        prefix = checkpoint_prefix(key, self._epoch, value.version, self._name_key)
        object_key = over if over is not None and over.startswith(prefix) else prefix + secrets.token_hex(16)
        frame = encode_frame(Kind.CHECKPOINT, body, context=object_key, keys=self._keys)
        failures = _write_to_all(
            holders.buckets, lambda bucket: self._write(bucket, object_key, frame, value.version), holders.needed
        )
        fenced = next((error for error in failures.values() if isinstance(error, Conflict)), None)
        if fenced is not None:
            raise fenced
        if len(holders.buckets) - len(failures) < holders.needed:
            raise _pending(key, value.version, failures, holders)
        return hashlib.sha256(body).hexdigest()

    def _write(self, bucket: Bucket, object_key: str, frame: bytes, version: int) -> None:
        bucket.write(object_key, frame)
        epoch, machine = self._read_holder(bucket)
        if epoch > self._epoch or (epoch == self._epoch and machine != self._machine):
            raise Conflict(
                f"The store was recovered on another machine: bucket `{bucket.name}` is at epoch {epoch}, this machine "
                f"at {self._epoch}; changes made here no longer count",
                code=error_codes.STORE_RECOVERED_ELSEWHERE,
                hint="Work on that machine: `skyhold recover` here would shut it out",
                bucket=bucket.name,
                epoch=epoch,
            )
        if version % CHECKPOINTS_KEPT == 0:
            _prune(bucket, object_key.rpartition("/")[0] + "/")


def checkpoint_prefix(key: str, epoch: int, version: int, name_key: bytes) -> str:
    """The beginning of the keys of all checkpoints of one change of a register; 32 random hex characters follow."""
    folder = blake3(f"register/{key}".encode(), key=name_key).hexdigest()[:32]
    return f"{_FOLDER}/{folder}/{epoch:08x}-{version:016x}-"


def parse_checkpoint_key(object_key: str) -> tuple[str, int, int] | None:
    """Folder, epoch and version in the key of a checkpoint, or None for another key."""
    match = _OBJECT.fullmatch(object_key)
    return (match[1], int(match[2], 16), int(match[3], 16)) if match else None


def read_checkpoint(bucket: Bucket, object_key: str) -> bytearray:
    """The object of a checkpoint as a bucket holds it. Raises `Corrupt` where it is longer than one can be, before it
    is taken into memory, and what a driver raises."""
    return read_bounded(bucket, object_key, CHECKPOINT_BYTES_MAX)


def open_checkpoint(
    stored: bytes | bytearray | memoryview, object_key: str, keys: FrameKeys, name_key: bytes
) -> Checkpoint:
    """The checkpoint in an object. Raises `Corrupt`, and `PermissionDenied` where its data key is missing."""
    body = decode_frame(stored, kind=Kind.CHECKPOINT, context=object_key, keys=keys)
    return Checkpoint.decode(body, object_key, name_key)


def _write_to_all(
    buckets: Sequence[Bucket], write: Callable[[Bucket], None], needed: int
) -> dict[str, SkyholdError | None]:
    """Write to all buckets at once; returns the failures by bucket's name, None where one was not waited for.

    Once `needed` have it the others get a short grace: a stalled cloud does not delay the change.
    """
    executor = ThreadPoolExecutor(len(buckets), thread_name_prefix="checkpoint")
    tasks: dict[Future[None], Bucket] = {executor.submit(write, bucket): bucket for bucket in buckets}
    failures: dict[str, SkyholdError | None] = {bucket.name: None for bucket in buckets}
    deadline_s: float | None = None
    waiting = set(tasks)
    while waiting and (deadline_s is None or monotonic() < deadline_s):
        done, waiting = wait(
            waiting, None if deadline_s is None else deadline_s - monotonic(), return_when=FIRST_COMPLETED
        )
        for task in done:
            error = task.exception()
            if error is None:
                del failures[tasks[task].name]
            elif isinstance(error, SkyholdError):
                failures[tasks[task].name] = error
            else:
                executor.shutdown(wait=False)
                raise error
        if deadline_s is None and len(buckets) - len(failures) >= needed:
            deadline_s = monotonic() + STRAGGLER_GRACE_S
    executor.shutdown(wait=False)
    return failures


def _prune(bucket: Bucket, folder: str) -> None:
    """Delete all but the last checkpoints of a register. What fails here is done by a later change."""
    try:
        keys = sorted(info.key for info in bucket.list(folder) if parse_checkpoint_key(info.key))
        for key in keys[:-CHECKPOINTS_KEPT]:
            bucket.delete(key)
    except SkyholdError:
        return


def _pending(key: str, version: int, failures: Mapping[str, SkyholdError | None], holders: Holders) -> OutcomeUnknown:
    reasons = "; ".join(f"`{name}`: {error.message if error else 'no answer yet'}" for name, error in failures.items())
    return OutcomeUnknown(
        f"Change {version} of register {key} is committed on this machine, but its checkpoint reached "
        f"{len(holders.buckets) - len(failures)} of the {holders.needed} buckets that must hold it ({reasons})",
        code=error_codes.CHECKPOINT_PENDING,
        hint="Run the command again, or `skyhold sync`, when the buckets answer; until then do not lose this machine",
        key=key,
        version=version,
        buckets=sorted(failures),
    )


def _damaged(object_key: str, why: str) -> Corrupt:
    return Corrupt(f"Checkpoint {object_key} is damaged: {why}", code=error_codes.CHECKPOINT_DAMAGED, key=object_key)
