"""Refs and their moves, as several verbs answer with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from skyhold.cli.output import Output

if TYPE_CHECKING:
    from skyhold.registry.repository import Move, Ref


def answer_refs(output: Output, repository: str, refs: Sequence[Ref], kind: str | None = None) -> None:
    """Answer with the refs, all or those of one kind."""
    chosen = [ref for ref in refs if kind in {None, ref.kind}]
    output.show(
        {"repository": repository, "refs": [ref.to_json() for ref in chosen]},
        quiet=[f"{ref.kind}/{ref.name}" for ref in chosen],
        human=lambda: tell_refs(repository, chosen),
    )


def tell_refs(repository: str, refs: Sequence[Ref]) -> None:
    from skyhold.cli.render import line, marked, short, table

    if not refs:
        line(f"{repository} has none yet")
        return
    table(
        ["kind", "name", "version"],
        [(ref.kind, marked(ref.name, "name"), marked(short(ref.version), "id")) for ref in refs],
    )


def answer_moves(output: Output, repository: str, moves: Sequence[Move]) -> None:
    """Answer with the moves that were just made."""
    output.show(
        {"repository": repository, "moves": [move.to_json() for move in moves]},
        quiet=[f"{move.ref} {move.new or '-'}" for move in moves],
        human=lambda: tell_moves(repository, moves),
    )


def tell_moves(repository: str, moves: Sequence[Move]) -> None:
    """`alias/champion of fraud/scorer: 3f2a9c01de → 77b0e1c2aa`"""
    from skyhold.cli.render import line, marked, short

    if not moves:
        line(f"Nothing to change: the refs of {repository} stand there already")
    for move in moves:
        ref = marked(move.ref, "name")
        if move.new is None:
            line("Deleted ", ref, f" of {repository}; it stood at ", marked(short(move.old), "id"))
        elif move.old is None:
            line("Created ", ref, f" of {repository} at ", marked(short(move.new), "id"))
        else:
            line(
                "Moved ",
                ref,
                f" of {repository} from ",
                marked(short(move.old), "id"),
                " to ",
                marked(short(move.new), "id"),
            )
