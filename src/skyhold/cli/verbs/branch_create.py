"""`skyhold branch create`"""

from __future__ import annotations

import click

from skyhold.cli.arguments import Reference, author_option, reason_option, reference_argument
from skyhold.cli.command import Invocation, verb


@verb(
    reference_argument(),
    click.Argument(["name"]),
    reason_option(),
    author_option(),
    examples=(
        "skyhold branch create fraud/scorer experiment",
        "skyhold branch create fraud/scorer@v1.2 hotfix",
    ),
    exits=(2, 3, 4, 5, 6, 8, 9),
    changes=True,
)
def command(session: Invocation, *, reference: Reference, name: str, reason: str, author: str | None) -> None:
    """Create a branch at a version (that of `main`, without @REF). A branch that exists is left as it is."""
    from skyhold.cli.refs import answer_moves

    ref = f"branch/{name}"
    with session.store() as store:
        moves = store.repository(reference.repository).set_refs(
            {ref: reference.ref}, expected={ref: None}, author=author, reason=reason
        )
    answer_moves(session.output, reference.repository, moves)
