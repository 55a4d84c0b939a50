"""`skyhold repository create`"""

from __future__ import annotations

from skyhold.cli.arguments import author_option, policy_of, policy_options, reason_option, repository_argument
from skyhold.cli.command import Invocation, verb


@verb(
    repository_argument(),
    *policy_options(),
    author_option(),
    reason_option(),
    examples=(
        "skyhold repository create fraud/scorer",
        "skyhold repository create health/triage --copies 3 --providers 2 --region 'eu-*'",
    ),
    exits=(2, 3, 4, 5, 6, 8, 9),
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
    """Make a repository. A push makes it too; here its policy can be given, else it has the store's."""
    from skyhold.cli.policy import show_policy

    with session.store() as store:
        default = store.configuration.policy
        policy = policy_of(default, copies=copies, providers=providers, regions=regions, delta=delta)
        made = store.create_repository(repository, policy=policy, author=author, reason=reason)
        buckets = store.configuration.locations
    document = {"repository": made.name, "id": made.id, "policy": policy}
    session.output.show(document, quiet=[made.id], human=lambda: show_policy(f"Made {made.name}", policy, buckets))
