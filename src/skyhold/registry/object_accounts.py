"""Accounting for every object of every bucket: what the registers reach, what belongs to the store but is not
reached, and what is not an object of the store.

An unreached object is no fault: interrupted pushes leave such objects, and so do recoveries and past epochs. It is
still read, since an earlier state may need it. An object that is not the store's is named and not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from skyhold.buckets.admission import PROBE_PREFIX
from skyhold.buckets.bounded import read_bounded
from skyhold.buckets.bucket import Bucket
from skyhold.consensus.acceptor_object import ACCEPTOR_BYTES_MAX, decode_acceptor, parse_object_key
from skyhold.consensus.checkpoint import parse_checkpoint_key
from skyhold.errors import Corrupt, NotFound, PermissionDenied, SkyholdError
from skyhold.registry.inventory import Inventory
from skyhold.storage.object_keys import INDEXES, STORE_DOCUMENT, blob_name_of, pack_id_of
from skyhold.storage.survey import Finding
from skyhold.store.connection import Connection
from skyhold.store.membership import recorded_incarnations

NAMED_MAX: Final = 1_000
"""How many unknown or useless objects of a bucket are named; all are counted."""
RESERVED: Final = frozenset(("observed", "journal", "windows", "bell"))
"""The first parts of keys of objects that only report something: no guarantee depends on them."""

Place = Literal["referenced", "unreferenced", "unknown"]


@dataclass(frozen=True, slots=True)
class Account:
    """How many objects of a bucket the registers reach, how many belong to the store without being reached, and how
    many are none of its objects."""

    referenced: int = 0
    unreferenced: int = 0
    unknown: int = 0


@dataclass(frozen=True, slots=True)
class Unaccounted:
    """An object that is not the store's (`unknown`), or a damaged one of the store that no version and no register
    needs (`useless`)."""

    bucket: str
    key: str
    reason: str
    kind: Literal["unknown", "useless"]


@dataclass(slots=True)
class Accounts:
    """The accounts of all buckets that could be listed. `unreached` maps each object that is read although nothing
    requires it to the buckets that contain it."""

    of: dict[str, Account] = field(default_factory=dict)
    unreached: dict[str, frozenset[str]] = field(default_factory=dict)
    unaccounted: list[Unaccounted] = field(default_factory=list)
    _named: Counter[str] = field(default_factory=Counter)

    def name(self, bucket: str, key: str, reason: str, kind: Literal["unknown", "useless"] = "useless") -> None:
        """Name an object, unless so many of its bucket are named already."""
        self._named[bucket] += 1
        if self._named[bucket] <= NAMED_MAX:
            self.unaccounted.append(Unaccounted(bucket, key, reason, kind))


def account(connection: Connection, inventory: Inventory, buckets: Mapping[str, Bucket]) -> Accounts:
    """Account for every object of these buckets. A bucket that does not answer has no account: the survey names it."""
    accounts = Accounts()
    incarnations: dict[str, set[str]] = {}  # of each bucket, that the kept changes of the configuration name
    for name, incarnation in recorded_incarnations(connection):
        incarnations.setdefault(name, set()).add(incarnation)
    for name, bucket in buckets.items():
        try:
            accounts.of[name] = _account(connection, inventory, bucket, accounts, incarnations.get(name, set()))
        except SkyholdError:
            continue
    return accounts


def settle(
    connection: Connection,
    accounts: Accounts,
    inventory: Inventory,
    findings: list[Finding],
    intact: Mapping[str, int],
) -> None:
    """Remove from the findings what is no fault of the store: damaged objects that nothing requires in their bucket,
    unless an intact copy can replace them. `intact` counts the intact copies of unreached objects. Nothing is removed
    while it is unknown what the registers reach; nor are checkpoints of registers on this machine, since a recovery
    needs them."""
    if not inventory.complete:
        return
    for finding in list(findings):
        name, key = finding.bucket, finding.key
        kept = not connection.shared and parse_checkpoint_key(key) is not None
        if kept or name not in accounts.unreached.get(key, ()):
            continue
        if key in inventory.expected:
            accounts.name(name, key, f"no policy requires it in this bucket: {finding.detail}")
        elif finding.problem == "missing" or not intact.get(key):
            accounts.name(name, key, f"no version needs it, and no bucket has it intact: {finding.detail}")
        else:
            continue
        findings.remove(finding)


def settle_lost(accounts: Accounts, findings: list[Finding], lost: Collection[str]) -> None:
    """Remove from the findings the index segments that no bucket has intact: only a push needs them, to skip chunks
    that are stored already."""
    for finding in list(findings):
        if finding.key in lost and finding.key.startswith(f"{INDEXES}/"):
            accounts.name(
                finding.bucket, finding.key, f"no version needs it, and no bucket has it intact: {finding.detail}"
            )
            findings.remove(finding)


def _account(
    connection: Connection, inventory: Inventory, bucket: Bucket, accounts: Accounts, incarnations: set[str]
) -> Account:
    counted: Counter[Place] = Counter()
    name = bucket.name
    for info in bucket.list():
        key = info.key
        if key == STORE_DOCUMENT or name in inventory.expected.get(key, ()):
            counted["referenced"] += 1
        elif blob_name_of(key) or pack_id_of(key) or parse_checkpoint_key(key):
            accounts.unreached[key] = accounts.unreached.get(key, frozenset()) | {name}
            if key in inventory.expected:
                counted["referenced"] += 1
            else:
                counted["unreferenced"] += 1
        elif parse_object_key(key) is not None:
            if _is_present(connection, inventory, key, name):
                counted["referenced"] += 1
                continue
            counted["unreferenced"] += 1
            reason = _why_closed(connection, bucket, key, incarnations)
            if reason is not None:
                accounts.name(name, key, reason)
        elif key.startswith(f"{PROBE_PREFIX}/") or key.partition("/")[0] in RESERVED:
            counted["unreferenced"] += 1
        else:
            counted["unknown"] += 1
            accounts.name(name, key, "it is not an object of the store", "unknown")
    return Account(counted["referenced"], counted["unreferenced"], counted["unknown"])


def _is_present(connection: Connection, inventory: Inventory, key: str, bucket: str) -> bool:
    """Whether it is a copy of a register of the present epoch, in a voter: these are examined separately."""
    place, engine = parse_object_key(key), connection.document.engine
    return (
        place is not None
        and place[0] == engine.epoch
        and place[1] in inventory.registers
        and bucket in {name for name, _ in engine.voters}
    )


def _why_closed(connection: Connection, bucket: Bucket, key: str, incarnations: set[str]) -> str | None:
    """Why an acceptor of a past epoch does not open under any recorded incarnation of the bucket; None where it
    does."""
    place = parse_object_key(key)
    if place is None:
        raise AssertionError(key)
    try:
        stored = read_bounded(bucket, key, ACCEPTOR_BYTES_MAX)
    except Corrupt as error:
        return error.message
    except NotFound:
        return None
    for incarnation in incarnations:
        try:
            decode_acceptor(stored, *place, incarnation, connection.keys)
        except (Corrupt, PermissionDenied):
            continue
        return None
    return "it is of an earlier epoch, and damaged or of an unrecorded membership; nothing reads it"
