"""Where output goes: data to stdout (for people, as JSON, or bare), everything else to stderr."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import click


@dataclass(frozen=True, slots=True)
class Output:
    """How one command answers. With `json`, stdout is exactly one JSON document; with `quiet`, bare names or ids."""

    json: bool = False
    quiet: bool = False

    def show(self, document: Mapping[str, object], *, quiet: Iterable[str], human: Callable[[], None]) -> None:
        """Answer with one of three renderings of the same result."""
        if self.json:
            write_json(document)
        elif self.quiet:
            for line in quiet:
                click.echo(printable(line))
        else:
            human()

    def next_step(self, sentence: str) -> None:
        """What a person may want to do now; not for scripts."""
        if not self.json and not self.quiet:
            label = click.style("next:", fg="cyan")
            click.echo(f"{label} {sentence}", err=True, color=color())


def write_json(document: Mapping[str, object], *, err: bool = False) -> None:
    """One JSON document, in UTF-8 whatever the locale is (RFC 8259)."""
    import json

    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    click.echo(text.encode("utf-8", "backslashreplace"), err=err)


def printable(text: str) -> str:
    """`text` safe for a terminal: what others wrote into messages and file names cannot move the cursor or hide text.

    Characters that do not print (controls, escapes, direction overrides, lone surrogates) become backslash escapes.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def counted(number: int, thing: str) -> str:
    """`1 bucket`, `3 buckets`"""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def color() -> bool | None:
    """For `click.echo`: False where the user wants no colour (no-color.org), else None: as the terminal can."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None
