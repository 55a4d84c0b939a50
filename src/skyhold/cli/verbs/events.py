"""`skyhold events`"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

import click

from skyhold.cli import candidates
from skyhold.cli.command import Invocation, verb
from skyhold.cli.exits import INTERRUPTED
from skyhold.cli.time_argument import TimeType

if TYPE_CHECKING:
    from rich.text import Text

    from skyhold.registry.views import EventView


@verb(
    click.Argument(["repository"], required=False, metavar="[TEAM/NAME]", shell_complete=candidates.repositories),
    click.Option(
        ["--since"],
        type=TimeType(),
        metavar="TIME",
        help="No older events: 30m, 12h, 7d (ago), or a date or time in UTC, such as 2026-11-23T20:05:02Z.",
    ),
    click.Option(["-n", "--limit"], type=click.IntRange(1), metavar="N", help="At most N events."),
    click.Option(["--follow", "-f"], is_flag=True, help="Continue with new events until interrupted."),
    examples=(
        "skyhold events",
        "skyhold events fraud/scorer --since 7d",
        "skyhold events --since 2026-11-23 --json",
        "skyhold events fraud/scorer --follow",
    ),
    exits=(2, 3, 6, 8, 10),
    reads=True,
)
def command(session: Invocation, *, repository: str | None, since: str | None, limit: int | None, follow: bool) -> None:
    """Show what was changed, newest first: when, by whom, what and why. Of one repository, or of the whole store: its
    buckets, names, repositories and documents.

    Every change is an event in a hash chain, which `skyhold verify` checks; no event can be removed from it. With
    --follow, the events that --since or --limit select come first, the oldest at the beginning, and each later event
    within about six seconds; with --json, one object a line.
    """
    if follow:
        _follow(session, repository, since, limit)
        return
    with session.store() as store:
        if repository is not None:
            events = store.repository(repository).events(since=since, limit=limit)
        else:
            events = store.events(since=since, limit=limit)
        unread = store.unread
    session.output.show(
        {"repository": repository, "events": events},
        quiet=[f"{event.register} {event.sequence}" for event in events],
        human=lambda: _show(events, one=repository is not None),
    )
    session.output.refuse_unread(unread)


def _follow(session: Invocation, repository: str | None, since: str | None, limit: int | None) -> None:
    from skyhold.store.watching import ResyncNeeded

    with session.store() as store:
        source = store if repository is None else store.repository(repository)
        coming = source.watch()
        before = source.events(since=since, limit=limit) if since is not None or limit is not None else []
        shown = {(event.register, event.chain) for event in before}
        new = (
            event for event in coming if isinstance(event, ResyncNeeded) or (event.register, event.chain) not in shown
        )
        with suppress(KeyboardInterrupt):  # the usual end, after which nothing is left to do
            for event in chain(reversed(before), new):
                if isinstance(event, ResyncNeeded):
                    session.output.line({"register": event.register, "resync": event.sequence},
                                        f"{event.register} went back to event {event.sequence}")  # fmt: skip
                else:
                    session.output.line(event, _line(event, one=repository is not None))
    raise click.exceptions.Exit(INTERRUPTED)


def _line(event: EventView, *, one: bool) -> str:
    from skyhold.cli.events import sentence

    of = "" if one else f" {event.register}"
    reason = f": {event.reason}" if event.reason else ""
    return f"{event.time}{of} {event.sequence} {'; '.join(map(sentence, event.changes))} ({event.author}){reason}"


def _show(events: Sequence[EventView], *, one: bool) -> None:
    from skyhold.cli.events import sentence
    from skyhold.cli.render import line, marked, table

    if not events:
        line("No such events")
        return
    rows: list[list[str | Text]] = []
    for event in events:
        author = event.author if event.actor == "person" else f"{event.author} ({event.actor})"
        register: list[str | Text] = [] if one else [marked(event.register, "name")]
        first, *others = [sentence(part) for part in event.changes] or [""]
        rows.append([event.time, *register, str(event.sequence), first, author, event.reason])
        rows += [["", *([] if one else [""]), "", other, "", ""] for other in others]
    table(["time", *([] if one else ["of"]), "event", "change", "author", "reason"], rows, right=("event",))
