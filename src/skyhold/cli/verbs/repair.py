"""`skyhold repair`"""

from __future__ import annotations

import click

from skyhold.cli.command import Session, verb


@verb(
    click.Option(["--dry-run"], is_flag=True, help="Say what would be replaced from where; change nothing."),
    examples=("skyhold repair --dry-run", "skyhold repair"),
    exits=(2, 3, 6, 7, 8, 10),
)
def command(session: Session, *, dry_run: bool) -> None:
    """Replace damaged and missing replicas by good ones from other buckets, verified before and after.

    Where no good copy is left it names what is lost, leaves it untouched, and ends with status 10.
    """
    with session.store() as store, session.progress() as progress:
        report = store.repair(dry_run=dry_run, progress=progress)
    session.output.show(report.to_json(), quiet=[], human=lambda: _tell(report, dry_run))
