"""`skyhold sync`"""

from __future__ import annotations

import click

from skyhold.cli.command import Invocation, verb


@verb(
    click.Option(["--dry-run"], is_flag=True, help="Show what would be copied to which bucket; change nothing."),
    examples=("skyhold sync --dry-run", "skyhold sync"),
    exits=(2, 3, 6, 7, 8, 10),
    changes=True,
)
def command(session: Invocation, *, dry_run: bool) -> None:
    """Bring lagging buckets up to date: every missing replica that a policy requires is copied and verified.
    After an interruption the same command continues."""
    from skyhold.cli.findings import refuse_unsound, show_mended

    with session.store() as store, session.progress() as progress:
        report = store.sync(dry_run=dry_run, progress=progress)
    session.output.show(report, quiet=[], human=lambda: show_mended(report, "Brought over"))
    if not report.dry_run:
        refuse_unsound(len(report.failed), report.unreachable, report.damage, report.remedy, losses=report.losses)
    elif report.unreachable:
        session.output.next_step("skyhold status   # reports why not all buckets could be examined")
