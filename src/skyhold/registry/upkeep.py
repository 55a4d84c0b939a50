"""Looking after a store: status, verify, sync and repair, over everything that its registers reach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from skyhold.errors import SkyholdError
from skyhold.registry.checkpoints import write_lost_checkpoints
from skyhold.registry.connection import Connection
from skyhold.registry.damage import UnreadRepository
from skyhold.registry.inventory import Inventory, RepositoryInventory, take_inventory
from skyhold.registry.membership import Membership, examine
from skyhold.registry.reconfiguring import admit_again, spread
from skyhold.registry.voting import EngineStatus, engine_of, level_voters
from skyhold.storage.names import pack_id_of
from skyhold.storage.policy import Policy, durability
from skyhold.storage.progress import Progress, Silence
from skyhold.storage.survey import Finding, Survey, repair, survey


@dataclass(frozen=True, slots=True)
class BucketStatus:
    """One bucket. `missing` counts objects that it lacks; `error` says why it cannot be asked, or is not a member, and
    `hint` what to do then."""

    name: str
    url: str
    provider: str
    region: str | None
    role: str
    reachable: bool
    objects: int
    missing: int
    held_bytes: int
    error: str | None
    hint: str | None


@dataclass(frozen=True, slots=True)
class RepositoryStatus:
    """One repository: in how many buckets it is complete, and whether that meets its policy."""

    name: str
    versions: int
    complete_in: tuple[str, ...]
    durable: bool
    detail: str


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """`damage` are sentences on what is lost or damaged; `unread` are the repositories among it that cannot be read at
    all."""

    store: str
    engine: EngineStatus
    sealed: bool
    buckets: tuple[BucketStatus, ...]
    repositories: tuple[RepositoryStatus, ...]
    damage: tuple[str, ...]
    unread: tuple[UnreadRepository, ...]

    def to_json(self) -> dict[str, object]:
        return {
            "store": self.store,
            "engine": self.engine.to_json(),
            "sealed": self.sealed,
            "buckets": [_json(bucket) for bucket in self.buckets],
            "repositories": [_json(repository) for repository in self.repositories],
            "damage": list(self.damage),
            "unread": [repository.to_json() for repository in self.unread],
        }


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found. `unreachable` maps buckets to the reason why they could not be looked at and
    what to do."""

    deep: bool
    objects: int
    checked_bytes: int
    findings: tuple[Finding, ...]
    unreachable: dict[str, str]
    damage: tuple[str, ...]

    @property
    def sound(self) -> bool:
        return not (self.findings or self.unreachable or self.damage)

    def to_json(self) -> dict[str, object]:
        return {
            "deep": self.deep,
            "sound": self.sound,
            "objects": self.objects,
            "checked_bytes": self.checked_bytes,
            "findings": [_json(finding) for finding in self.findings],
            "unreachable": self.unreachable,
            "damage": list(self.damage),
        }


