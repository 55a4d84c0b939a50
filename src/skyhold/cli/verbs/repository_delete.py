"""`skyhold repository delete`"""

from __future__ import annotations

import click

from skyhold.cli.arguments import author_option, confirm, reason_option, repository_argument, yes_option
from skyhold.cli.command import Invocation, verb


@verb(
    repository_argument(),
    click.Option(["--force"], is_flag=True, help="Delete it even if something still uses it."),
    yes_option(),
    author_option(),
    reason_option(),
    examples=("skyhold repository delete fraud/scorer", "skyhold repository delete fraud/scorer --yes"),
    exits=(2, 3, 5, 6, 8, 9),
    changes=True,
)
def command(session: Invocation, *, repository: str, force: bool, yes: bool, author: str | None, reason: str) -> None:
    """Delete a repository: its name is free, its refs are out of reach.

    Its data stays, so that `undelete` can bring all of it back. If something follows one of its refs, or has pinned
    a version, the command is refused; with --force it is done, and reports what that breaks.
    """
    with session.store() as store:
        store.repository(repository)  # a missing repository is reported before the question
        confirm(f"Delete {repository}? It can be brought back.", yes=yes)
        broken = store.delete_repository(repository, force=force, author=author, reason=reason)
    session.output.show(
        {"repository": repository, "deleted": True, "broken": broken},
        quiet=[repository],
        human=lambda: click.echo("\n".join([f"Deleted {repository}", *(f"broken: {what}" for what in broken)])),
    )
    session.output.next_step(f"skyhold repository undelete {repository}   # the way back")
