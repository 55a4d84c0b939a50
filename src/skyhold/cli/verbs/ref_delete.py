"""`skyhold ref delete`"""

from __future__ import annotations

import click

from skyhold.cli import candidates
from skyhold.cli.arguments import author_option, confirm, reason_option, repository_argument, yes_option
from skyhold.cli.command import Invocation, verb


@verb(
    repository_argument(),
    click.Argument(["refs"], nargs=-1, required=True, metavar="KIND/NAME…", shell_complete=candidates.refs),
    reason_option(),
    author_option(),
    click.Option(["--force"], is_flag=True, help="Delete it even if something follows it."),
    yes_option(),
    examples=("skyhold ref delete fraud/scorer alias/candidate", "skyhold ref delete fraud/scorer tag/v0 --yes"),
    exits=(2, 3, 5, 6, 8, 9),
    changes=True,
)
def command(
    session: Invocation,
    *,
    repository: str,
    refs: tuple[str, ...],
    reason: str,
    author: str | None,
    force: bool,
    yes: bool,
) -> None:
    """Delete refs: all that are named, at once, or none of them. Their versions and their history stay."""
    from skyhold.cli.refs import answer_moves

    confirm(f"Delete {', '.join(refs)} of {repository}?", yes=yes)
    with session.store() as store:
        moves = store.repository(repository).set_refs(dict.fromkeys(refs), author=author, reason=reason, force=force)
    answer_moves(session.output, repository, moves)
