"""Verifying a store: what every bucket holds, against everything that the registers reach.

Shallow: presence and sizes by listings, the history of refs, and every register in each bucket that votes. Deep: every
object of every bucket is read and accounted for, and every version is restored from each bucket on its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from threading import Lock

from skyhold.consensus.carrying import NAMES
from skyhold.consensus.no_majority import way_back
from skyhold.errors import Corrupt, SkyholdError
from skyhold.registry.accounting import Account, Accounts, Unaccounted, account, settle
from skyhold.registry.connection import Connection
from skyhold.registry.index_check import IndexCheck
from skyhold.registry.inventory import Inventory, take_inventory
from skyhold.registry.membership import Membership, examine
from skyhold.registry.rebuilding import lost_files
from skyhold.registry.register_copies import RegisterCopies, examine_registers
from skyhold.registry.restoring import Restored, restore_all
from skyhold.registry.root import register_key
from skyhold.registry.session import Session
from skyhold.storage.names import pack_id_of
from skyhold.storage.pack_copies import PackCopies
from skyhold.storage.policy import Policy
from skyhold.storage.progress import Progress
from skyhold.storage.survey import Finding, Survey, survey
from skyhold.units import Buffer


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a bucket lags: objects that it lacks, and copies of registers that the last change has passed over."""

    missing: int
    registers: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        return {"missing": self.missing, "registers": list(self.registers)}


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found.

    `findings` are objects that a bucket lacks or has damaged; `damage` says what else is wrong, wherever it lies.
    `lagging` maps buckets to what they have not got yet, which a sync brings. `unreachable` maps buckets to the reason
    why they could not be looked at and what to do. `way_out` says what to do first, where a repair does not help.

    A deep one counts `versions`, and for each bucket how many it shall hold (`placed`) and how many were restored from
    it alone, byte for byte (`restored`); it accounts for every object of each bucket (`accounted`), and names those
    that are none of the store's (`unaccounted`), which is no fault.
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
    way_out: str | None = None

    @property
    def sound(self) -> bool:
        return not (self.findings or self.unreachable or self.damage)

    def to_json(self) -> dict[str, object]:
        return {
            "deep": self.deep,
            "sound": self.sound,
            "objects": self.objects,
            "checked_bytes": self.checked_bytes,
            "findings": [to_json(finding) for finding in self.findings],
            "lagging": {name: lag.to_json() for name, lag in self.lagging.items()},
            "unreachable": self.unreachable,
            "damage": list(self.damage),
            "versions": self.versions,
            "placed": self.placed,
            "restored": self.restored,
            "accounted": {name: found.to_json() for name, found in self.accounted.items()},
            "unaccounted": [to_json(item) for item in self.unaccounted],
        }


@dataclass(frozen=True, slots=True)
class Look:
    """A look at the whole store: what it shall hold, what its buckets hold, and each copy of each register."""

    inventory: Inventory
    survey: Survey
    registers: RegisterCopies
    accounts: Accounts
    index: IndexCheck

    @property
    def expected(self) -> dict[str, frozenset[str]]:
        """The buckets of each object that was looked at, also of those that nothing asks for there."""
        everything = dict(self.inventory.expected)
        for key, names in self.accounts.unreached.items():
            everything[key] = everything.get(key, frozenset()) | names
        return everything

    def nowhere(self) -> list[str]:
        """The keys of objects that are missing or damaged in every bucket that was looked at and shall have them."""
        lacking: dict[str, set[str]] = {}
        for finding in self.survey.findings:
            lacking.setdefault(finding.key, set()).add(finding.bucket)
        return sorted(key for key, names in lacking.items() if self.expected[key] & self.survey.buckets.keys() <= names)

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
        """What to do first for a register that cannot be read, if there is one: other mending leaves it as it is."""
        hints = [self.inventory.way_out, *(item.hint for item in self.inventory.unread)]
        if not self.registers.failed:
            hints += [f"See what is left: {way_back(key)}" for key in self.registers.unsettled]
        return next((hint for hint in hints if hint), None)

    def unreachable(self, members: Mapping[str, Membership]) -> dict[str, str]:
        """Why each bucket that could not be looked at could not be, and what to do."""
        errors = {name: bucket.error for name, bucket in self.survey.buckets.items() if bucket.error is not None}
        errors |= self.registers.failed
        errors |= {name: member.error for name, member in members.items() if member.error is not None}
        return {name: with_way_out(error) for name, error in sorted(errors.items())}


