"""`skyhold repository delete`"""

from __future__ import annotations

import click

from skyhold.cli.arguments import confirm, repository_argument, yes_option
from skyhold.cli.command import Session, verb


@verb(
    repository_argument(),
    yes_option(),
    examples=("skyhold repository delete fraud/scorer", "skyhold repository delete fraud/scorer --yes"),
    exits=(2, 3, 5, 6, 8, 9),
    changes=True,
)
def command(session: Session, *, repository: str, yes: bool) -> None:
    """Delete a repository: its name is free, its refs are out of reach.

    Its data stays, so that `undelete` can bring all of it back.
    """
    with session.store() as store:
        store.repository(repository)  # what does not exist is told before the question
        confirm(f"Delete {repository}? It can be brought back.", yes=yes)
        store.delete_repository(repository)
    session.output.show(
        {"repository": repository, "deleted": True},
        quiet=[repository],
        human=lambda: click.echo(f"Deleted {repository}"),
    )
    session.output.next_step(f"skyhold repository undelete {repository}   # the way back")
