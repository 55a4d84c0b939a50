"""The command line described from its own code: the help of every command, and the page of the reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import click

from skyhold.cli.exits import MEANINGS
from skyhold.cli.group import skyhold
from skyhold.cli.program import PROGRAM
from skyhold.cli.verbs import VERBS

HELP_COLUMNS: Final = 80


def every_command() -> Iterator[str]:
    """The words of every command after `skyhold`, in the order of the listing; first the empty ones of itself."""
    yield ""
    seen: set[str] = set()
    for verb in VERBS:
        words = verb.words.split(" ")
        for group in (" ".join(words[:length]) for length in range(1, len(words))):
            if group not in seen:
                seen.add(group)
                yield group
        yield verb.words


def find_command(words: str) -> tuple[click.Command, click.Context]:
    """The command of these words, and the context in which it runs. Raises `KeyError` where there is none."""
    command: click.Command = skyhold
    context = skyhold.make_context(PROGRAM, [], resilient_parsing=True, terminal_width=HELP_COLUMNS)
    for word in words.split():
        found = command.get_command(context, word) if isinstance(command, click.Group) else None
        if found is None:
            raise KeyError(words)
        command, context = found, click.Context(found, info_name=word, parent=context)
    return command, context


def help_text(words: str) -> str:
    """What `skyhold … --help` prints on a terminal of 80 columns."""
    _, context = find_command(words)
    return context.get_help() + "\n"


def reference_page() -> str:
    """The page `docs/reference/cli.md`."""
    lines = [
        "# The command line",
        "",
        "Written by `tools/reference` from the code; do not edit.",
        "",
        "Data goes to stdout, progress and everything else to stderr. Every command that answers takes `--json` (one",
        'JSON document on stdout; an error is one on stderr, `{"error": …}`) and `--quiet` (bare names or ids).',
        "`NO_COLOR` is honoured. Interrupted work continues when the same command is run again.",
        "",
        "## Exit statuses",
        "",
        "| status | meaning |",
        "|---|---|",
        *(f"| {status} | {meaning} |" for status, meaning in MEANINGS.items()),
    ]
    for words in every_command():
        title = f"{PROGRAM} {words}".strip()
        lines += ["", f"## `{title}`", "", "```text", help_text(words).rstrip(), "```"]
    return "\n".join(lines) + "\n"
