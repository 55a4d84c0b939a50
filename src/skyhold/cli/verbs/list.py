"""`skyhold list`"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from skyhold.cli.command import Invocation, verb

if TYPE_CHECKING:
    from skyhold.registry.views import RepositoryInfo


@verb(
    click.Option(["--deleted"], is_flag=True, help="Those that were deleted and can be brought back."),
    examples=("skyhold list", "skyhold list --json", "skyhold list --deleted"),
    exits=(2, 3, 6, 8, 10),
    reads=True,
)
def command(session: Invocation, *, deleted: bool) -> None:
    """List the repositories of the store."""
    with session.store() as store:
        repositories = store.repositories(deleted=deleted)
    document: dict[str, object] = {
        "repositories": repositories,
        "unread": store.unread,
    }
    session.output.show(
        document, quiet=[repository.name for repository in repositories], human=lambda: _show(repositories, deleted)
    )
    session.output.refuse_unread(store.unread)
    if not repositories and not deleted:
        session.output.next_step("skyhold push team/model PATH")


def _show(repositories: Sequence[RepositoryInfo], deleted: bool) -> None:
    from skyhold.cli.render import line, marked, short, table

    if not repositories:
        line("No repository was deleted" if deleted else "The store has no repositories yet")
    elif deleted:
        table(["repository", "deleted"], [(marked(info.name, "name"), info.deleted or "-") for info in repositories])
    else:
        rows = [
            (
                marked(info.name, "name"),
                str(info.versions),
                str(info.branches),
                str(info.tags),
                info.updated or "-",
                ", ".join(f"{name}={short(version)}" for name, version in sorted(info.aliases.items())),
            )
            for info in repositories
        ]
        numbers = ("versions", "branches", "tags")
        table(["repository", *numbers, "updated", "aliases"], rows, right=numbers)
