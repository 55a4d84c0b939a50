"""Sync and repair of a store, over everything that its registers reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from skyhold import error_codes
from skyhold.consensus.acceptor_object import parse_object_key
from skyhold.consensus.capabilities import voting
from skyhold.consensus.migration import CONFIG
from skyhold.errors import Corrupt, SkyholdError
from skyhold.registry.index_check import mend_index
from skyhold.registry.losses import SCARRED, Loss, find_losses, remedy_of_losses
from skyhold.registry.rebuilding import needs_of, rebuild_packs
from skyhold.registry.restoring import restore_all
from skyhold.registry.verification import Look, doubt, look_at, pack_copies, with_way_out
from skyhold.storage.object_keys import pack_id_of
from skyhold.storage.policy import Policy
from skyhold.storage.progress import Progress
from skyhold.storage.survey import Finding, repair
from skyhold.store.checkpoints import write_lost_checkpoints
from skyhold.store.connection import Connection
from skyhold.store.engine_status import catch_up_epoch, catch_up_fully
from skyhold.store.membership import Membership, examine
from skyhold.store.reconfiguring import admit_again, begin_anew, spread
from skyhold.store.register_copies import examine_registers
from skyhold.store.unreadable_registers import created_registers


@dataclass(frozen=True, slots=True)
class Unmended(Finding):
    """A finding that was not repaired, or cannot be, with the reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair (or sync) repaired, and what not. `readmitted` are buckets that had lost their store.json;
    `checkpoints` counts checkpoints that no bucket held and that were written from this machine's registers;
    `segments` counts index segments that were written because others did not list what packs contain;
    `epoch` is the new epoch that replaced damaged copies of registers, if any; `losses` are the
    versions that no bucket can restore completely; `remedy` is what to do about the rest."""

    mended: tuple[Finding, ...]
    failed: tuple[Unmended, ...]
    written_bytes: int
    checkpoints: int
    segments: int
    readmitted: tuple[str, ...]
    epoch: int | None
    unreachable: dict[str, str]
    damage: tuple[str, ...]
    losses: tuple[Loss, ...]
    remedy: str | None
    dry_run: ClassVar[Literal[False]] = False
    in_json: ClassVar = ("dry_run", "sound")

    @property
    def sound(self) -> bool:
        """Whether nothing is left to repair."""
        return not (self.failed or self.unreachable or self.damage)


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """What a repair (or sync) would repair, and what not; its fields are those of `RepairReport`."""

    mended: tuple[Finding, ...]
    failed: tuple[Unmended, ...]
    readmitted: tuple[str, ...]
    unreachable: dict[str, str]
    damage: tuple[str, ...]
    losses: tuple[Loss, ...]
    remedy: str | None
    dry_run: ClassVar[Literal[True]] = True
    in_json: ClassVar = ("dry_run", "sound")

    @property
    def sound(self) -> bool:
        """Whether nothing would be left to repair."""
        return not (self.failed or self.unreachable or self.damage)


@dataclass(slots=True)
class _Mending:
    """A repair in progress, or planned."""

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
    def unmended(self) -> tuple[Unmended, ...]:
        return tuple(
            Unmended(finding.bucket, finding.key, finding.problem, finding.detail, reason)
            for finding, reason in self.failed
        )


def repair_store(connection: Connection, *, deep: bool, progress: Progress) -> RepairReport:
    """Repair everything that a verification finds (deep), or copy what is missing (shallow, `sync`).

    A bucket that was emptied, or whose `store.json` is damaged, is admitted again first, with a fresh incarnation.
    Every object is checked before it is written and after. Damaged copies of registers are replaced, deep only, by a
    new epoch with the same voters.
    """
    done = _mended(connection, deep=deep, dry_run=False, progress=progress)
    return RepairReport(
        mended=tuple(done.mended),
        failed=done.unmended,
        written_bytes=done.written_bytes,
        checkpoints=done.checkpoints,
        segments=done.segments,
        readmitted=tuple(done.readmitted),
        epoch=done.epoch,
        unreachable=done.unreachable,
        damage=done.damage,
        losses=done.losses,
        remedy=done.remedy,
    )


def plan_repair(connection: Connection, *, deep: bool, progress: Progress) -> RepairPlan:
    """What `repair_store` would do. Changes nothing."""
    planned = _mended(connection, deep=deep, dry_run=True, progress=progress)
    return RepairPlan(
        mended=tuple(planned.mended),
        failed=planned.unmended,
        readmitted=tuple(planned.readmitted),
        unreachable=planned.unreachable,
        damage=planned.damage,
        losses=planned.losses,
        remedy=planned.remedy,
    )


def _mended(connection: Connection, *, deep: bool, dry_run: bool, progress: Progress) -> _Mending:
    if not dry_run:
        connection.check_writable()
    mending = _Mending(dry_run)
    members = examine(connection)
    refused = _readmit(connection, members, mending)
    if mending.readmitted and not dry_run:
        members = examine(connection)
    if not dry_run:
        if any(member.outdated for member in members.values()):
            spread(connection)
        mending.checkpoints = 0 if connection.shared else write_lost_checkpoints(connection)
        _level(connection, members)
    with pack_copies(connection, deep=False) as copies, connection.session(Policy(), fresh=True) as session:
        look = look_at(connection, session, members, progress, deep=deep, copies=copies, include_vacant=dry_run)
        differing = copies.differing()
        if differing:  # restoring versions from them shows which is right
            found = restore_all(connection, session, look.inventory, copies, progress, only=differing).findings
            look.survey.findings += found.values()
            look.survey.distrusted |= found.keys()
            doubt(connection, found.values())
    unreachable = dict(sorted((look.unreachable(members) | refused).items()))
    mending.unreachable = {name: with_way_out(error) for name, error in unreachable.items()}
    mending.damage, mending.losses = look.damage, look.losses
    _mend(connection, look, mending, progress)
    if not dry_run:
        _mend_index(connection, look, mending)
    if deep:
        _mend_registers(connection, look, mending)
    mending.remedy = _remedy(look, mending, unreachable)
    if mending.damage and mending.mended and not dry_run:  # what was repaired may have made the rest readable
        return _again(mending, connection, deep=deep, progress=progress)
    return mending


def _remedy(look: Look, mending: _Mending, unreachable: Mapping[str, SkyholdError]) -> str | None:
    """What to do about what is left. Objects that some bucket has intact and that could not be written are retried
    after the causes in the reasons are fixed."""
    remedy = look.remedy((), unreachable)
    if look.way_out is not None or unreachable:
        return remedy
    deep = look.survey.deep
    if any(finding.key not in look.lost for finding, _ in mending.failed):
        return f"Fix the causes named above, then run it again: skyhold {'repair' if deep else 'sync'}"
    if not deep and any(pack_id_of(key) is not None for key in look.lost):
        return "skyhold repair"
    if mending.losses:
        return remedy_of_losses(mending.losses)
    return SCARRED if mending.failed or mending.damage else None


def _level(connection: Connection, members: Mapping[str, Membership]) -> None:
    """Bring lagging voters up to the last change of each register. A register that cannot be read is named by the
    examination that follows. One that most voters have lost is left unchanged: a decision now could replace its last
    copy by nothing."""
    answering = [name for name, member in members.items() if member.error is None]
    copies = examine_registers(connection, answering, looks=1)
    places = {place for places in copies.lagging.values() for place in places}
    places |= {finding.key for finding in copies.findings if finding.problem == "missing"}
    keys = {place[1] for key in places if (place := parse_object_key(key)) is not None}
    if keys & copies.scarce:
        try:
            created = created_registers(connection) | {CONFIG: True}
        except SkyholdError:
            created = dict.fromkeys(keys, True)
        keys -= {key for key in copies.scarce if created.get(key, False)}
    voters = voting(connection.registers.current)
    if keys and voters is not None:
        catch_up_fully(voters, keys)


def _mend(connection: Connection, look: Look, mending: _Mending, progress: Progress) -> None:
    checker, buckets = connection.checker, connection.buckets()
    lost: dict[str, list[tuple[Finding, str]]] = {}
    results = _foreseen(look) if mending.dry_run else repair(buckets, look.expected, look.survey, checker, progress)
    for finding, result in results:
        if isinstance(result, int):
            mending.mended.append(finding)
            mending.written_bytes += result
        elif finding.key in look.inventory.checkpoints and isinstance(result, Corrupt):
            _checkpoint_again(connection, look, mending, finding)
        elif result.code == error_codes.NO_INTACT_REPLICA and pack_id_of(finding.key) is not None:
            lost.setdefault(finding.key, []).append((finding, result.message))
        else:
            mending.failed.append((finding, result.message))
    if lost and look.survey.deep and not mending.unreachable:
        with suppress(SkyholdError):  # a bucket failed meanwhile: what was not repaired is named
            _rebuild(connection, look, mending, lost)
    mending.failed += [failure for failures in lost.values() for failure in failures]


def _foreseen(look: Look) -> Iterator[tuple[Finding, int | SkyholdError]]:
    """As `repair`, without writing."""
    for finding in look.survey.findings:
        lost = Corrupt(f"No bucket gives an intact {finding.key}", code=error_codes.NO_INTACT_REPLICA, key=finding.key)
        yield finding, lost if finding.key in look.lost else 0


def _checkpoint_again(connection: Connection, look: Look, mending: _Mending, finding: Finding) -> None:
    """Write a checkpoint that no bucket has intact from the registers of this machine."""
    try:
        connection.checkpoints.checkpoint_again(look.inventory.checkpoints[finding.key], over=finding.key)
    except SkyholdError as error:
        mending.failed.append((finding, error.message))
    else:
        mending.mended.append(finding)
        mending.checkpoints += 1


def _mend_index(connection: Connection, look: Look, mending: _Mending) -> None:
    """Replace index segments that are wrong, and list packs that are in none. An unreadable segment loses nothing
    else, and stays named."""
    needed = look.needed_packs
    wrong = look.index.sentences(needed)
    if not wrong:
        return
    with suppress(SkyholdError), connection.session(Policy(), fresh=True) as session:
        mending.segments = mend_index(look.index, session, connection.buckets(), needed)
        mending.damage = tuple(sentence for sentence in mending.damage if sentence not in wrong)


def _rebuild(connection: Connection, look: Look, mending: _Mending, lost: dict[str, list[tuple[Finding, str]]]) -> None:
    """Rebuild packs that no bucket has intact from what other packs contain; rebuilt packs are removed from `lost`.
    Not while a bucket is unreachable, which may have an intact copy: an object is the same in every bucket."""
    with connection.session(Policy(), fresh=True) as session:
        needs = needs_of(session, look.inventory, lost.keys())
        for key, built in rebuild_packs(connection, session, needs):
            if isinstance(built, SkyholdError):
                lost[key] = [(finding, f"{reason}. {built.message}") for finding, reason in lost[key]]
                continue
            failures = lost.pop(key)
            if mending.dry_run:
                mending.mended += [finding for finding, _ in failures]
                continue
            connection.chunk_index.confirm(*connection.checker.contents(key, built))
            for finding, _ in failures:
                try:
                    connection.bucket(finding.bucket).write(key, built)
                except SkyholdError as error:
                    mending.failed.append((finding, error.message))
                else:
                    mending.mended.append(finding)
                    mending.written_bytes += len(built)
        packs = {key for key in look.lost if pack_id_of(key) is not None}
        mending.losses = find_losses(session, look.inventory, look.lost - packs | lost.keys())


def _mend_registers(connection: Connection, look: Look, mending: _Mending) -> None:
    """Begin a new epoch where copies of registers are damaged, or were lost by a voter that had them, unless some
    register could not be carried over."""
    copies = look.registers
    lost: list[Finding] = []
    for finding in copies.findings:
        fault = None if finding.problem == "damaged" else _why_it_lags(connection, finding)
        if finding.problem == "damaged" or mending.dry_run or isinstance(fault, Corrupt):
            lost.append(finding)
        else:
            mending.failed.append((finding, finding.detail if fault is None else with_way_out(fault)))
    if not lost:
        return
    if copies.unsettled:
        reasons = "; ".join(f"register {key}: {reason}" for key, reason in copies.unsettled.items())
        reason = f"not while a register of the store is lost, which no new epoch could carry over ({reasons})"
        mending.failed += [(finding, reason) for finding in lost]
        return
    try:
        if not mending.dry_run:
            begin_anew(connection, connection.origin(reason="repair: copies of registers were damaged"))
            mending.epoch = connection.document.engine.epoch
            catch_up_epoch(connection.registers.current)
    except SkyholdError as error:
        mending.failed += [(finding, with_way_out(error)) for finding in lost]
    else:
        mending.mended += lost


def _why_it_lags(connection: Connection, finding: Finding) -> SkyholdError | None:
    """Why a voter takes no part in a register that it lacks. It is `Corrupt` where the voter is known to have had it:
    its promises are lost, and it takes no part for the rest of this epoch."""
    place, voters = parse_object_key(finding.key), voting(connection.registers.current)
    if place is None or voters is None:
        return None
    shown = voters.inspect(place[1])[finding.bucket]
    return shown if isinstance(shown, SkyholdError) else None


def _readmit(connection: Connection, members: dict[str, Membership], mending: _Mending) -> dict[str, SkyholdError]:
    """Readmit the buckets that can be; returns the errors of the others, by bucket."""
    refused: dict[str, SkyholdError] = {}
    for name, member in members.items():
        if not member.readmissible:
            continue
        try:
            if not mending.dry_run:
                admit_again(connection, name, connection.origin(reason="sync: the bucket was emptied or exchanged"))
        except SkyholdError as error:
            refused[name] = error
        else:
            mending.readmitted.append(name)
    return refused


def _again(before: _Mending, connection: Connection, *, deep: bool, progress: Progress) -> _Mending:
    after = _mended(connection, deep=deep, dry_run=False, progress=progress)
    after.mended = before.mended + after.mended
    after.written_bytes += before.written_bytes
    after.checkpoints += before.checkpoints
    after.segments += before.segments
    after.readmitted = before.readmitted + after.readmitted
    after.epoch = after.epoch or before.epoch
    return after
