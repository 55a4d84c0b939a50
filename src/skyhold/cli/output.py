"""Where output goes: data to stdout (as text, as JSON, or bare), everything else to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from skyhold import error_codes
from skyhold.errors import Corrupt

if TYPE_CHECKING:
    from skyhold.registry.store import Store
    from skyhold.store.engine_status import StaleRead
    from skyhold.store.unreadable_repositories import UnreadableRepository


@dataclass(frozen=True, slots=True)
class Output:
    """How one command answers. With `json`, stdout is exactly one JSON document; with `quiet`, bare names or ids."""

    json: bool = False
    quiet: bool = False
    changes: bool = False
    """Whether the command has done its work when it answers: its status then reports that, even if the answer cannot be
    written."""
    _stores: list[Store] = field(default_factory=list)

    def watch(self, store: Store) -> None:
        """Report with the answer which reads of this store were stale."""
        self._stores.append(store)

    def show(self, result: object, *, quiet: Iterable[str], human: Callable[[], None]) -> None:
        """Answer with one of three renderings of the same result: a dataclass, or an object of such."""
        try:
            self._answer(result, quiet, human)
            sys.stdout.flush()
        except OSError as error:
            if not self.changes:
                raise
            discard_stdout()
            print_stderr(f"Standard output cannot be written ({error.strerror}); the command has done its work")

    def _answer(self, result: object, quiet: Iterable[str], human: Callable[[], None]) -> None:
        if self.json:
            from skyhold.json_form import as_json

            stale = {"stale": as_json(self._stale())} if self._stores else {}
            write_json({**as_json(result), **stale})
        elif self.quiet:
            for line in quiet:
                click.echo(printable(line))
        else:
            human()

    def line(self, result: object, human: str) -> None:
        """Show one of several results that come one after the other: one line each, in JSON one object each."""
        import json

        from skyhold.json_form import as_json

        click.echo(json.dumps(as_json(result)).replace("\x7f", "\\u007f") if self.json else printable(human))
        sys.stdout.flush()

    def show_stale(self) -> None:
        """Print on stderr the stale reads on which an answer depends."""
        label = click.style("stale:", fg="yellow")
        for read in self._stale():
            known = "decided" if read.decided else "accepted by a voter, and perhaps not decided"
            age = "" if read.age_s is None else f", the newest at most {read.age_s:.0f} s ago"
            silent = f"; {', '.join(read.silent)} did not answer" if read.silent else ""
            text = (
                f"register {read.register} as of version {read.version}, {known}, at {read.time or 'an unknown time'}"
            )
            text = printable(f"{text} by {read.writer or 'an unknown writer'}{age}{silent}")
            print_stderr(f"{label} {text}")

    def _stale(self) -> list[StaleRead]:
        return [read for store in self._stores for read in store.stale]

    def refuse_unread(self, unread: Sequence[UnreadableRepository]) -> None:
        """End a command after an answer that lacks the repositories that could not be read."""
        if not unread:
            return
        from skyhold.json_form import as_json

        if not self.json:
            for repository in unread[1:]:
                click.echo(
                    f"{click.style('damage:', fg='red')} {printable(repository.sentence)}", err=True, color=color()
                )
        first = unread[0]
        raise Corrupt(
            f"{counted(len(unread), 'repository', 'repositories')} could not be read. {first.name}: {first.message}",
            code=error_codes.REPOSITORIES_UNREAD,
            hint=first.hint,
            repositories=as_json(unread),
        )

    def refuse_lost(self, unread: Mapping[str, str]) -> None:
        """End a command after an answer that lacks what the documents of some versions contain. `unread` is why, by
        version."""
        if unread:
            version, fault = next(iter(unread.items()))
            raise Corrupt(
                f"The documents of {counted(len(unread), 'version')} cannot be read. {version[:10]}: {fault}",
                code=error_codes.VERSIONS_UNREAD,
                hint="Mend it, or see what is lost with it: skyhold repair",
                versions=sorted(unread),
            )

    def next_step(self, sentence: str) -> None:
        """Suggest the next command to a user; not for scripts."""
        if not self.json and not self.quiet:
            label = click.style("next:", fg="cyan")
            print_stderr(f"{label} {sentence}")


def print_stderr(line: str) -> None:
    """Write a line to stderr. Where stderr cannot be written, the command continues."""
    with suppress(OSError):
        click.echo(line, err=True, color=color())


def write_bytes(pieces: Iterable[bytes]) -> None:
    """Write all of the pieces to stdout. Raises `OSError`."""
    for piece in pieces:
        left = memoryview(piece)
        while left:  # of a stdout without a buffer (PYTHONUNBUFFERED), one write may take a part
            left = left[sys.stdout.buffer.write(left) :]
    sys.stdout.buffer.flush()


def discard_stdout() -> None:
    """Python flushes stdout once more at its end; give it a place where that succeeds."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def write_json(document: Mapping[str, object], *, err: bool = False) -> None:
    """One JSON document, in UTF-8 whatever the locale is (RFC 8259), safe for a terminal as `printable` is: characters
    that control it or change the direction of text are escaped, as JSON itself does for the first 32 only."""
    import json

    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    if not text.isascii() or "\x7f" in text:
        text = "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)
    click.echo(text.encode(), err=err)


def printable(text: str) -> str:
    """`text` made safe for a terminal: foreign messages and file names cannot move the cursor or hide text.

    Characters that do not print (controls, escapes, direction overrides, lone surrogates) become backslash escapes.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def counted(number: int, thing: str, things: str | None = None) -> str:
    """`1 bucket`, `3 buckets`"""
    return f"{number} {thing}" if number == 1 else f"{number} {things or thing + 's'}"


def color() -> bool | None:
    """For `click.echo`: False where the user wants no colour (no-color.org), else None: as the terminal can."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None
