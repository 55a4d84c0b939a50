"""`skyhold connect`"""

from __future__ import annotations

import click

from skyhold.cli.command import Session, verb
from skyhold.cli.output import counted


@verb(
    click.Argument(["url"]),
    examples=("skyhold connect s3://models-eu/skyhold", "SKYHOLD_KEY_FILE=~/team.key skyhold connect ./cloud-a"),
    exits=(2, 3, 6, 8, 10),
    changes=True,
)
def command(session: Session, *, url: str) -> None:
    """Join an existing store by the URL of any of its buckets.

    The store describes itself: its other buckets are found from the first. It is remembered on this machine, so that
    later commands need no --store while it is the only one.
    """
    from skyhold.cli.render import line, marked
    from skyhold.registry import store

    with session.unseal(session.settings(), lambda settings: store.connect(url, settings=settings)) as joined:
        names = joined.bucket_names
        session.output.show(
            {"store": joined.id, "sealed": joined.sealed, "engine": joined.engine, "bucket_names": names},
            quiet=[joined.id],
            human=lambda: line(
                "Joined store ", marked(joined.id, "id"), f" of {counted(len(names), 'bucket')}: {', '.join(names)}"
            ),
        )
        session.output.next_step("skyhold list")
