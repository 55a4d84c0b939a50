"""`skyhold rollback`"""

from __future__ import annotations

import click

from skyhold.cli.arguments import Reference, author_option, reason_option, reference_argument
from skyhold.cli.command import Invocation, verb


@verb(
    reference_argument(ref_needed=True),
    click.Option(["--to"], metavar="REF", help="A version that the ref pointed to; by default the one before."),
    reason_option(),
    author_option(),
    examples=(
        "skyhold rollback fraud/scorer@champion --reason 'False alarms since noon'",
        "skyhold rollback fraud/scorer@champion --to 3f2a9c01de",
    ),
    exits=(2, 3, 5, 6, 8, 9),
    changes=True,
)
def command(session: Invocation, *, reference: Reference, to: str | None, reason: str, author: str | None) -> None:
    """Move a branch or alias back to the version that it pointed to before its last move."""
    from skyhold.cli.refs import answer_moves

    with session.store() as store:
        move = store.repository(reference.repository).rollback(reference.ref, to=to, author=author, reason=reason)
    answer_moves(session.output, reference.repository, [move])
    session.output.next_step(f"skyhold ref history {reference}")
