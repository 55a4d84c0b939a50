"""Refs and their moves, as several verbs answer with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from skyhold.cli.output import Output

if TYPE_CHECKING:
    from skyhold.registry.views import MoveView, RefView


def answer_refs(output: Output, repository: str, refs: Sequence[RefView], kind: str = "") -> None:
    """Answer with the refs, all or those of one kind (`branch`)."""
    chosen = [ref for ref in refs if ref.name.startswith(f"{kind}/" if kind else "")]
    output.show(
        {"repository": repository, "refs": chosen},
        quiet=[ref.name.removeprefix(f"{kind}/") for ref in chosen],
        human=lambda: _show_refs(repository, chosen),
    )
    output.refuse_lost({ref.id: ref.unread for ref in chosen if ref.unread})


def answer_moves(output: Output, repository: str, moves: Sequence[MoveView]) -> None:
    """Answer with the moves that were just made."""
    output.show(
        {"repository": repository, "moves": moves},
        quiet=[f"{move.ref} {move.new or '-'}" for move in moves],
        human=lambda: _show_moves(repository, moves),
    )


def _show_refs(repository: str, refs: Sequence[RefView]) -> None:
    from skyhold.cli.render import line, marked, short, table

    if not refs:
        line(f"{repository} has none yet")
        return
    rows = [
        (
            marked(ref.name, "name"),
            marked(short(ref.version), "id"),
            ref.time,
            "(lost)" if ref.unread else ref.message.partition("\n")[0],
        )
        for ref in refs
    ]
    table(["ref", "version", "time", "message"], rows)


def _show_moves(repository: str, moves: Sequence[MoveView]) -> None:
    from skyhold.cli.render import line, marked, short

    if not moves:
        line(f"Nothing to change: the refs of {repository} point there already")
    for move in moves:
        ref, old, new = marked(move.ref, "name"), marked(short(move.old), "id"), marked(short(move.new), "id")
        if move.new is None:
            line("Deleted ", ref, f" of {repository}; it pointed to ", old)
        elif move.old is None:
            line("Created ", ref, f" of {repository} at ", new)
        else:
            line("Moved ", ref, f" of {repository} from ", old, " to ", new)
