"""`skyhold list`"""

from __future__ import annotations

import click

from skyhold.cli.command import Session, verb


@verb(
    click.Option(["--deleted"], is_flag=True, help="Those that were deleted and can be brought back."),
    examples=("skyhold list", "skyhold list --json", "skyhold list --deleted"),
    exits=(2, 3, 6, 8, 10),
)
def command(session: Session, deleted: bool) -> None:
    """List the repositories of the store."""
    with session.store() as store:
        repositories = store.repositories(deleted=deleted)
    document: dict[str, object] = {"repositories": [repository.to_json() for repository in repositories]}
    session.output.show(
        document, quiet=[repository.name for repository in repositories], human=lambda: _tell(repositories, deleted)
    )
