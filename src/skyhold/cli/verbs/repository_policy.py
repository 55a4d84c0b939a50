"""`skyhold repository policy`"""

from __future__ import annotations

from skyhold.cli.arguments import author_option, policy_of, policy_options, reason_option, repository_argument
from skyhold.cli.command import Invocation, verb


@verb(
    repository_argument(),
    *policy_options(),
    author_option(),
    reason_option(),
    examples=(
        "skyhold repository policy fraud/scorer",
        "skyhold repository policy fraud/scorer --copies 3 --providers 2",
    ),
    exits=(2, 3, 5, 6, 8, 9),
    changes=True,
)
def command(
    session: Invocation,
    *,
    repository: str,
    copies: str | None,
    providers: int | None,
    regions: tuple[str, ...],
    delta: str | None,
    author: str | None,
    reason: str,
) -> None:
    """Show a repository's policy and what a loss would cost, or change what is given of it.

    A change holds for versions pushed from now on; `skyhold sync` brings the older ones to it.
    """
    from skyhold.cli.policy import show_policy

    with session.store() as store:
        opened = store.repository(repository)
        policy = policy_of(opened.policy, copies=copies, providers=providers, regions=regions, delta=delta)
        if policy != opened.policy:
            opened.set_policy(policy, author=author, reason=reason)
        buckets = store.configuration.locations
    document = {"repository": repository, "policy": policy}
    session.output.show(document, quiet=[], human=lambda: show_policy(repository, policy, buckets))