def verify_store(connection: Connection, *, deep: bool, repository: str | None, progress: Progress) -> VerifyReport:
    """Compare all buckets with what the registers reach. Changes nothing."""
    members = examine(connection)
    with pack_copies(connection, deep=deep) as copies, connection.session(Policy()) as session:
        look = look_at(connection, session, members, progress, deep=deep, repository=repository, copies=copies)
        restored = Restored()
        if deep:
            lacking = {(finding.bucket, finding.key) for finding in look.survey.findings}
            restored = restore_all(connection, session, look.inventory, copies, progress, lacking=lacking)
    doubt(connection, restored.findings.values())
    found = [*look.survey.findings, *look.registers.findings, *restored.findings.values()]
    findings = sorted(found, key=lambda finding: (finding.bucket, finding.key))
    unreachable = {name: with_way_out(error) for name, error in restored.failed.items()} | look.unreachable(members)
    lost = [] if unreachable else [lost_files(what, paths) for what, paths in restored.lost.items()]
    nowhere = [] if deep or unreachable else _nowhere(look)
    return VerifyReport(
        deep=deep,
        objects=sum(bucket.held for bucket in look.survey.buckets.values()) + _count(look.registers),
        checked_bytes=look.survey.checked_bytes + look.registers.read_bytes,
        findings=tuple(findings),
        unreachable=unreachable,
        damage=(*look.damage, *restored.damage, *lost, *nowhere),
        lagging=_lagging(findings, look.registers),
        versions=restored.versions,
        placed=restored.placed,
        restored=restored.whole,
        accounted=look.accounts.of,
        unaccounted=tuple(sorted(look.accounts.unaccounted, key=lambda item: (item.bucket, item.key))),
        way_out=look.way_out,
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
    """Look at the buckets that are members; with `include_vacant` also at those that may become some again. A deep look
    reads everything, and takes note of the packs in `copies`. Raises where the names of the repositories cannot be
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
    return replace(look, survey=found)


def doubt(connection: Connection, findings: Iterable[Finding]) -> None:
    """The next push that uses a pack which is damaged somewhere shall not rely on what was verified earlier."""
    for key in {finding.key for finding in findings if finding.problem == "damaged"}:
        if pack_id_of(key) is not None:
            connection.catalogue.doubt(key)


def pack_copies(connection: Connection, *, deep: bool) -> PackCopies:
    """Where a deep look keeps the packs that it reads: beside the cache, and as much as the cache may take."""
    cache = connection.cache
    return PackCopies(bytes.fromhex(connection.document.store), cache.path, cache.limit_bytes if deep else 0)


def with_way_out(error: SkyholdError) -> str:
    """What an error says, with its hint."""
    return f"{error.message}. {error.hint}" if error.hint else error.message


def to_json(record: object) -> dict[str, object]:
    """A record of plain fields for programs."""
    names: Iterator[str] = iter(record.__slots__)  # type: ignore[attr-defined]
    values = {name: getattr(record, name) for name in names}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


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
        reason = (
            f"The names of the repositories cannot be read, so nothing of them was looked at: {with_way_out(error)}"
        )
        none = Inventory((), {}, frozenset(registers.keys), (), unreadable=reason, way_out=error.hint)
        return none, registers
    return inventory, examine_registers(connection, voters, None if repository is None else inventory.registers)


def _count(registers: RegisterCopies) -> int:
    return sum(map(len, registers.read.values()))


def _nowhere(look: Look) -> list[str]:
    """What is said of objects that no bucket has: no `sync` could bring them."""
    keys = look.nowhere()
    if not keys:
        return []
    more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    return [
        f"No bucket has {keys[0]}{more}. `skyhold repair` builds packs from other copies of their chunks; "
        "`skyhold verify --deep` names the versions that need them"
    ]


def _lagging(findings: list[Finding], registers: RegisterCopies) -> dict[str, Lag]:
    missing = Counter(finding.bucket for finding in findings if finding.problem == "missing")
    return {name: Lag(missing[name], registers.behind.get(name, ())) for name in sorted({*missing, *registers.behind})}
