"""`skyhold ref list`"""

from __future__ import annotations

from skyhold.cli.arguments import repository_argument
from skyhold.cli.command import Invocation, verb


@verb(
    repository_argument(),
    examples=("skyhold ref list fraud/scorer", "skyhold ref list fraud/scorer --json"),
    exits=(2, 3, 6, 8, 10),
    reads=True,
)
def command(session: Invocation, *, repository: str) -> None:
    """List the branches, tags and aliases of a repository, and the versions that they point to."""
    from skyhold.cli.refs import answer_refs

    with session.store() as store:
        answer_refs(session.output, repository, store.repository(repository).refs())
