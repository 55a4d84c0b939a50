"""`skyhold repository undelete`"""

from __future__ import annotations

import click

from skyhold.cli.arguments import author_option, reason_option, repository_argument
from skyhold.cli.command import Invocation, verb


@verb(
    repository_argument(),
    author_option(),
    reason_option(),
    examples=("skyhold list --deleted", "skyhold repository undelete fraud/scorer"),
    exits=(2, 3, 4, 5, 6, 8, 9),
    changes=True,
)
def command(session: Invocation, *, repository: str, author: str | None, reason: str) -> None:
    """Bring a deleted repository back under its name, with all its refs and versions."""
    with session.store() as store:
        store.undelete_repository(repository, author=author, reason=reason)
    session.output.show(
        {"repository": repository, "deleted": False},
        quiet=[repository],
        human=lambda: click.echo(f"Brought {repository} back"),
    )
    session.output.next_step(f"skyhold log {repository}")
