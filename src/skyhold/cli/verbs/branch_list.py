"""`skyhold branch list`"""

from __future__ import annotations

from skyhold.cli.arguments import repository_argument
from skyhold.cli.command import Invocation, verb


@verb(
    repository_argument(),
    examples=("skyhold branch list fraud/scorer", "skyhold branch list fraud/scorer --quiet"),
    exits=(2, 3, 6, 8, 10),
    reads=True,
)
def command(session: Invocation, *, repository: str) -> None:
    """List the branches of a repository, and the versions that they point to."""
    from skyhold.cli.refs import answer_refs

    with session.store() as store:
        answer_refs(session.output, repository, store.repository(repository).refs(), kind="branch")
