"""`skyhold tag`"""

from __future__ import annotations

import click

from skyhold.cli.arguments import Reference, author_option, reason_option, reference_argument
from skyhold.cli.command import Invocation, verb


@verb(
    reference_argument(),
    click.Argument(["names"], nargs=-1, required=True, metavar="NAME…"),
    reason_option(),
    author_option(),
    examples=("skyhold tag fraud/scorer v1.2", "skyhold tag fraud/scorer@3f2a9c01de audited-2026 v1.2.1"),
    exits=(2, 3, 4, 5, 6, 8, 9),
    changes=True,
)
def command(
    session: Invocation, *, reference: Reference, names: tuple[str, ...], reason: str, author: str | None
) -> None:
    """Name a version (that of `main`, without @REF) permanently: a tag never moves."""
    from skyhold.cli.refs import answer_moves

    with session.store() as store:
        moves = store.repository(reference.repository).set_refs(
            {f"tag/{name}": reference.ref for name in names}, author=author, reason=reason
        )
    answer_moves(session.output, reference.repository, moves)
