"""`skyhold verify`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from skyhold.cli import candidates
from skyhold.cli.command import Invocation, verb
from skyhold.cli.output import counted

if TYPE_CHECKING:
    from rich.text import Text

    from skyhold.registry.verification import VerifyReport


_LABELS: Final = {"unknown": "unaccounted", "useless": "not needed"}


@verb(
    click.Option(
        ["--deep"], is_flag=True, help="Read every object of every bucket, and restore every version from each."
    ),
    click.Option(
        ["--repository"],
        metavar="TEAM/NAME",
        shell_complete=candidates.repositories,
        help="Only the versions of this repository.",
    ),
    examples=("skyhold verify", "skyhold verify --deep --repository fraud/scorer", "skyhold verify --deep --json"),
    exits=(2, 3, 6, 8, 10),
)
def command(session: Invocation, *, deep: bool, repository: str | None) -> None:
    """Check that every bucket holds what it should, by presence and sizes; that every bucket that votes has its copy of
    every register intact; and that the chain of all moves of every ref is unbroken.

    With --deep every object of every bucket is read once, and every version of every repository is restored in memory
    from each bucket on its own, byte for byte, up to the SHA-256 of each file. Every object is accounted for: objects
    that no register reaches (an interrupted push leaves some) and objects that are not the store's are listed, and are
    no fault.

    It changes nothing. Where damage or a loss is found it names each object and bucket and ends with status 10. A
    bucket that only lacks objects is lagging: `skyhold sync` copies them. Where no bucket has something intact, the
    versions and files that are lost with it are named.
    """
    from skyhold.cli.findings import refuse_unsound

    with session.store() as store, session.progress() as progress:
        report = store.verify(deep=deep, repository=repository, progress=progress)
    bare = [f"{finding.problem} {finding.bucket} {finding.key}" for finding in report.findings]
    session.output.show(report, quiet=bare, human=lambda: _show(report))
    only_missing = not report.damage and all(finding.problem == "missing" for finding in report.findings)
    refuse_unsound(
        len(report.findings),
        report.unreachable,
        report.damage,
        report.remedy,
        lagging=[name for name, lag in report.lagging.items() if lag.missing] if only_missing else (),
        losses=report.losses,
    )


def _show(report: VerifyReport) -> None:
    from skyhold.cli.findings import show_findings, show_rest
    from skyhold.cli.render import line, marked
    from skyhold.units import format_bytes

    how = f"{format_bytes(report.checked_bytes)} read back" if report.deep else "presence and sizes only"
    line(marked("sound: ", "good") if report.sound else "", f"{counted(report.objects, 'object')} examined, {how}")
    if report.deep:
        _show_restored(report)
    show_findings(report.findings)
    for name, lag in report.lagging.items():
        lacks = f"lacks {counted(lag.missing, 'object')}" if lag.missing else ""
        passed = f"has not got the last change of {counted(len(lag.registers), 'register')}" if lag.registers else ""
        line(marked("lagging: ", "warn"), f"bucket {name} {' and '.join(filter(None, (lacks, passed)))}")
    show_rest(report.unreachable, report.damage, report.losses)
    _show_unaccounted(report)


def _show_restored(report: VerifyReport) -> None:
    """Of each bucket, how many of the versions that it shall hold were restored from it alone."""
    from skyhold.cli.render import line, marked

    parts: list[str | Text] = []
    for name, wanted in report.placed.items():
        count = f"{report.restored[name]} of {counted(wanted, 'version')}"
        parts += [
            ", " if parts else "",
            f"{name} ",
            marked(count, "good" if report.restored[name] >= wanted else "bad"),
        ]
    line("restored byte for byte, from each on its own: ", *parts)


def _show_unaccounted(report: VerifyReport) -> None:
    from skyhold.cli.findings import SHOWN_MAX
    from skyhold.cli.render import line, marked, table

    left = {name: found.unreferenced for name, found in report.accounted.items() if found.unreferenced}
    if left:
        line(
            "No register reaches " + ", ".join(f"{counted(count, 'object')} of {name}" for name, count in left.items())
        )
    if report.unaccounted:
        useless = sum(item.kind == "useless" for item in report.unaccounted)
        if useless:
            line(
                f"Damaged and needed by nothing: {counted(useless, 'object')}. Keep or delete them: no version is lost"
            )
        shown = report.unaccounted[:SHOWN_MAX]
        rows = [(marked(_LABELS[item.kind], "warn"), item.bucket, item.key, item.reason) for item in shown]
        table(["", "bucket", "object", "reason"], rows)
    rest = len(report.unaccounted) - SHOWN_MAX
    if rest > 0:
        line(f"and {rest} more; --json names them")
