"""Verifying a store: what every bucket holds, against everything that the registers reach.

Shallow: presence and sizes by listings, the history of refs, and every register in each bucket that votes. Deep: every
object of every bucket is read and accounted for, and every version is restored from each bucket on its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import ClassVar, Final

from skyhold import error_codes
from skyhold.consensus.migration import NAMES
from skyhold.consensus.no_majority import NOT_TO_BE_HAD, way_back
from skyhold.errors import Corrupt, SkyholdError
from skyhold.registry.index_check import IndexCheck
from skyhold.registry.inventory import Inventory, take_inventory
from skyhold.registry.losses import SCARRED, Loss, find_losses, remedy_of_losses, remedy_of_unreachable
from skyhold.registry.object_accounts import Account, Accounts, Unaccounted, account, settle, settle_lost
from skyhold.registry.restoring import Restored, restore_all
from skyhold.registry.root import register_key
from skyhold.storage.object_keys import pack_id_of
from skyhold.storage.pack_copies import PackCopies
from skyhold.storage.policy import Policy
from skyhold.storage.progress import Progress
from skyhold.storage.survey import Finding, Survey, lost_objects, survey
from skyhold.store.connection import Connection
from skyhold.store.membership import Membership, examine
from skyhold.store.register_copies import RegisterCopies, examine_registers
from skyhold.store.session import Session
from skyhold.units import Buffer

UNDECIDABLE: Final = frozenset({error_codes.NO_MAJORITY, *NOT_TO_BE_HAD})
"""The codes of a register that no majority of the voters returns: other repairs leave it unchanged."""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a bucket lags: objects that it lacks, and copies of registers that lack the last change."""

    missing: int
    registers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found.

    `findings` are objects that a bucket lacks or has damaged; `damage` is what else is wrong, in any bucket.
    `lagging` maps buckets to what they lack, which a sync copies. `unreachable` maps buckets to the reason
    why they could not be examined and what to do. `losses` are the versions that no bucket can restore completely.
    `remedy` is what to do next: a command that repairs what was found, or else a sentence.

    A deep one counts `versions`, and for each bucket how many it should hold (`placed`) and how many were restored from
    it alone, byte for byte (`restored`); it accounts for every object of each bucket (`accounted`), and names those
    that are not the store's (`unaccounted`), which is no fault.
    """

    deep: bool
    objects: int
    checked_bytes: int
    findings: tuple[Finding, ...]
    unreachable: dict[str, str]
    damage: tuple[str, ...]
    lagging: dict[str, Lag] = field(default_factory=dict)
    versions: int = 0
    placed: dict[str, int] = field(default_factory=dict)
    restored: dict[str, int] = field(default_factory=dict)
    accounted: dict[str, Account] = field(default_factory=dict)
    unaccounted: tuple[Unaccounted, ...] = ()
    losses: tuple[Loss, ...] = ()
    remedy: str | None = None
    in_json: ClassVar = ("sound",)

    @property
    def sound(self) -> bool:
        return not (self.findings or self.unreachable or self.damage)


@dataclass(frozen=True, slots=True)
class Look:
    """An examination of the whole store: what it should hold, what its buckets hold, and each copy of each register.
    `lost` are the keys of what no bucket has intact, and `losses` the versions that need it."""

    inventory: Inventory
    survey: Survey
    registers: RegisterCopies
    accounts: Accounts
    index: IndexCheck
    lost: frozenset[str] = frozenset()
    losses: tuple[Loss, ...] = ()

    @property
    def expected(self) -> dict[str, frozenset[str]]:
        """The buckets of each object that was examined, including objects that nothing requires there."""
        everything = dict(self.inventory.expected)
        for key, names in self.accounts.unreached.items():
            everything[key] = everything.get(key, frozenset()) | names
        return everything

    @property
    def damage(self) -> tuple[str, ...]:
        """What is wrong beside objects that a bucket lacks or has damaged."""
        names = {register_key(item.id): item.name for item in self.inventory.repositories}
        named = {register_key(item.id) for item in self.inventory.unread}
        found = list(self.inventory.damage)
        for key, reason in self.registers.unsettled.items():
            if key not in named and not (key == NAMES and self.inventory.unreadable):
                what = f"the register of {names[key]}" if key in names else f"register {key}"
                found.append(f"No majority of the voters agrees on {what}: {reason}. See what is left: {way_back(key)}")
        return (*found, *self.index.sentences(self.needed_packs))

    @property
    def needed_packs(self) -> frozenset[str]:
        """The keys of the packs that versions need."""
        return frozenset[str]().union(*(item.packs for item in self.inventory.repositories))

    @property
    def way_out(self) -> str | None:
        """What to do first for a register that cannot be read, if there is one: other repairs leave it unchanged."""
        hints = [self.inventory.way_out, *(item.hint for item in self.inventory.unread if item.code in UNDECIDABLE)]
        if not self.registers.failed:
            hints += [f"See what is left: {way_back(key)}" for key in self.registers.unsettled]
        return next((hint for hint in hints if hint), None)

    def unreachable(self, members: Mapping[str, Membership]) -> dict[str, SkyholdError]:
        """The error of each bucket that could not be examined."""
        errors = {name: bucket.error for name, bucket in self.survey.buckets.items() if bucket.error is not None}
        errors |= self.registers.failed
        errors |= {name: member.error for name, member in members.items() if member.error is not None}
        return dict(sorted(errors.items()))

    def remedy(self, findings: Iterable[Finding], unreachable: Mapping[str, SkyholdError]) -> str | None:
        """What to do about what was found: first what must come before the rest, then what a command repairs, then
        what only a user can bring back. A pack that no bucket has intact may be rebuilt from others."""
        if self.way_out is not None:
            return self.way_out
        mendable = [found for found in findings if found.key not in self.lost or pack_id_of(found.key) is not None]
        if any(found.problem == "damaged" or found.key in self.lost for found in mendable) or self.index.sentences(
            self.needed_packs
        ):
            return "skyhold repair"
        if mendable or self.inventory.lost_registers:
            return "skyhold sync"
        if unreachable:
            return remedy_of_unreachable(unreachable)
        if self.losses:
            return remedy_of_losses(self.losses)
        return SCARRED if self.lost or self.damage else None


def verify_store(connection: Connection, *, deep: bool, repository: str | None, progress: Progress) -> VerifyReport:
    """Compare all buckets with what the registers reach. Changes nothing."""
    members = examine(connection)
    with pack_copies(connection, deep=deep) as copies, connection.session(Policy(), fresh=True) as session:
        look = look_at(connection, session, members, progress, deep=deep, repository=repository, copies=copies)
        restored = Restored()
        if deep:
            lacking = {(finding.bucket, finding.key) for finding in look.survey.findings}
            restored = restore_all(connection, session, look.inventory, copies, progress, lacking=lacking)
    doubt(connection, restored.findings.values())
    found = [*look.survey.findings, *look.registers.findings, *restored.findings.values()]
    findings = sorted(found, key=lambda finding: (finding.bucket, finding.key))
    unreachable = restored.failed | look.unreachable(members)
    return VerifyReport(
        deep=deep,
        objects=sum(bucket.held for bucket in look.survey.buckets.values()) + _count(look.registers),
        checked_bytes=look.survey.checked_bytes + look.registers.read_bytes,
        findings=tuple(findings),
        unreachable={name: with_way_out(error) for name, error in sorted(unreachable.items())},
        damage=(*look.damage, *restored.damage),
        lagging=_lagging(findings, look.registers),
        versions=restored.versions,
        placed=restored.placed,
        restored=restored.whole,
        accounted=look.accounts.of,
        unaccounted=tuple(sorted(look.accounts.unaccounted, key=lambda item: (item.bucket, item.key))),
        losses=look.losses,
        remedy=look.remedy(findings, unreachable) or (SCARRED if restored.damage else None),
    )


def look_at(
    connection: Connection,
    session: Session,
    members: Mapping[str, Membership],
    progress: Progress,
    *,
    deep: bool,
    copies: PackCopies,
    repository: str | None = None,
    include_vacant: bool = False,
) -> Look:
    """Examine the buckets that are members; with `include_vacant` also those that may be readmitted. A deep examination
    reads everything, and records the packs in `copies`. Raises where the names of the repositories cannot be
    read and nothing is damaged: then too few of the voters answer."""
    buckets = {
        name: bucket
        for name, bucket in connection.buckets().items()
        if members[name].error is None or (include_vacant and members[name].readmissible)
    }
    voters = [name for name in buckets if members[name].error is None]
    inventory, registers = _read_registers(connection, session, voters, repository)
    whole_store = deep and repository is None
    accounts = account(connection, inventory, buckets) if whole_store else Accounts()
    index = IndexCheck(connection.checker)
    look = Look(inventory, Survey(deep, {}), registers, accounts, index)
    intact: Counter[str] = Counter()
    lock = Lock()

    def note(bucket: str, key: str, body: Buffer) -> None:
        pack_id = pack_id_of(key)
        if deep and pack_id is not None:
            copies.note(bucket, pack_id, body)
        if whole_store:
            index.note(key, body)
        if key in accounts.unreached:
            with lock:
                intact[key] += 1

    found = survey(buckets, look.expected, connection.checker, progress, deep=deep, intact=note)
    doubt(connection, found.findings)
    settle(connection, accounts, inventory, found.findings, intact)
    lost = frozenset[str]()
    if len(buckets) == len(members):  # an unreachable bucket may have it
        lost = lost_objects(found, look.expected, buckets, connection.checker) - inventory.checkpoints.keys()
    settle_lost(accounts, found.findings, lost)
    return replace(look, survey=found, lost=lost, losses=find_losses(session, inventory, lost))


def doubt(connection: Connection, findings: Iterable[Finding]) -> None:
    """A later push that uses a pack which is damaged somewhere must not rely on earlier verifications."""
    for key in {finding.key for finding in findings if finding.problem == "damaged"}:
        if pack_id_of(key) is not None:
            connection.chunk_index.doubt(key)


def pack_copies(connection: Connection, *, deep: bool) -> PackCopies:
    """Where a deep examination keeps the packs that it reads: beside the cache, within the size limit of the cache."""
    cache = connection.cache
    return PackCopies(bytes.fromhex(connection.document.store), cache.path, cache.limit_bytes if deep else 0)


def with_way_out(error: SkyholdError) -> str:
    """The message of an error, with its hint."""
    return f"{error.message}. {error.hint}" if error.hint else error.message


def _read_registers(
    connection: Connection, session: Session, voters: list[str], repository: str | None
) -> tuple[Inventory, RegisterCopies]:
    try:
        inventory = take_inventory(connection, session, repository)
    except SkyholdError as error:
        if repository is not None:
            raise
        registers = examine_registers(connection, voters)
        if NAMES not in registers.unsettled and not isinstance(error, Corrupt):
            raise
        reason = f"The names of the repositories cannot be read, so none of them was examined: {with_way_out(error)}"
        first = error.hint if error.code in UNDECIDABLE else None
        none = Inventory((), {}, frozenset(registers.keys), (), unreadable=reason, way_out=first)
        return none, registers
    return inventory, examine_registers(connection, voters, None if repository is None else inventory.registers)


def _count(registers: RegisterCopies) -> int:
    return sum(map(len, registers.read.values()))


def _lagging(findings: list[Finding], registers: RegisterCopies) -> dict[str, Lag]:
    missing = Counter(finding.bucket for finding in findings if finding.problem == "missing")
    return {
        name: Lag(missing[name], registers.lagging.get(name, ())) for name in sorted({*missing, *registers.lagging})
    }
