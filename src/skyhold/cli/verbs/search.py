"""`skyhold search`"""

from __future__ import annotations

import click

from skyhold.cli.command import Session, verb


@verb(
    click.Argument(["query"], nargs=-1, required=True, metavar="QUERY…"),
    examples=(
        "skyhold search fraud",
        "skyhold search 'accuracy>0.9' alias:champion",
        "skyhold search 'tag:v1*' --json",
    ),
    exits=(2, 3, 6, 8, 10),
)
def command(session: Session, *, query: tuple[str, ...]) -> None:
    """Find versions by repository name, ref, tag or metric; several words must all hold."""
    with session.store() as store:
        hits = store.search(" ".join(query))
    session.output.show(
        {"query": " ".join(query), "hits": [hit.to_json() for hit in hits]},
        quiet=[f"{hit.repository}@{hit.version}" for hit in hits],
        human=lambda: _tell(hits),
    )
