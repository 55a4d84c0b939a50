"""`skyhold branch delete`"""

from __future__ import annotations

import click

from skyhold.cli import candidates
from skyhold.cli.arguments import author_option, confirm, reason_option, repository_argument, yes_option
from skyhold.cli.command import Invocation, verb


@verb(
    repository_argument(),
    click.Argument(["name"], shell_complete=candidates.branches),
    reason_option(),
    author_option(),
    click.Option(["--force"], is_flag=True, help="Delete it even if something follows it."),
    yes_option(),
    examples=("skyhold branch delete fraud/scorer experiment --yes",),
    exits=(2, 3, 5, 6, 8, 9),
    changes=True,
)
def command(
    session: Invocation, *, repository: str, name: str, reason: str, author: str | None, force: bool, yes: bool
) -> None:
    """Delete a branch. Its versions and its history stay."""
    from skyhold.cli.refs import answer_moves

    confirm(f"Delete branch {name} of {repository}?", yes=yes)
    with session.store() as store:
        moves = store.repository(repository).set_refs(
            {f"branch/{name}": None}, author=author, reason=reason, force=force
        )
    answer_moves(session.output, repository, moves)
