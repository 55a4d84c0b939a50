"""`skyhold ref set`"""

from __future__ import annotations

import click

from skyhold.cli.arguments import author_option, pairs_option, reason_option, repository_argument
from skyhold.cli.command import Invocation, verb


@verb(
    repository_argument(),
    click.Argument(["changes"], nargs=-1, required=True, metavar="KIND/NAME=REF…"),
    pairs_option(["--expected"], "KIND/NAME=REF", "Refuse unless the ref points there now; may be repeated.", str),
    click.Option(["--force"], is_flag=True, help="Also move a branch to a version that does not descend from it."),
    reason_option(),
    author_option(),
    examples=(
        "skyhold ref set fraud/scorer alias/champion=main",
        "skyhold ref set fraud/scorer alias/champion=v7 alias/previous=v6 --reason 'Better recall'",
        "skyhold ref set fraud/scorer branch/main=3f2a9c01de --force",
    ),
    exits=(2, 3, 4, 5, 6, 8, 9),
    changes=True,
)
def command(
    session: Invocation,
    *,
    repository: str,
    changes: tuple[str, ...],
    expected: dict[str, str],
    force: bool,
    reason: str,
    author: str | None,
) -> None:
    """Create or move refs: all that are named, at once, or none of them.

    KIND is branch, tag or alias; REF is what follows @ in a reference: a ref, or the beginning of a version's id. A
    branch moves forward only (or with --force), a tag never, an alias freely.
    """
    from skyhold.cli.refs import answer_moves

    wanted: dict[str, str | None] = {}
    for change in changes:
        ref, equals, target = change.partition("=")
        if not equals or not target or ref in wanted:
            raise click.UsageError(f"Expected KIND/NAME=REF, each ref once, but got {change!r}")
        wanted[ref] = target
    with session.store() as store:
        moves = store.repository(repository).set_refs(
            wanted,
            expected=expected or None,
            author=author,
            reason=reason,
            force=force,
        )
    answer_moves(session.output, repository, moves)
