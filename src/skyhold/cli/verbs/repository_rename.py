"""`skyhold repository rename`"""

from __future__ import annotations

import click

from skyhold.cli.arguments import author_option, reason_option, repository_argument
from skyhold.cli.command import Invocation, verb


@verb(
    repository_argument(),
    click.Argument(["new_name"], metavar="NEW_TEAM/NEW_NAME"),
    author_option(),
    reason_option(),
    examples=("skyhold repository rename fraud/scorer risk/scorer",),
    exits=(2, 3, 4, 5, 6, 8, 9),
    changes=True,
)
def command(session: Invocation, *, repository: str, new_name: str, author: str | None, reason: str) -> None:
    """Rename a repository. Its versions and refs stay what they are, and no data is rewritten."""
    with session.store() as store:
        store.rename_repository(repository, new_name, author=author, reason=reason)
    session.output.show(
        {"repository": new_name, "renamed_from": repository},
        quiet=[new_name],
        human=lambda: click.echo(f"Renamed {repository} to {new_name}"),
    )
