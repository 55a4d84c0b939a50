"""`skyhold verify`"""

from __future__ import annotations

import click

from skyhold.cli.command import Session, verb


@verb(
    click.Option(["--deep"], is_flag=True, help="Read every byte back, instead of asking for presence and sizes."),
    click.Option(["--repository"], metavar="TEAM/NAME", help="Only the versions of this repository."),
    examples=("skyhold verify", "skyhold verify --deep --repository fraud/scorer", "skyhold verify --deep --json"),
    exits=(2, 3, 6, 8, 10),
)
def command(session: Session, *, deep: bool, repository: str | None) -> None:
    """Check that every bucket holds what it should, and with --deep that every byte is what was stored.

    It changes nothing. Where damage or a loss is found it names each object and bucket and ends with status 10.
    """
    with session.store() as store, session.progress() as progress:
        report = store.verify(deep=deep, repository=repository, progress=progress)
    session.output.show(report.to_json(), quiet=[], human=lambda: _tell(report))
