"""Looking after a store: sync and repair, over everything that its registers reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from skyhold import error_codes
from skyhold.consensus.acceptor_object import parse_object_key
from skyhold.consensus.buckets import BucketRegisters
from skyhold.consensus.migration import CONFIG
from skyhold.errors import Corrupt, SkyholdError
from skyhold.registry.index_check import mend_index
from skyhold.registry.losses import SCARRED, Loss, find_losses, remedy_of_losses
from skyhold.registry.rebuilding import needs_of, rebuild_packs
from skyhold.registry.restoring import restore_all
from skyhold.registry.verification import Look, doubt, look_at, pack_copies, to_json, with_way_out
from skyhold.storage.object_keys import pack_id_of
from skyhold.storage.policy import Policy
from skyhold.storage.progress import Progress
from skyhold.storage.replica_write import write_verified
from skyhold.storage.survey import Finding, repair
from skyhold.store.bucket_health import Membership, examine
from skyhold.store.checkpoints import write_lost_checkpoints
from skyhold.store.connection import Connection
from skyhold.store.damage import created_registers
from skyhold.store.engine_status import bring_up, bring_up_all
from skyhold.store.reconfiguring import admit_again, begin_anew, spread
from skyhold.store.register_copies import examine_registers


@dataclass(slots=True)
class RepairReport:
    """What a repair (or sync) mended, and what not. `readmitted` are buckets that had lost their store.json;
    `checkpoints` counts those that no bucket held any more, and that were written from this machine's registers;
    `segments` counts parts of the index that were written since others did not list what packs contain;
    `epoch` is the one that was begun to write registers anew whose copies were damaged, if any; `losses` are the
    versions that no bucket gives whole any more; `remedy` says what to do about what is left."""

    dry_run: bool
    mended: list[Finding] = field(default_factory=list)
    failed: list[tuple[Finding, str]] = field(default_factory=list)
    written_bytes: int = 0
    checkpoints: int = 0
    segments: int = 0
    readmitted: list[str] = field(default_factory=list)
    epoch: int | None = None
    unreachable: dict[str, str] = field(default_factory=dict)
    damage: tuple[str, ...] = ()
    losses: tuple[Loss, ...] = ()
    remedy: str | None = None

    @property
    def sound(self) -> bool:
        """Whether nothing is left to mend."""
        return not (self.failed or self.unreachable or self.damage)

    def to_json(self) -> dict[str, object]:
        return {
            "dry_run": self.dry_run,
            "sound": self.sound,
            "mended": [to_json(finding) for finding in self.mended],
            "failed": [to_json(finding) | {"reason": reason} for finding, reason in self.failed],
            "written_bytes": self.written_bytes,
            "checkpoints": self.checkpoints,
            "segments": self.segments,
            "readmitted": self.readmitted,
            "epoch": self.epoch,
            "unreachable": self.unreachable,
            "damage": list(self.damage),
            "losses": [loss.to_json() for loss in self.losses],
        }


SyncReport = RepairReport


def repair_store(connection: Connection, *, deep: bool, dry_run: bool, progress: Progress) -> RepairReport:
    """Mend whatever a verification finds (deep), or bring over what is missing (shallow, `sync`).

    A bucket that was emptied, or whose `store.json` is damaged, is admitted again first, with a fresh incarnation.
    Every object is checked before it is written and after. Damaged copies of registers are mended, deep only, by a new
    epoch with the same voters.
    """
    if not dry_run:
        connection.check_writable()
    report = RepairReport(dry_run)
    members = examine(connection)
    refused = _readmit(connection, members, report)
    if report.readmitted and not dry_run:
        members = examine(connection)
    if not dry_run:
        if any(member.outdated for member in members.values()):
            spread(connection)
        report.checkpoints = 0 if connection.shared else write_lost_checkpoints(connection)
        _level(connection, members)
    with pack_copies(connection, deep=False) as copies, connection.session(Policy()) as session:
        look = look_at(connection, session, members, progress, deep=deep, copies=copies, include_vacant=dry_run)
        differing = copies.differing()
        if differing:  # which of them is right shows in what is made of them
            found = restore_all(connection, session, look.inventory, copies, progress, only=differing).findings
            look.survey.findings += found.values()
            look.survey.distrusted |= found.keys()
            doubt(connection, found.values())
    unreachable = dict(sorted((look.unreachable(members) | refused).items()))
    report.unreachable = {name: with_way_out(error) for name, error in unreachable.items()}
    report.damage, report.losses = look.damage, look.losses
    _mend(connection, look, report, progress)
    if not dry_run:
        _mend_index(connection, look, report)
    if deep:
        _mend_registers(connection, look, report)
    report.remedy = _remedy(look, report, unreachable)
    if report.damage and report.mended and not dry_run:  # what was mended may have made the rest readable
        return _again(report, connection, deep=deep, progress=progress)
    return report


def _remedy(look: Look, report: RepairReport, unreachable: Mapping[str, SkyholdError]) -> str | None:
    """What to do about what is left. Objects that some bucket has intact and that could not be written are tried again
    once what the reasons name is put right."""
    remedy = look.remedy((), unreachable)
    if look.way_out is not None or unreachable:
        return remedy
    deep = look.survey.deep
    if any(finding.key not in look.lost for finding, _ in report.failed):
        return f"Put right what the reasons above name, then run it again: skyhold {'repair' if deep else 'sync'}"
    if not deep and any(pack_id_of(key) is not None for key in look.lost):
        return "skyhold repair"
    if report.losses:
        return remedy_of_losses(report.losses)
    return SCARRED if report.failed or report.damage else None


def _level(connection: Connection, members: Mapping[str, Membership]) -> None:
    """Bring voters that the last change of a register has passed over up to it, register by register: one that cannot
    be read is named by the look that follows. One that most voters have lost is left as it is, since what decides it
    now may be that there is nothing, over the last copy."""
    answering = [name for name, member in members.items() if member.error is None]
    copies = examine_registers(connection, answering, looks=1)
    places = {place for places in copies.behind.values() for place in places}
    places |= {finding.key for finding in copies.findings if finding.problem == "missing"}
    keys = {place[1] for key in places if (place := parse_object_key(key)) is not None}
    if keys & copies.scarce:
        try:
            created = created_registers(connection) | {CONFIG: True}
        except SkyholdError:
            created = dict.fromkeys(keys, True)
        keys -= {key for key in copies.scarce if created.get(key, False)}
    registers = connection.registers.current
    if keys and isinstance(registers, BucketRegisters):
        bring_up(registers, keys)


def _mend(connection: Connection, look: Look, report: RepairReport, progress: Progress) -> None:
    checker, buckets = connection.checker, connection.buckets()
    lost: dict[str, list[tuple[Finding, str]]] = {}
    results = _foreseen(look) if report.dry_run else repair(buckets, look.expected, look.survey, checker, progress)
    for finding, result in results:
        if isinstance(result, int):
            report.mended.append(finding)
            report.written_bytes += result
        elif finding.key in look.inventory.checkpoints and isinstance(result, Corrupt):
            _checkpoint_again(connection, look, report, finding)
        elif result.code == error_codes.NO_INTACT_REPLICA and pack_id_of(finding.key) is not None:
            lost.setdefault(finding.key, []).append((finding, result.message))
        else:
            report.failed.append((finding, result.message))
    if lost and look.survey.deep and not report.unreachable:
        with suppress(SkyholdError):  # a bucket failed meanwhile: what was not mended is named
            _rebuild(connection, look, report, lost)
    report.failed += [failure for failures in lost.values() for failure in failures]


def _foreseen(look: Look) -> Iterator[tuple[Finding, int | SkyholdError]]:
    """As `repair`, without writing."""
    for finding in look.survey.findings:
        lost = Corrupt(f"No bucket gives an intact {finding.key}", code=error_codes.NO_INTACT_REPLICA, key=finding.key)
        yield finding, lost if finding.key in look.lost else 0


def _checkpoint_again(connection: Connection, look: Look, report: RepairReport, finding: Finding) -> None:
    """Write a checkpoint that no bucket has intact from the registers of this machine."""
    try:
        connection.checkpoints.checkpoint_again(look.inventory.checkpoints[finding.key], over=finding.key)
    except SkyholdError as error:
        report.failed.append((finding, error.message))
    else:
        report.mended.append(finding)
        report.checkpoints += 1


def _mend_index(connection: Connection, look: Look, report: RepairReport) -> None:
    """Replace index segments that are wrong, and list packs that are in none. A segment that cannot be read has lost
    nothing but itself, and stays named."""
    needed = look.needed_packs
    wrong = look.index.sentences(needed)
    if not wrong:
        return
    with suppress(SkyholdError), connection.session(Policy()) as session:
        report.segments = mend_index(look.index, session, connection.buckets(), needed)
        report.damage = tuple(sentence for sentence in report.damage if sentence not in wrong)


def _rebuild(
    connection: Connection, look: Look, report: RepairReport, lost: dict[str, list[tuple[Finding, str]]]
) -> None:
    """Mend packs that no bucket gives intact by what other packs contain; what could be mended is taken from `lost`.
    Not while a bucket is away, which may have an intact copy: an object is the same in every bucket."""
    with connection.session(Policy()) as session:
        needs = needs_of(session, look.inventory, lost.keys())
        for key, built in rebuild_packs(connection, session, needs):
            if isinstance(built, SkyholdError):
                lost[key] = [(finding, f"{reason}. {built.message}") for finding, reason in lost[key]]
                continue
            failures = lost.pop(key)
            if report.dry_run:
                report.mended += [finding for finding, _ in failures]
                continue
            connection.chunk_index.confirm(*connection.checker.contents(key, built))
            for finding, _ in failures:
                try:
                    write_verified(connection.bucket(finding.bucket), key, built)
                except SkyholdError as error:
                    report.failed.append((finding, error.message))
                else:
                    report.mended.append(finding)
                    report.written_bytes += len(built)
        packs = {key for key in look.lost if pack_id_of(key) is not None}
        report.losses = find_losses(session, look.inventory, look.lost - packs | lost.keys())


def _mend_registers(connection: Connection, look: Look, report: RepairReport) -> None:
    """Begin a new epoch where copies of registers are damaged, or were lost by a voter that had them, unless some
    register could not be carried into it."""
    copies = look.registers
    lost: list[Finding] = []
    for finding in copies.findings:
        fault = None if finding.problem == "damaged" else _why_it_lags(connection, finding)
        if finding.problem == "damaged" or report.dry_run or isinstance(fault, Corrupt):
            lost.append(finding)
        else:
            report.failed.append((finding, finding.detail if fault is None else with_way_out(fault)))
    if not lost:
        return
    if copies.unsettled:
        reasons = "; ".join(f"register {key}: {reason}" for key, reason in copies.unsettled.items())
        reason = f"not while a register of the store is lost, which no epoch could take over ({reasons})"
        report.failed += [(finding, reason) for finding in lost]
        return
    try:
        if not report.dry_run:
            begin_anew(connection, connection.origin(reason="repair: copies of registers were damaged"))
            report.epoch = connection.document.engine.epoch
            bring_up_all(connection.registers.current)
    except SkyholdError as error:
        report.failed += [(finding, with_way_out(error)) for finding in lost]
    else:
        report.mended += lost


def _why_it_lags(connection: Connection, finding: Finding) -> SkyholdError | None:
    """Why a voter takes no part in a register that it lacks. It is `Corrupt` where it is known to have had it: what it
    promised is lost then, and it is asked for nothing more in this epoch."""
    place, registers = parse_object_key(finding.key), connection.registers.current
    if place is None or not isinstance(registers, BucketRegisters):
        return None
    shown = registers.inspect(place[1])[finding.bucket]
    return shown if isinstance(shown, SkyholdError) else None


def _readmit(connection: Connection, members: dict[str, Membership], report: RepairReport) -> dict[str, SkyholdError]:
    """Admit again what can be; what could not, by bucket, with the reason."""
    refused: dict[str, SkyholdError] = {}
    for name, member in members.items():
        if not member.readmissible:
            continue
        try:
            if not report.dry_run:
                admit_again(connection, name, connection.origin(reason="sync: the bucket was emptied or exchanged"))
        except SkyholdError as error:
            refused[name] = error
        else:
            report.readmitted.append(name)
    return refused


def _again(before: RepairReport, connection: Connection, *, deep: bool, progress: Progress) -> RepairReport:
    after = repair_store(connection, deep=deep, dry_run=False, progress=progress)
    after.mended = before.mended + after.mended
    after.written_bytes += before.written_bytes
    after.checkpoints += before.checkpoints
    after.segments += before.segments
    after.readmitted = before.readmitted + after.readmitted
    after.epoch = after.epoch or before.epoch
    return after
