"""`skyhold attach`"""

from __future__ import annotations

import click

from skyhold.cli.arguments import Reference, author_option, metrics_option, reason_option, reference_argument
from skyhold.cli.command import Invocation, verb
from skyhold.cli.output import counted


@verb(
    reference_argument(ref_needed=True),
    metrics_option(),
    click.Option(["--note", "notes"], multiple=True, metavar="TEXT", help="A note; may be repeated."),
    author_option(),
    reason_option(),
    examples=(
        "skyhold attach fraud/scorer@champion --metric accuracy_live=0.91",
        'skyhold attach fraud/scorer@3f2a9c01de --note "Passed the review of 3 March" --author Ada',
    ),
    exits=(2, 3, 5, 6, 7, 8, 9),
    changes=True,
)
def command(
    session: Invocation,
    *,
    reference: Reference,
    metrics: dict[str, float],
    notes: tuple[str, ...],
    author: str | None,
    reason: str,
) -> None:
    """Add metrics and notes to a version that is stored; it stays the same version. Of a metric, the last value counts,
    and all are kept."""
    if not metrics and not notes:
        raise click.UsageError("Nothing to attach: give --metric or --note")
    with session.store() as store:
        repository = store.repository(reference.repository)
        repository.attach(reference.ref, metrics=metrics, notes=notes, author=author, reason=reason)
        version = repository.show(reference.ref)
    session.output.show(
        version, quiet=[version.id], human=lambda: _show(reference, version.id, len(metrics), len(notes))
    )


def _show(reference: Reference, version: str, metrics: int, notes: int) -> None:
    from skyhold.cli.render import line, marked, short

    line(
        f"Attached {counted(metrics, 'metric')} and {counted(notes, 'note')} to {reference}: version ",
        marked(short(version), "id"),
    )
