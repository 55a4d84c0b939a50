"""`skyhold repair`"""

from __future__ import annotations

import click

from skyhold.cli.command import Invocation, verb


@verb(
    click.Option(["--dry-run"], is_flag=True, help="Show what would be replaced from where; change nothing."),
    examples=("skyhold repair --dry-run", "skyhold repair"),
    exits=(2, 3, 6, 7, 8, 10),
    changes=True,
)
def command(session: Invocation, *, dry_run: bool) -> None:
    """Replace damaged and missing replicas by good ones from other buckets, verified before and after.

    To find damage it reads every byte of every bucket, also for --dry-run. Where listings are enough, `skyhold sync`
    brings over what is missing and reads only that.

    Where a bucket that votes has its copy of a register damaged, a new epoch with the same voters begins, into which
    the others carry every register: the promises of a damaged copy are unknown, so it is never overwritten. That
    needs a majority with an intact copy of each register.

    Where no good copy is left it names what is lost, leaves it untouched, and ends with status 10.
    """
    from skyhold.cli.findings import refuse_unsound, show_mended

    with session.store() as store, session.progress() as progress:
        report = store.repair(dry_run=dry_run, progress=progress)
    session.output.show(report, quiet=[], human=lambda: show_mended(report, "Repaired"))
    if not report.dry_run:
        refuse_unsound(len(report.failed), report.unreachable, report.damage, report.remedy, losses=report.losses)
    elif report.unreachable:
        session.output.next_step("skyhold status   # reports why not all buckets could be examined")
