"""`skyhold ref history`"""

from __future__ import annotations

import click

from skyhold.cli.arguments import Reference, ReferenceType
from skyhold.cli.command import Session, verb


@verb(
    click.Argument(["reference"], metavar="TEAM/NAME[@REF]", type=ReferenceType()),
    click.Option(["-n", "--limit"], type=click.IntRange(1), metavar="N", help="At most so many moves."),
    examples=("skyhold ref history fraud/scorer", "skyhold ref history fraud/scorer@champion --json"),
    exits=(2, 3, 6, 8, 10),
)
def command(session: Session, reference: Reference, limit: int | None) -> None:
    """Show the moves of one ref, or of all refs without @REF, newest first: when, who, from, to, why."""
