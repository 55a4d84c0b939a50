"""`skyhold connect`"""

from __future__ import annotations

from typing import Final

import click

from skyhold.cli.arguments import confirm, yes_option
from skyhold.cli.command import Session, verb
from skyhold.cli.output import counted

ROLLBACK: Final = "Give up the changes that this machine has seen and the buckets do not show any more?"


@verb(
    click.Argument(["url"]),
    click.Option(
        ["--accept-rollback"],
        is_flag=True,
        help="Take the refs as the buckets show them now, though this machine has seen newer ones.",
    ),
    yes_option(),
    examples=("skyhold connect s3://models-eu/skyhold", "SKYHOLD_KEY_FILE=~/team.key skyhold connect ./cloud-a"),
    exits=(2, 3, 6, 8, 10),
    changes=True,
)
def command(session: Session, *, url: str, accept_rollback: bool, yes: bool) -> None:
    """Join an existing store by the URL of any of its buckets.

    The store describes itself: its other buckets are found from the first. It is remembered on this machine, so that
    later commands need no --store while it is the only one.

    A machine remembers how new the refs were that it has seen, and refuses older ones. After a recovery on purpose, or
    where newer ones are lost for good, --accept-rollback makes it forget that, once.
    """
    from skyhold.cli.render import line, marked
    from skyhold.registry import store

    if accept_rollback:
        confirm(ROLLBACK, yes=yes)
    with session.unseal(
        session.settings(), lambda settings: store.connect(url, settings=settings, accept_rollback=accept_rollback)
    ) as joined:
        names = joined.bucket_names
        session.output.show(
            {"store": joined.id, "sealed": joined.sealed, "engine": joined.engine, "bucket_names": names},
            quiet=[joined.id],
            human=lambda: line(
                "Joined store ", marked(joined.id, "id"), f" of {counted(len(names), 'bucket')}: {', '.join(names)}"
            ),
        )
        session.output.next_step("skyhold list")
