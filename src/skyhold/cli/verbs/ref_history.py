"""`skyhold ref history`"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from skyhold.cli.arguments import Reference, reference_argument
from skyhold.cli.command import Invocation, verb

if TYPE_CHECKING:
    from skyhold.registry.views import MoveView


@verb(
    reference_argument(),
    click.Option(["-n", "--limit"], type=click.IntRange(1), metavar="N", help="At most so many moves."),
    examples=("skyhold ref history fraud/scorer", "skyhold ref history fraud/scorer@champion --json"),
    exits=(2, 3, 6, 8, 10),
    reads=True,
)
def command(session: Invocation, *, reference: Reference, limit: int | None) -> None:
    """Show the moves of one ref, or of all refs without @REF, newest first: when, who, from, to, why."""
    ref = reference.ref if reference.given else None
    with session.store() as store:
        moves = store.repository(reference.repository).history(ref, limit=limit)
    document = {"repository": reference.repository, "moves": moves}
    quiet = [f"{move.ref} {move.new or '-'}" for move in moves]
    session.output.show(document, quiet=quiet, human=lambda: _show(moves))


def _show(moves: Sequence[MoveView]) -> None:
    from skyhold.cli.render import line, marked, short, table

    if not moves:
        line("No ref has moved yet")
        return
    rows = [
        (
            move.time,
            marked(move.ref, "name"),
            marked(short(move.old), "id"),
            marked(short(move.new), "id"),
            move.author,
            move.reason,
        )
        for move in moves
    ]
    table(["time", "ref", "from", "to", "author", "reason"], rows)
