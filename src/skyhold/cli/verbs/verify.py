"""`skyhold verify`"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from skyhold.cli import candidates
from skyhold.cli.command import Session, verb
from skyhold.cli.output import counted

if TYPE_CHECKING:
    from skyhold.registry.upkeep import VerifyReport


@verb(
    click.Option(["--deep"], is_flag=True, help="Read every byte back, instead of asking for presence and sizes."),
    click.Option(
        ["--repository"],
        metavar="TEAM/NAME",
        shell_complete=candidates.repositories,
        help="Only the versions of this repository.",
    ),
    examples=("skyhold verify", "skyhold verify --deep --repository fraud/scorer", "skyhold verify --deep --json"),
    exits=(2, 3, 6, 8, 10),
)
def command(session: Session, *, deep: bool, repository: str | None) -> None:
    """Check that every bucket holds what it should, and with --deep that every byte is what was stored; and that the
    chain of all moves of every ref is unbroken.

    It changes nothing. Where damage or a loss is found it names each object and bucket and ends with status 10.
    """
    from skyhold.cli.findings import refuse_unsound, way_out

    with session.store() as store, session.progress() as progress:
        report = store.verify(deep=deep, repository=repository, progress=progress)
    bare = [f"{finding.problem} {finding.bucket} {finding.key}" for finding in report.findings]
    session.output.show(report.to_json(), quiet=bare, human=lambda: _tell(report))
    refuse_unsound(
        len(report.findings), report.unreachable, report.damage, hint=way_out(store.unread) or "skyhold repair"
    )


def _tell(report: VerifyReport) -> None:
    from skyhold.cli.findings import tell_findings, tell_rest
    from skyhold.cli.render import line, marked
    from skyhold.units import format_bytes

    how = f"{format_bytes(report.checked_bytes)} read back" if report.deep else "presence and sizes only"
    line(marked("sound: ", "good") if report.sound else "", f"{counted(report.objects, 'object')} looked at, {how}")
    tell_findings(report.findings)
    tell_rest(report.unreachable, report.damage)
