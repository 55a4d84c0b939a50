"""`skyhold search`"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from skyhold.cli.command import Invocation, verb

if TYPE_CHECKING:
    from skyhold.registry.views import SearchHit


@verb(
    click.Argument(["query"], nargs=-1, required=True, metavar="QUERY…"),
    examples=(
        "skyhold search fraud champion",
        "skyhold search 'accuracy>0.9' alias:champion",
        "skyhold search 'tag:v1*' --json",
    ),
    exits=(2, 3, 6, 8, 10),
    reads=True,
)
def command(session: Invocation, *, query: tuple[str, ...]) -> None:
    """Find versions by their properties; a version matches if all terms match.

    \b
    bert                    repositories with this in their name
    champion                versions with a ref of this name
    tag:v1* alias:champion  refs by name or glob (also ref:, branch:)
    author:ada id:3f2a      author; beginning of a version's id
    accuracy>0.9            a metric (= != < <= > >=; quote it for the shell)
    param.lr<=0.01          a parameter
    """
    with session.store() as store:
        hits = store.search(" ".join(query))
    session.output.show(
        {
            "query": " ".join(query),
            "hits": hits,
            "unread": store.unread,
        },
        quiet=[f"{hit.repository}@{hit.id}" for hit in hits],
        human=lambda: _show(hits),
    )
    session.output.refuse_unread(store.unread)


def _show(hits: Sequence[SearchHit]) -> None:
    from skyhold.cli.render import line, marked, short, table

    if not hits:
        line("Nothing was found")
        return
    rows = [
        (
            marked(hit.repository, "name"),
            marked(short(hit.version), "id"),
            hit.time,
            ", ".join(hit.refs),
            ", ".join(f"{name}={value:g}" for name, value in sorted(hit.metrics.items())),
        )
        for hit in hits
    ]
    table(["repository", "version", "time", "refs", "metrics"], rows)