@dataclass(slots=True)
class RepairReport:
    """What a repair (or sync) mended, and what not. `readmitted` are buckets that had lost their store.json;
    `checkpoints` counts those that no bucket held any more, and that were written from this machine's registers."""

    dry_run: bool
    mended: list[Finding] = field(default_factory=list)
    failed: list[tuple[Finding, str]] = field(default_factory=list)
    written_bytes: int = 0
    checkpoints: int = 0
    readmitted: list[str] = field(default_factory=list)
    unreachable: dict[str, str] = field(default_factory=dict)
    damage: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing is left to mend."""
        return not (self.failed or self.unreachable or self.damage)

    def to_json(self) -> dict[str, object]:
        return {
            "dry_run": self.dry_run,
            "sound": self.sound,
            "mended": [_json(finding) for finding in self.mended],
            "failed": [_json(finding) | {"reason": reason} for finding, reason in self.failed],
            "written_bytes": self.written_bytes,
            "checkpoints": self.checkpoints,
            "readmitted": self.readmitted,
            "unreachable": self.unreachable,
            "damage": list(self.damage),
        }


SyncReport = RepairReport
OUTDATED: Final = "Its store.json tells of an epoch that is over: skyhold sync"


def status_of(connection: Connection) -> StoreStatus:
    """Presence and sizes of everything, by listings."""
    members = examine(connection)
    with connection.session(Policy()) as session:
        inventory = take_inventory(connection, session)
    found = _survey(connection, inventory, members, Silence(), deep=False)
    document = connection.document
    missing = Counter(finding.bucket for finding in found.findings)
    buckets = []
    for configured in connection.configuration.buckets:
        location = configured.location
        state = found.buckets.get(location.name)
        error = members[location.name].error or (state.error if state is not None else None)
        buckets.append(
            BucketStatus(
                name=location.name,
                url=location.url,
                provider=location.provider,
                region=location.region,
                role=configured.role,
                reachable=members[location.name].reachable,
                objects=0 if state is None else state.held,
                missing=missing[location.name],
                held_bytes=0 if state is None else state.held_bytes,
                error=None if error is None else error.message,
                hint=error.hint if error is not None else OUTDATED if members[location.name].outdated else None,
            )
        )
    repositories = tuple(_repository_status(connection, item, found, members) for item in inventory.repositories)
    return StoreStatus(
        document.store, engine_of(connection), document.sealed, tuple(buckets), repositories, inventory.damage,
        inventory.unread,
    )  # fmt: skip


def verify_store(connection: Connection, *, deep: bool, repository: str | None, progress: Progress) -> VerifyReport:
    """Compare all buckets with what the registers reach. Changes nothing."""
    members = examine(connection)
    with connection.session(Policy()) as session:
        inventory = take_inventory(connection, session, repository, held=deep)
    found = _survey(connection, inventory, members, progress, deep=deep)
    return VerifyReport(
        deep, sum(bucket.held for bucket in found.buckets.values()), found.checked_bytes, tuple(found.findings),
        _unreachable(found, members), inventory.damage,
    )  # fmt: skip


def repair_store(connection: Connection, *, deep: bool, dry_run: bool, progress: Progress) -> RepairReport:
    """Mend whatever a verification finds (deep), or bring over what is missing (shallow, `sync`).

    A bucket that was emptied, or whose `store.json` is damaged, is admitted again first, with a fresh incarnation.
    Every object is checked before it is written and after.
    """
    report = RepairReport(dry_run)
    members = examine(connection)
    refused = _readmit(connection, members, report)
    if report.readmitted and not dry_run:
        members = examine(connection)
    if not dry_run:
        if any(member.outdated for member in members.values()):
            spread(connection)
        report.checkpoints = 0 if connection.shared else write_lost_checkpoints(connection)
        level_voters(connection)
    with connection.session(Policy()) as session:
        inventory = take_inventory(connection, session, held=deep)
    found = _survey(connection, inventory, members, progress, deep=deep, include_vacant=dry_run)
    report.damage, report.unreachable = inventory.damage, _unreachable(found, members) | refused
    if dry_run:
        report.mended = list(found.findings)
        return report
    checker, buckets = connection.checker, connection.buckets()
    for finding, result in repair(buckets, inventory.expected, found, checker, progress):
        if isinstance(result, SkyholdError):
            report.failed.append((finding, result.message))
        else:
            report.mended.append(finding)
            report.written_bytes += result
    if report.damage and report.mended:  # what was mended may have made the rest readable
        return _again(report, connection, deep=deep, progress=progress)
    return report


def _readmit(connection: Connection, members: dict[str, Membership], report: RepairReport) -> dict[str, str]:
    """Admit again what can be; what could not, by bucket, with the reason and the way out."""
    refused: dict[str, str] = {}
    for name, member in members.items():
        if not member.readmissible:
            continue
        try:
            if not report.dry_run:
                admit_again(connection, name)
        except SkyholdError as error:
            refused[name] = _with_way_out(error)
        else:
            report.readmitted.append(name)
    return refused


def _again(before: RepairReport, connection: Connection, *, deep: bool, progress: Progress) -> RepairReport:
    after = repair_store(connection, deep=deep, dry_run=False, progress=progress)
    after.mended = before.mended + after.mended
    after.written_bytes += before.written_bytes
    after.checkpoints += before.checkpoints
    after.readmitted = before.readmitted + after.readmitted
    return after


def _survey(
    connection: Connection,
    inventory: Inventory,
    members: dict[str, Membership],
    progress: Progress,
    *,
    deep: bool,
    include_vacant: bool = False,
) -> Survey:
    """Survey the members. A bucket without `store.json` is none: its own error stands for all of its objects."""
    buckets = {
        name: bucket
        for name, bucket in connection.buckets().items()
        if members[name].error is None or (include_vacant and members[name].readmissible)
    }
    found = survey(buckets, inventory.expected, connection.checker, progress, deep=deep)
    for key in {finding.key for finding in found.findings if finding.problem == "damaged"}:
        if pack_id_of(key) is not None:  # the next push that uses it shall not rely on what was verified earlier
            connection.catalogue.doubt(key)
    return found


def _unreachable(found: Survey, members: dict[str, Membership]) -> dict[str, str]:
    errors = {name: bucket.error for name, bucket in found.buckets.items() if bucket.error is not None}
    errors |= {name: member.error for name, member in members.items() if member.error is not None}
    return {name: _with_way_out(error) for name, error in sorted(errors.items())}


def _with_way_out(error: SkyholdError) -> str:
    return f"{error.message}. {error.hint}" if error.hint else error.message


def _repository_status(
    connection: Connection, item: RepositoryInventory, found: Survey, members: dict[str, Membership]
) -> RepositoryStatus:
    keys = item.blobs | item.packs
    lacking = {finding.bucket for finding in found.findings if finding.key in keys}
    complete = [
        name
        for name, bucket in found.buckets.items()
        if bucket.error is None and members[name].error is None and name not in lacking
    ]
    standing = durability(item.policy, connection.configuration.locations, complete)
    return RepositoryStatus(item.name, item.versions, tuple(complete), standing.met, standing.describe())


def _json(record: object) -> dict[str, object]:
    names: Iterator[str] = iter(record.__slots__)  # type: ignore[attr-defined]
    values = {name: getattr(record, name) for name in names}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
