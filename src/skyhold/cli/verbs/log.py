"""`skyhold log`"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from skyhold.cli.arguments import Reference, reference_argument
from skyhold.cli.command import Invocation, verb

if TYPE_CHECKING:
    from skyhold.registry.views import LogEntry


@verb(
    reference_argument(),
    click.Option(["--first-parent"], is_flag=True, help="Follow only the first parent of each version."),
    click.Option(["-n", "--limit"], type=click.IntRange(1), metavar="N", help="At most so many versions."),
    examples=("skyhold log fraud/scorer", "skyhold log fraud/scorer@champion -n 5", "skyhold log fraud/scorer --json"),
    exits=(2, 3, 6, 8, 10),
    reads=True,
)
def command(session: Invocation, *, reference: Reference, first_parent: bool, limit: int | None) -> None:
    """Show the versions that lead to a ref, newest first, as a graph, with the refs that point to each.

    Without @REF it is the branch `main`.
    """
    with session.store() as store:
        entries = store.repository(reference.repository).log(reference.ref, first_parent=first_parent, limit=limit)
    document = {"repository": reference.repository, "versions": entries}
    session.output.show(document, quiet=[entry.id for entry in entries], human=lambda: _show(entries))
    session.output.refuse_lost({entry.id: entry.unread for entry in entries if entry.unread})


def _show(entries: Sequence[LogEntry]) -> None:
    from skyhold.cli.graph import draw_graph
    from skyhold.cli.render import line, marked, short

    shown = {entry.digest for entry in entries}
    history = [(entry.digest, tuple(p for p in entry.parents if p in shown)) for entry in entries]
    for entry, (row, below) in zip(entries, draw_graph(history), strict=True):
        refs = f" ({', '.join(entry.refs)})" if entry.refs else ""
        subject = "(lost)" if entry.unread else entry.message.partition("\n")[0] or "(no message)"
        metrics = "".join(f"  {name}={value:g}" for name, value in sorted(entry.metrics.items()))
        line(
            *(row, " ", marked(short(entry.digest), "id"), marked(refs, "name"), " ", subject, marked(metrics, "good")),
            marked(f"  {entry.time} {entry.author}", "dim"),
        )
        for connection in below:
            line(connection)
