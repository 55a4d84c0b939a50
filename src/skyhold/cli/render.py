"""Tables and marked lines on stdout, by Rich. Everything that users wrote passes `printable` first."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from skyhold.cli.output import color, printable

SHORT_ID_CHARACTERS: Final = 10
_UNLIMITED_COLUMNS: Final = 100_000
_STYLES: Final = {"good": "green", "bad": "bold red", "warn": "yellow", "id": "yellow", "name": "bold", "dim": "dim"}


def short(version: str | None) -> str:
    """A version's id as tables show it."""
    return (version or "-")[:SHORT_ID_CHARACTERS]


def marked(text: str, mark: str) -> Text:
    """A cell or line in the style of `mark`: good, bad, warn, id, name or dim. The words must be clear without
    colour."""
    return Text(printable(text), style=_STYLES[mark])


def line(*parts: str | Text) -> None:
    """One line of parts. It is never cut: a terminal wraps it, a pipe gets it whole."""
    _write(Text.assemble(*(part if isinstance(part, Text) else printable(part) for part in parts)))


def table(headers: Sequence[str], rows: Iterable[Sequence[str | Text]], *, right: Sequence[str] = ()) -> None:
    """A table with columns as wide as they need; those named in `right` are numbers and are aligned right."""
    drawn = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for header in headers:
        drawn.add_column(header, justify="right" if header in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(cell if isinstance(cell, Text) else Text(printable(cell)) for cell in row))
    _write(drawn)


def properties(pairs: Iterable[tuple[str, str | Text]]) -> None:
    """Names and values under each other, indented; pairs with an empty value are left out."""
    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(style="dim", no_wrap=True)
    drawn.add_column(overflow="fold")
    for name, value in pairs:
        if value:
            drawn.add_row(f"  {name}", value if isinstance(value, Text) else Text(printable(value)))
    _write(drawn)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would end the process; `main` decides."""
        raise  # noqa: PLE0704 - the error that Rich is handling


def _write(drawn: Table | Text) -> None:
    terminal = sys.stdout.isatty()
    console = _Console(
        file=sys.stdout,
        highlight=False,
        width=None if terminal else _UNLIMITED_COLUMNS,
        color_system=None if color() is False else "auto",  # Rich itself would leave bold and dim
    )
    if isinstance(drawn, Text):
        console.print(drawn, soft_wrap=True)
        return
    with console.capture() as captured:
        console.print(drawn)
    for text in captured.get().splitlines():
        sys.stdout.write(text.rstrip() + "\n")
