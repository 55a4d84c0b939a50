"""What a verification, repair or sync found, as text, and the error with which it ends."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from skyhold import error_codes
from skyhold.cli.output import counted
from skyhold.cli.render import line, marked, table
from skyhold.errors import Corrupt, SkyholdError, Unavailable
from skyhold.units import format_bytes

if TYPE_CHECKING:
    from skyhold.registry.losses import Loss
    from skyhold.registry.upkeep import RepairPlan, RepairReport
    from skyhold.storage.survey import Finding
    from skyhold.store.unreadable_repositories import UnreadableRepository

_PARENTHESIS: Final = re.compile(r" \([^()]*\)")
FOUND_BY: Final = {
    "bucket": "the refs in one bucket, which no majority has confirmed",
    "cache": "this machine's cache; the refs were not read",
}
"""How a version that was given by its digest was found, where no majority of the voters named it."""
SHOWN_MAX: Final = 20
"""Findings past this number are counted only; `--json` has them all."""


def show_findings(findings: Sequence[Finding], reasons: Sequence[str] = ()) -> None:
    """The findings as a table, with `reasons` why they could not be mended where they are given."""
    if findings:
        headers = ["problem", "bucket", "object", "reason" if reasons else "detail"]
        details = reasons or [finding.detail for finding in findings]
        # The buckets in which the same object has the same problem. Text in parentheses is about all the others.
        alike: dict[tuple[str, str, str], tuple[str, list[str]]] = {}
        for finding, detail in zip(findings, details, strict=True):
            brief = _brief(finding, detail)
            key = finding.problem, finding.key, _PARENTHESIS.sub("", brief)
            alike.setdefault(key, (brief, []))[1].append(finding.bucket)
        rows = [
            (marked(problem, "bad"), ", ".join(names), key, brief)
            for (problem, key, _), (brief, names) in alike.items()
        ]
        table(headers, rows[:SHOWN_MAX])
        _show_more(len(rows))


def _brief(finding: Finding, detail: str) -> str:
    """The detail without what the row contains already."""
    detail = detail.replace(f" in bucket `{finding.bucket}`", "").replace(f"Bucket `{finding.bucket}` ", "the bucket ")
    detail = detail.replace(f"has no object `{finding.key}`", "lacks it")
    for written in (f"Object {finding.key}", f"Pack {finding.key}", finding.key):
        detail = detail.replace(written, "it")
    return detail.replace("an intact it", "it intact")


def _show_more(count: int) -> None:
    if count > SHOWN_MAX:
        line(f"and {count - SHOWN_MAX} more; --json names them all")


def show_rest(unreachable: Mapping[str, str], damage: Sequence[str], losses: Sequence[Loss] = ()) -> None:
    """Buckets that could not be examined, what is wrong besides, and what is lost."""
    for name, reason in unreachable.items():
        line(marked("not examined: ", "warn"), f"bucket {name} ({reason})")
    show_damage(damage)
    for loss in losses[:SHOWN_MAX]:
        line(marked("lost in every bucket: ", "bad"), loss.sentence)
    _show_more(len(losses))


def show_damage(damage: Sequence[str]) -> None:
    """The sentences on what is wrong beside single objects, as many as fit a terminal."""
    for sentence in damage[:SHOWN_MAX]:
        line(marked("damage: ", "bad"), sentence)
    _show_more(len(damage))


def refuse_unsound(
    problems: int,
    unreachable: Mapping[str, str],
    damage: Sequence[str],
    hint: str | None,
    *,
    lagging: Sequence[str] = (),
    losses: Sequence[Loss] = (),
) -> None:
    """End a command after its report: `Corrupt` for damage and losses, `Unavailable` for buckets that could
    not be examined. `lagging` names the buckets where all problems are objects that they lack."""
    from skyhold.json_form import as_json

    error: SkyholdError | None = None
    if losses:
        more = f"; and something of {counted(len(losses) - 1, 'version')} more" if losses[1:] else ""
        error = Corrupt(
            f"No bucket has this intact any more: of {losses[0].sentence}{more}",
            code=error_codes.OBJECTS_LOST,
            hint=hint,
            losses=as_json(losses),
        )
    elif problems or damage:
        if lagging:
            missing, names = counted(problems, "object"), ", ".join(lagging)
            error = Corrupt(
                f"Missing in {names}: {missing} that the store has elsewhere", code=error_codes.STORE_LAGGING, hint=hint
            )
        else:
            found = counted(problems + len(damage), "problem")
            error = Corrupt(f"{found} found and not mended", code=error_codes.STORE_UNSOUND, hint=hint)
    elif unreachable:
        names = ", ".join(unreachable)
        error = Unavailable(
            f"Not all buckets could be examined: {names}", code=error_codes.BUCKETS_NOT_LOOKED_AT, hint=hint
        )
    if error is not None:
        raise error


def way_out(unread: Sequence[UnreadableRepository]) -> str | None:
    """What to do for a repository that cannot be read at all, if there is one: other mending leaves it as it is."""
    return next((repository.hint for repository in unread if repository.hint), None)


def show_mended(report: RepairReport | RepairPlan, done: str) -> None:
    """What was mended and what was not, or would be; `done` is the verb for it, in the past tense."""
    if report.dry_run:
        _show_planned(report)
    else:
        _show_done(report, done)
    for name in report.readmitted:
        again = "would be admitted again" if report.dry_run else "was admitted again"
        line(marked("empty: ", "warn"), f"bucket {name} had lost its store.json and {again}")
    if report.failed:
        line(marked("Not mended:", "bad"))
        show_findings(report.failed, [finding.reason for finding in report.failed])
    show_rest(report.unreachable, report.damage, report.losses)


def _show_planned(plan: RepairPlan) -> None:
    if plan.mended or plan.failed or plan.readmitted:
        line("Would mend; nothing was changed:")
        show_findings(plan.mended)
    else:
        line("Nothing to do" if plan.sound else "Nothing could be done")


def _show_done(report: RepairReport, done: str) -> None:
    if report.mended or report.failed or report.readmitted or report.checkpoints or report.segments:
        line(
            f"{done} {counted(len(report.mended), 'object')}, {format_bytes(report.written_bytes)} written and verified"
        )
    else:
        line("Nothing to do" if report.sound else "Nothing could be done")
    if report.checkpoints:
        line(
            f"Wrote {counted(report.checkpoints, 'checkpoint')} from this machine's registers: no bucket had any intact"
        )
    if report.segments:
        line(f"Wrote {counted(report.segments, 'index segment')}: the index did not list what packs contain")
    if report.epoch is not None:
        line(f"Began epoch {report.epoch}, into which intact copies of all registers were carried")
